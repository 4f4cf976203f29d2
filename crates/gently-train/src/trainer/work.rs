//! The loop: updates, and what is due between them.

use std::time::Instant;

use gently_tensor::{Grads, profile};
use serde::Serialize;

use super::diagnose::{DIAGNOSTIC_FILE, diagnose};
use super::session::Session;
use super::{evaluate, sample};
use crate::data::Batch;
use crate::events::{Evaluated, Finished, Reason, Sampled, SpikeSkipped, Split, Step};
use crate::optim::norm::{clip_factor, global_norm};
use crate::plan;
use crate::profile::STEP;
use crate::{Error, Event, Result};

/// One line of `metrics.jsonl`. What is measured by a clock stands in `tokens_per_second`, `utilisation` and `seconds`;
/// everything else is the same in every run of the same recipe.
#[derive(Debug, Default, Serialize)]
struct Line {
    step: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    train_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    val_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_norm: Option<f64>,
    tokens: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    utilisation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<Split>,
}

/// One line of `samples.jsonl`.
#[derive(Serialize)]
struct SampleLine<'a> {
    step: u64,
    prompt: &'a str,
    text: &'a str,
}

impl Session {
    /// Runs to the end.
    pub fn run(mut self) -> Result<Finished> {
        self.work().map_err(|error| self.explained(error)).and_then(|total| self.finish(total))
    }

    /// An error with where it left the run, if it does not say so itself.
    fn explained(&self, error: Error) -> Error {
        match error.is_out_of_memory() {
            true => Error::OutOfMemory {
                step: self.state.step + 1,
                last_good: self.checkpoints.latest().ok().flatten(),
                source: Box::new(error),
            },
            false => error,
        }
    }

    fn work(&mut self) -> Result<Split> {
        let first = self.state.step;
        let mut total = Split::default();
        // A run taken up at step 0 has its line of step 0 already.
        let fresh = self.saved.is_none();
        if fresh && self.config.eval.at_start && self.data.val.is_some() {
            let val_loss = self.evaluate()?;
            self.metrics.append(&Line { val_loss, ..Line::default() })?;
        }
        if fresh && self.config.sample.at_start {
            self.sample()?;
        }
        let begun = Instant::now();
        while self.state.step < self.config.train.steps && !self.stop.is_asked() {
            self.begin_profile();
            let mut step = self.update()?;
            add(&mut total, &step.seconds);
            let done = self.state.step - first;
            let left = self.config.train.steps - self.state.step;
            step.eta = begun.elapsed().as_secs_f64() / done as f64 * left as f64;
            self.tell(&Event::Step(step.clone()))?;

            let (now, last) = (self.state.step, left == 0);
            let due = |every: u64| last || (every > 0 && now.is_multiple_of(every));
            let mut line = Line::from(&step);
            let mut improved = false;
            if due(self.config.eval.every) && self.data.val.is_some() {
                line.val_loss = self.evaluate()?;
                improved = self.state.best.is_some_and(|best| best.step == now);
            }
            if self.config.sample.every > 0 && due(self.config.sample.every) {
                self.sample()?;
            }
            self.metrics.append(&line)?;
            if due(self.config.checkpoint.every) || (improved && self.config.checkpoint.best) {
                self.save()?;
            }
            self.end_profile(last || self.stop.is_asked())?;
        }
        if self.saved != Some(self.state.step) {
            self.save()?;
        }
        Ok(total)
    }

    /// One update: batches, gradients, clipping, optimizer.
    fn update(&mut self) -> Result<Step> {
        let _step = profile::phase(STEP);
        let begun = Instant::now();
        let phase = profile::phase("data");
        let mut batches = Vec::new();
        for _ in 0..self.config.train.accumulate {
            batches.extend(self.passes.micro_batches(self.data.train.next_batch()?));
        }
        drop(phase);
        let data = begun.elapsed().as_secs_f64();

        let at = self.state.step;
        let mut grads = Grads::new();
        let measured = self.passes.gradients(&self.model, at, &batches, &mut grads)?;
        let between = Instant::now();
        let phase = profile::phase("gradient norm");
        let norm = global_norm(self.model.params(), &grads)?;
        drop(phase);
        if !measured.loss.is_finite() || !norm.is_finite() {
            drop(grads);
            return Err(self.not_finite(&batches)?);
        }
        let lr = self.schedule.rate(at);
        let skipped = self.is_spike(measured.loss, norm)?;
        if !skipped {
            let factor = clip_factor(norm, self.config.train.clip);
            let _phase = profile::phase("optimizer");
            self.optim.step(&grads, lr, factor)?;
        }
        drop(grads);
        let optimizer = between.elapsed().as_secs_f64();

        let tokens = batches.iter().map(|b| b.ids.len() as u64).sum::<u64>();
        self.state.step += 1;
        self.state.tokens += tokens;
        self.state.train_loss = Some(measured.loss);
        let seconds = Split {
            total: begun.elapsed().as_secs_f64(),
            data,
            forward: measured.forward,
            backward: measured.backward,
            optimizer,
        };
        let tokens_per_second = tokens as f64 / seconds.total.max(1e-9);
        let flops = self.model.flops_per_token(self.config.train.block) as f64 * tokens_per_second;
        let peak = self.machine.peak_flops;
        Ok(Step {
            step: self.state.step,
            loss: measured.loss,
            lr,
            grad_norm: norm,
            tokens: self.state.tokens,
            step_tokens: tokens,
            skipped,
            seconds,
            tokens_per_second,
            utilisation: if peak > 0.0 { flops / peak } else { 0.0 },
            eta: 0.0,
        })
    }

    /// Finds out what broke, writes it down, and makes the error that stops the run.
    fn not_finite(&mut self, batches: &[Batch]) -> Result<Error> {
        let found = diagnose(&self.model, &self.passes, self.state.step, batches)?;
        let text = serde_json::to_vec_pretty(&found).unwrap_or_default();
        gently_formats::atomic::write(self.folder.join(DIAGNOSTIC_FILE), &text)?;
        let error = found.into_error(self.checkpoints.latest()?);
        self.say(&format!("stopped: {error}"))?;
        Ok(error)
    }

    fn is_spike(&mut self, loss: f64, norm: f64) -> Result<bool> {
        let loss_z = self.state.losses.push(loss);
        let norm_z = self.state.norms.push(norm);
        let above = |z: Option<f64>| z.is_some_and(|z| z > self.config.spike.z);
        if !self.config.spike.skip || !(above(loss_z) || above(norm_z)) {
            return Ok(false);
        }
        let event = SpikeSkipped {
            step: self.state.step + 1,
            loss,
            loss_z: loss_z.unwrap_or(0.0),
            grad_norm: norm,
            grad_norm_z: norm_z.unwrap_or(0.0),
        };
        self.say(&format!("spike at step {}: loss {loss}, gradient norm {norm}; update left out", event.step))?;
        self.tell(&Event::SpikeSkipped(event))?;
        Ok(true)
    }

    fn evaluate(&mut self) -> Result<Option<f64>> {
        let _phase = profile::phase("evaluation");
        let begun = Instant::now();
        let Some(val) = &self.data.val else {
            return Ok(None);
        };
        let (loss, tokens) = evaluate::evaluate(&self.model, &self.passes, val)?;
        let event = Evaluated {
            step: self.state.step,
            loss,
            tokens,
            best: self.state.note_val(loss),
            seconds: begun.elapsed().as_secs_f64(),
        };
        self.say(&format!("step {}: validation loss {loss:.4}", event.step))?;
        self.tell(&Event::Evaluated(event))?;
        Ok(Some(loss))
    }

    fn sample(&mut self) -> Result<()> {
        let _phase = profile::phase("samples");
        let (settings, seed) = (&self.config.sample, self.config.train.seed);
        let tokenizer = &self.data.tokenizer;
        let texts = sample::write(&self.model, &self.passes, tokenizer, &self.prompts, settings, seed)?;
        let step = self.state.step;
        for (prompt, text) in self.prompts.clone().into_iter().zip(texts) {
            let prompt = prompt.text;
            self.samples.append(&SampleLine { step, prompt: &prompt, text: &text })?;
            self.tell(&Event::Sampled(Sampled { step, prompt, text }))?;
        }
        Ok(())
    }

    fn finish(mut self, split: Split) -> Result<Finished> {
        let complete = self.state.step >= self.config.train.steps;
        let finished = Finished {
            step: self.state.step,
            reason: if complete { Reason::Complete } else { Reason::Stopped },
            train_loss: self.state.train_loss,
            val_loss: self.state.val_loss,
            best: self.state.best.map(|best| (best.step, best.loss)),
            tokens: self.state.tokens,
            seconds: self.begun.elapsed().as_secs_f64(),
            split,
            planned_bytes: self.plan.total(),
            measured_bytes: plan::peak_resident(),
            checkpoint: self.checkpoints.latest()?,
        };
        let measured = finished.measured_bytes.unwrap_or(0);
        self.say(&format!(
            "{} after step {}; peak memory {measured} bytes, planned {}",
            if complete { "complete" } else { "stopped" },
            finished.step,
            finished.planned_bytes
        ))?;
        self.tell(&Event::Finished(finished.clone()))?;
        Ok(finished)
    }
}

impl From<&Step> for Line {
    fn from(step: &Step) -> Self {
        Self {
            step: step.step,
            train_loss: Some(step.loss),
            val_loss: None,
            lr: Some(step.lr),
            grad_norm: Some(step.grad_norm),
            tokens: step.tokens,
            skipped: step.skipped,
            tokens_per_second: Some(step.tokens_per_second),
            utilisation: Some(step.utilisation),
            seconds: Some(step.seconds),
        }
    }
}

fn add(total: &mut Split, step: &Split) {
    total.total += step.total;
    total.data += step.data;
    total.forward += step.forward;
    total.backward += step.backward;
    total.optimizer += step.optimizer;
}
