//! The live dashboard (`--tui`): loss curves, speed, where the time goes, memory against the plan, the newest sample
//! and the log, in a terminal.
//!
//! Here: the observer, its thread and its keys. `draw` makes the picture, `screen` takes and gives back the
//! terminal. Not here: any number; they come from [`History`].
//!
//! The training thread only puts events into a channel; everything else happens in the dashboard's own thread,
//! ten times a second.
//!
//! ```no_run
//! # fn main() -> gently_train::Result<()> {
//! use gently_train::{StopHandle, watch::Dashboard};
//! let stop = StopHandle::new();
//! let dashboard = Dashboard::start(stop.clone())?;
//! // give the dashboard and the handle to the trainer
//! # drop(dashboard); Ok(()) }
//! ```

mod draw;
mod screen;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::SIGINT;

use self::draw::{Status, Theme};
use self::screen::Screen;
pub(crate) use self::screen::leave as give_terminal_back;
use super::history::History;
use super::summary;
use crate::events::Event;
use crate::stop::end_at_once;
use crate::{Error, Observer, Result, StopHandle};

/// Time between pictures, and the longest wait for a key.
const TICK: Duration = Duration::from_millis(100);

/// Draws the run in the terminal until it ends. Keys: `q` (or Ctrl-C) asks the trainer to save and stop, and a second time ends
/// the process at once, as a second signal does (see [`StopHandle::on_signals`]); `p` pauses and resumes drawing.
pub struct Dashboard {
    /// What is to be said when the terminal is given back.
    last_words: Vec<String>,
    events: Option<Sender<Event>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Dashboard {
    /// Takes the terminal and starts drawing. `stop` is what `q` uses.
    ///
    /// # Errors
    /// Standard error and standard input are not both a terminal, or the terminal refuses.
    pub fn start(stop: StopHandle) -> Result<Self> {
        if !(io::stderr().is_terminal() && io::stdin().is_terminal()) {
            let why = "the dashboard needs a terminal on standard error and standard input";
            return Err(failed(io::Error::new(io::ErrorKind::Unsupported, why)));
        }
        let screen = Screen::enter().map_err(failed)?;
        let (events, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("dashboard".into())
            .spawn(move || show(screen, &inbox, &stop))
            .map_err(failed)?;
        Ok(Self { last_words: Vec::new(), events: Some(events), thread: Some(thread) })
    }

    /// Ends the thread, which gives the terminal back.
    fn close(&mut self) -> Result<()> {
        drop(self.events.take());
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(failed(error)),
            Some(Err(_)) => Err(failed(io::Error::other("the dashboard's thread panicked"))),
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Observer { name: "the dashboard".into(), source: Box::new(source) }
}

impl Observer for Dashboard {
    fn on(&mut self, event: &Event) -> Result<()> {
        let delivered = self.events.as_ref().is_none_or(|events| events.send(event.clone()).is_ok());
        if !delivered {
            // The thread is gone, and only an error ends it early.
            return self.close();
        }
        self.last_words.extend(last_words(event));
        if matches!(event, Event::Finished(_) | Event::Failed(_)) {
            let closed = self.close();
            for text in self.last_words.drain(..) {
                eprintln!("{text}");
            }
            return closed;
        }
        Ok(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // A run that failed has its own error to tell; the terminal must be whole before that.
        let _ = self.close();
    }
}

/// What of an event must not go with the dashboard's screen.
fn last_words(event: &Event) -> Vec<String> {
    match event {
        Event::Profiled(profiled) => summary::profile(profiled),
        Event::Finished(end) => summary::farewell(end),
        _ => Vec::new(),
    }
}

fn show(mut screen: Screen, inbox: &Receiver<Event>, stop: &StopHandle) -> io::Result<()> {
    let mut history = History::default();
    let mut status = Status::default();
    let theme = Theme::from_environment();
    loop {
        loop {
            match inbox.try_recv() {
                Ok(event) => history.on(&event),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        if !status.paused {
            screen.draw(|frame| draw::draw(frame, &history, status, theme))?;
        }
        if event::poll(TICK)?
            && let Some(key) = meaning(&event::read()?)
        {
            if ends_at_once(key, &mut status, stop) {
                end_at_once(SIGINT);
            }
            if status.paused {
                // The last picture says that it is one, and that the run is to stop.
                screen.draw(|frame| draw::draw(frame, &history, status, theme))?;
            }
        }
    }
}

/// Does what a key means; true for the second wish to stop, which waits for nothing.
fn ends_at_once(key: Key, status: &mut Status, stop: &StopHandle) -> bool {
    match key {
        Key::Stop if status.stopping => return true,
        Key::Stop => {
            stop.stop();
            status.stopping = true;
        }
        Key::Pause => status.paused = !status.paused,
    }
    false
}

#[derive(Debug, PartialEq)]
enum Key {
    Stop,
    Pause,
}

fn meaning(input: &Input) -> Option<Key> {
    let Input::Key(key) = input else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        // In raw mode Ctrl-C is a key and no signal.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Stop),
        KeyCode::Char('q' | 'Q') => Some(Key::Stop),
        KeyCode::Char('p' | 'P') => Some(Key::Pause),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;
    use crate::events::Profiled;

    #[test]
    fn keys_mean_what_the_footer_says() {
        let press = |code, modifiers| meaning(&Input::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::NONE), Some(Key::Stop));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Stop));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(press(KeyCode::Char('p'), KeyModifiers::NONE), Some(Key::Pause));
        assert_eq!(press(KeyCode::Enter, KeyModifiers::NONE), None);
    }

    #[test]
    fn the_second_wish_to_stop_waits_for_nothing() {
        let (mut status, stop) = (Status::default(), StopHandle::new());
        assert!(!ends_at_once(Key::Pause, &mut status, &stop) && status.paused && !stop.is_asked());
        assert!(!ends_at_once(Key::Stop, &mut status, &stop) && status.stopping && stop.is_asked());
        assert!(!ends_at_once(Key::Pause, &mut status, &stop));
        assert!(ends_at_once(Key::Stop, &mut status, &stop));
    }

    #[test]
    fn a_profile_is_told_when_the_screen_is_gone() {
        let page = "run/profile.html".into();
        let told = last_words(&Event::Profiled(Profiled { first_step: 4, steps: 10, page, table: "a table".into() }));
        let all = told.join("\n");
        assert!(
            all.contains("updates 4 to 13") && all.contains("a table") && all.contains("run/profile.html"),
            "{all}"
        );
        let end = crate::watch::rehearsal::finished(10, None);
        assert_eq!(last_words(&Event::Finished(end.clone())), summary::farewell(&end));
        assert!(last_words(&Event::Warning { step: 1, message: "one".into() }).is_empty());
    }
}
