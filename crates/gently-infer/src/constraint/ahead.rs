//! Masks beside the pass: while the model computes logits, another thread finds out which tokens may be chosen.

use super::Guide;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Room for grammars that are nested deeply.
const STACK: usize = 16 << 20;

type Job = (usize, Box<Guide>);

/// A thread that computes masks, started with the first one. Where there can be none, masks are computed at once: what comes
/// out is the same.
#[derive(Default)]
pub(crate) struct Ahead {
    thread: Option<(Sender<Job>, Receiver<Job>)>,
    tried: bool,
    /// Sent and not yet back.
    away: usize,
    /// Computed here.
    here: Vec<Job>,
}

impl Ahead {
    /// Begins to compute the mask of the guide of sequence `index`.
    pub fn begin(&mut self, index: usize, guide: Box<Guide>) {
        if !self.tried {
            self.tried = true;
            self.thread = start();
        }
        let mut job = (index, guide);
        if let Some((jobs, _)) = &self.thread {
            match jobs.send(job) {
                Ok(()) => {
                    self.away += 1;
                    return;
                }
                Err(back) => job = back.0,
            }
        }
        job.1.prepare();
        self.here.push(job);
    }

    /// Waits for all masks and gives the guides back. A guide that does not come back is lost: its request must end.
    pub fn finish(&mut self, mut back: impl FnMut(usize, Box<Guide>)) {
        for (index, guide) in self.here.drain(..) {
            back(index, guide);
        }
        while self.away > 0 {
            self.away -= 1;
            match self.thread.as_ref().map(|t| t.1.recv()) {
                Some(Ok((index, guide))) => back(index, guide),
                _ => self.thread = None,
            }
        }
    }
}

fn start() -> Option<(Sender<Job>, Receiver<Job>)> {
    let (jobs, work) = channel::<Job>();
    let (out, done) = channel();
    let serve = move || {
        for (index, mut guide) in work {
            guide.prepare();
            if out.send((index, guide)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("gently-masks".into()).stack_size(STACK);
    thread.spawn(serve).ok().map(|_| (jobs, done))
}
