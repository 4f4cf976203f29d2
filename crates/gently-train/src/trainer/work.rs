//! The loop: updates, and what is due between them.

use std::time::Instant;

use gently_models::flops::Cost;
use gently_tensor::{Grads, profile};
use serde::Serialize;

use super::diagnose::{DIAGNOSTIC_FILE, Diagnosis, diagnose};
use super::session::Session;
use super::state::Line;
use super::step::operations;
use super::{evaluate, sample};
use crate::events::{Evaluated, Finished, Reason, Sampled, SpikeSkipped, Split, Step};
use crate::optim::norm::{clip_factor, global_norm};
use crate::process_memory;
use crate::profile::STEP;
use crate::{Error, Event, Result};

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
        let ended = match self.work() {
            Ok(total) => self.finish(total),
            Err(error) => Err(self.explained(error)),
        };
        ended.map_err(|error| self.failed(error))
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
        // A run taken up at step 0 has what belongs to it, or has it pending.
        if self.saved.is_none() {
            self.state.pending = Some(Line::default());
        }
        self.tell_pending()?;
        let mut going = self.flush()?;
        let begun = Instant::now();
        while going && self.state.step < self.config.train.steps && !self.stop.is_asked() {
            self.begin_profile();
            let Some(mut step) = self.update()? else {
                break;
            };
            add(&mut total, &step.seconds);
            let done = self.state.step - first;
            let left = self.config.train.steps - self.state.step;
            step.eta = begun.elapsed().as_secs_f64() / done as f64 * left as f64;
            self.tell(&Event::Step(step.clone()))?;

            self.state.pending = Some(Line::from(&step));
            going = self.flush()?;
            self.note_profile()?;
        }
        // Also where an update was given up: those before it took their time all the same.
        self.end_profile()?;
        if self.saved != Some(self.state.step) {
            self.save()?;
        }
        Ok(total)
    }

    /// What the process before knew of the step that is still pending: its line is in no file yet, and who watched that process is
    /// gone. Who keeps a file of its own, which may have the step, hears of it in `RunStarted`.
    fn tell_pending(&mut self) -> Result<()> {
        let Some(line) = self.state.pending.clone() else {
            return Ok(());
        };
        let train = &self.config.train;
        let step_tokens = (train.batch * train.block * train.accumulate) as u64;
        if let Some(spike) = self.state.spike {
            self.tell(&Event::SpikeSkipped(spike))?;
        }
        if let Some(step) = line.as_step(step_tokens) {
            self.tell(&Event::Step(step))?;
        }
        if let Some(loss) = line.val_loss {
            let best = self.state.best.is_some_and(|best| best.step == line.step);
            self.tell(&Event::Evaluated(Evaluated { step: line.step, loss, best, ..Evaluated::default() }))?;
        }
        Ok(())
    }

    /// What is due after the present step: evaluation, samples, its line, a checkpoint. False when somebody asked to stop before
    /// that was done, so that it stays pending.
    fn flush(&mut self) -> Result<bool> {
        let Some(mut line) = self.state.pending.clone() else {
            return Ok(true);
        };
        let (now, last) = (self.state.step, self.state.step == self.config.train.steps);
        let due = |every: u64, at_start: bool| match now {
            0 => at_start,
            _ => last || (every > 0 && now.is_multiple_of(every)),
        };
        let (eval, samples) = (&self.config.eval, &self.config.sample);
        let evaluates = due(eval.every, eval.at_start) && self.data.val.is_some();
        let writes = due(samples.every, samples.at_start) && (samples.every > 0 || now == 0);
        if evaluates && line.val_loss.is_none() {
            line.val_loss = self.evaluate()?;
            if line.val_loss.is_none() {
                return Ok(false);
            }
            self.state.pending = Some(line.clone());
        }
        if writes && !self.sample()? {
            return Ok(false);
        }
        (self.state.pending, self.state.spike) = (None, None);
        // Step 0 has a line only for its loss.
        if now > 0 || evaluates {
            self.metrics.append(&line)?;
        }
        let improved = evaluates && self.state.best.is_some_and(|best| best.step == now);
        // What was pending is made again where it is taken up: its checkpoint, which says so, stays as it is.
        let saves = self.saved != Some(now) && now > 0;
        if saves && (due(self.config.checkpoint.every, false) || (improved && self.config.checkpoint.best)) {
            self.save()?;
        }
        Ok(true)
    }

    /// One update: batches, gradients, clipping, optimizer. `None` when somebody asked to stop before the gradients were there:
    /// all is as it was then.
    fn update(&mut self) -> Result<Option<Step>> {
        let _step = profile::phase(STEP);
        let begun = Instant::now();
        let before = self.data.train.position();
        let phase = profile::phase("data");
        let at = self.state.step;
        let batches = match self.passes.draw(&mut *self.data.train, self.config.train.accumulate, at, &self.stop) {
            Ok(Some(batches)) => batches,
            Ok(None) => {
                self.data.train.seek(&before)?;
                return Ok(None);
            }
            Err(error @ Error::NothingToLearn { .. }) => {
                // No later process gets past it, so what was learned until here is all that there will be.
                self.data.train.seek(&before)?;
                if at > 0 && self.saved != Some(at) {
                    self.save()?;
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        drop(phase);
        let data = begun.elapsed().as_secs_f64();

        let mut grads = Grads::new();
        let Some(measured) = self.passes.gradients(&self.model, at, &batches, &mut grads, &self.stop)? else {
            self.data.train.seek(&before)?;
            return Ok(None);
        };
        let between = Instant::now();
        let phase = profile::phase("gradient norm");
        let norm = global_norm(self.model.params(), &grads)?;
        drop(phase);
        if !measured.loss.is_finite() || !norm.is_finite() {
            drop(grads);
            let found = diagnose(&self.model, &self.passes, at, &batches)?;
            return Err(self.not_finite(found)?);
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
        let flops = operations(&Cost::of(self.model.config()), &batches) / seconds.total.max(1e-9);
        let peak = self.machine.peak_flops;
        Ok(Some(Step {
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
        }))
    }

    /// Writes down what broke, and makes the error that stops the run.
    pub(super) fn not_finite(&self, found: Diagnosis) -> Result<Error> {
        let text = serde_json::to_vec_pretty(&found).unwrap_or_default();
        gently_formats::atomic::write(self.folder.join(DIAGNOSTIC_FILE), &text)?;
        Ok(found.into_error(self.checkpoints.latest()?))
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
        self.state.spike = Some(event);
        self.say(&format!("spike at step {}: loss {loss:.4}, gradient norm {norm:.4}; update left out", event.step))?;
        self.tell(&Event::SpikeSkipped(event))?;
        Ok(true)
    }

    /// The loss on the validation split, if there is one; `None` also when somebody asked to stop meanwhile.
    fn evaluate(&mut self) -> Result<Option<f64>> {
        let _phase = profile::phase("evaluation");
        let begun = Instant::now();
        let Some(val) = &self.data.val else {
            return Ok(None);
        };
        let Some((loss, tokens)) = evaluate::evaluate(&self.model, &self.passes, val, &self.stop)? else {
            return Ok(None);
        };
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

    /// Writes samples; false when somebody asked to stop meanwhile.
    fn sample(&mut self) -> Result<bool> {
        let _phase = profile::phase("samples");
        let (settings, seed) = (&self.config.sample, self.config.train.seed);
        let tokenizer = &self.data.tokenizer;
        let (model, passes) = (&self.model, &self.passes);
        let Some(texts) = sample::write(model, passes, tokenizer, &self.prompts, settings, seed, &self.stop)? else {
            return Ok(false);
        };
        let step = self.state.step;
        for (prompt, text) in self.prompts.clone().into_iter().zip(texts) {
            let prompt = prompt.text;
            self.samples.append(&SampleLine { step, prompt: &prompt, text: &text })?;
            self.tell(&Event::Sampled(Sampled { step, prompt, text }))?;
        }
        Ok(true)
    }

    fn finish(&mut self, split: Split) -> Result<Finished> {
        let complete = self.state.step >= self.config.train.steps && self.state.pending.is_none();
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
            measured_bytes: process_memory::peak_resident(),
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

fn add(total: &mut Split, step: &Split) {
    total.total += step.total;
    total.data += step.data;
    total.forward += step.forward;
    total.backward += step.backward;
    total.optimizer += step.optimizer;
}
