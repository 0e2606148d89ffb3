//! Threads of ours in somebody else's process.

use std::io;
use std::thread::Builder;

use crate::sys::raw;

/// Signals are for the threads of the program that uses us: this one takes none.
pub fn spawn_without_signals(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mask = raw::sigprocmask(raw::SIG_BLOCK, u64::MAX);
    let answer = Builder::new().name(name.to_owned()).spawn(run);
    raw::sigprocmask(raw::SIG_SETMASK, mask);
    answer.map(drop)
}
