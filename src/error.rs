//! What can go wrong, before it becomes a Python exception.

use std::borrow::Cow;

use crate::sys::platform::procfs::ProcessInfo;
use crate::sys::wire::Step;

#[derive(Debug, Clone)]
pub enum Error {
    /// The job was closed or detached.
    Closed,
    /// This process is a forked copy of the one that made the job.
    Forked,
    /// The job's supervisor was killed by somebody else; all members are being killed.
    Lost,
    /// A Python signal handler raised; the exception waits with the caller.
    Interrupted,
    /// A bad argument, found before anything was started.
    Invalid(Cow<'static, str>),
    /// A program could not be started; `file` is what the reason is about.
    Start {
        step: Step,
        errno: i32,
        file: Option<Vec<u8>>,
    },
    /// The system or one of its limits has no more of something.
    Exhausted {
        step: &'static str,
        errno: i32,
    },
    /// A step (to follow "failed to") that nothing should have kept from working.
    System {
        step: Cow<'static, str>,
        errno: i32,
    },
    Unsupported(Cow<'static, str>),
    KillFailed(Vec<ProcessInfo>),
}

pub type Result<T> = std::result::Result<T, Error>;

const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ETOOMANYREFS: i32 = 109;

impl Error {
    /// For a call of ours that failed: running out of something is told apart.
    pub fn system(step: &'static str, errno: i32) -> Error {
        match resource(errno) {
            Some(_) => Error::Exhausted { step, errno },
            None => Error::System { step: step.into(), errno },
        }
    }

    /// For the answer to a start.
    pub fn start(step: Step, errno: i32, file: Option<&[u8]>) -> Error {
        let exhausted = resource(errno).is_some() && !matches!(step, Step::Directory | Step::Exec);
        if exhausted {
            Error::Exhausted { step: step.describe(), errno }
        } else {
            Error::Start { step, errno, file: file.map(<[u8]>::to_vec) }
        }
    }

    /// The same may work once some process of ours has ended.
    pub fn is_exhaustion(&self) -> bool {
        matches!(self, Error::Exhausted { .. })
    }
}

/// Of what there is no more.
pub fn resource(errno: i32) -> Option<&'static str> {
    match errno {
        EAGAIN => Some("processes"),
        ENOMEM => Some("memory"),
        EMFILE | ENFILE | ETOOMANYREFS => Some("descriptors"),
        _ => None,
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Error {
        Error::system("use a descriptor", errno.raw_os_error())
    }
}
