//! The command of a batch: it has this process's terminal, and gets the signals that this process gets.

use std::{ffi::OsString, fs::File, io};

use rustix::{
    process::{Pid, Signal, getpgrp, kill_process},
    termios::tcgetpgrp,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{self, SignalKind},
};

use crate::error::CommandError;

/// The signals that would end this process. From [`Signals::take`] on they do not.
pub(super) struct Signals {
    interrupt: unix::Signal,
    quit: unix::Signal,
    hangup: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    pub(super) fn take() -> Result<Self, CommandError> {
        let take = |kind| unix::signal(kind).map_err(|e| CommandError::failed(&e));
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            quit: take(SignalKind::quit())?,
            hangup: take(SignalKind::hangup())?,
            terminate: take(SignalKind::terminate())?,
        })
    }

    /// The next signal. It may be cancelled.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }
}

/// Starts the command with this process's input and output.
pub(super) fn start(command: &[OsString]) -> io::Result<Child> {
    let Some((program, arguments)) = command.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    Command::new(program).args(arguments).spawn()
}

/// Sends the command a signal that this process got, unless the terminal has sent it to both.
pub(super) fn pass_on(child: &Child, signal: Signal) {
    if signal != Signal::TERM && is_in_front() {
        return;
    }
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // One that has ended needs none.
        let _ = kill_process(pid, signal);
    }
}

/// Whether this process is in the group of processes that gets the signals of the terminal.
fn is_in_front() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp()))
}
