//! A run in a few lines of text: before its first step and after its last.
//!
//! Here: the lines that the progress bar and the dashboard print. Not here: anything that changes while a run goes on.
//!
//! ```
//! use gently_train::watch::summary;
//! # let end: gently_train::events::Finished = serde_json::from_str(
//! #   r#"{"step":10,"reason":"complete","train_loss":2.5,"val_loss":null,"best":null,"tokens":100,"seconds":2.0,
//! #       "split":{"total":0.0,"data":0.0,"forward":0.0,"backward":0.0,"optimizer":0.0},
//! #       "planned_bytes":0,"measured_bytes":null,"checkpoint":null}"#).unwrap();
//! assert_eq!(summary::farewell(&end)[0], "finished at step 10 after 2.0s, 100 tokens, loss 2.5000");
//! ```

use super::format;
use crate::events::{Finished, Profiled, Reason, RunStarted};

/// What a run is, before its first step.
pub fn header(run: &RunStarted) -> Vec<String> {
    let count = |n: u64| format::count(n as f64);
    let steps = run.total_steps.saturating_sub(run.start_step);
    let mut lines = vec![
        format!("run      {} in {}", run.name, run.folder.display()),
        format!("model    {}; {} parameters", run.model.description, count(run.model.parameters)),
        format!(
            "data     {}; {} tokens to learn from, {} to validate on",
            run.data.description,
            count(run.data.train_tokens),
            count(run.data.val_tokens)
        ),
        format!(
            "steps    {steps} × {} tokens = {} tokens",
            count(run.tokens_per_step),
            count(steps.saturating_mul(run.tokens_per_step))
        ),
    ];
    if run.start_step > 0 {
        lines.push(format!("resume   from step {}", run.start_step));
    }
    let parts: Vec<String> =
        run.plan.lines.iter().map(|line| format!("{} {}", line.name, format::bytes(line.bytes))).collect();
    lines.push(format!("memory   {} planned: {}", format::bytes(run.plan.total()), parts.join(", ")));
    lines.push(format!(
        "machine  {}, {} threads, {} measured peak ({})",
        run.machine.path,
        run.machine.threads,
        format::quantity(run.machine.peak_flops, "FLOP/s"),
        run.machine.compute
    ));
    lines
}

/// Where the time of some updates went, and where the page with their timeline lies.
pub fn profile(profiled: &Profiled) -> Vec<String> {
    let of = format::updates(profiled.first_step, profiled.steps);
    vec![
        format!("profile of {of}, per update:\n{}", profiled.table),
        format!("its timeline: {}", profiled.page.display()),
    ]
}

/// How a run ended.
pub fn farewell(end: &Finished) -> Vec<String> {
    let how = match end.reason {
        Reason::Complete => "finished",
        Reason::Stopped => "stopped and saved",
    };
    let mut first = format!(
        "{how} at step {} after {}, {} tokens",
        end.step,
        format::duration(end.seconds),
        format::count(end.tokens as f64)
    );
    if let Some(loss) = end.train_loss {
        first.push_str(&format!(", loss {}", format::loss(loss)));
    }
    if let Some((step, loss)) = end.best {
        first.push_str(&format!(", best validation loss {} at step {step}", format::loss(loss)));
    }
    let mut lines = vec![first];
    if let Some(measured) = end.measured_bytes {
        lines.push(format!("peak memory {} of {} planned", format::bytes(measured), format::bytes(end.planned_bytes)));
    }
    lines
}
