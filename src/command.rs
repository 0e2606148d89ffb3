//! What to start: validated data, before anything is done with it.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sys::platform::inherit::{self, Directory};

/// What stands behind a standard stream of the child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Inherit,
    Null,
    /// The caller has the other end.
    Pipe,
    /// Collected in the background.
    Capture,
    /// Where standard output goes.
    Stdout,
    Descriptor(i32),
}

impl Stream {
    /// `subprocess`' numbers, with -4 for `CAPTURE` and -5 for the owner's own.
    pub fn from_code(code: i32) -> Result<Stream> {
        Ok(match code {
            -1 => Stream::Pipe,
            -2 => Stream::Stdout,
            -3 => Stream::Null,
            -4 => Stream::Capture,
            -5 => Stream::Inherit,
            0.. => Stream::Descriptor(code),
            _ => return Err(Error::Invalid(format!("{code} is not a stream or a descriptor").into())),
        })
    }
}

/// How to start; shared by any number of commands.
#[derive(Clone, Debug)]
pub struct Options {
    pub streams: [Stream; 3],
    /// NUL-terminated; empty: the owner's.
    pub directory: Vec<u8>,
    /// NUL-terminated `KEY=VALUE` texts; `None`: the owner's.
    pub environment: Option<Arc<[u8]>>,
    /// NUL-terminated; empty: the first argument.
    pub executable: Vec<u8>,
    pub pass_fds: Vec<i32>,
    pub suspended: bool,
    pub restore_signals: bool,
    pub umask: Option<u32>,
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub groups: Option<Vec<u32>>,
    pub new_session: bool,
    pub process_group: Option<i32>,
    pub pipe_size: Option<usize>,
    pub max_output: Option<usize>,
    pub input: Option<Arc<[u8]>>,
    /// Seconds.
    pub timeout: Option<f64>,
    pub grace: f64,
    pub keep_leftovers: bool,
}

impl Options {
    /// What the types allow but the system does not.
    pub fn validate(&self) -> Result<()> {
        let invalid = |message: &'static str| Err(Error::Invalid(message.into()));
        if self.streams[..2].contains(&Stream::Stdout) {
            return invalid("STDOUT is for stderr only");
        }
        if self.streams[0] == Stream::Capture {
            return invalid("stdin can't be CAPTURE");
        }
        if self.input.is_some() && self.streams[0] != Stream::Pipe {
            return invalid("input needs stdin to be a pipe");
        }
        if self.timeout.is_some_and(f64::is_nan) || self.grace.is_nan() || self.grace < 0.0 {
            return invalid("timeout and grace are seconds; grace is not negative");
        }
        Ok(())
    }

    /// Descriptors named by the caller must be open when a command is started.
    pub fn check_descriptors(&self) -> Result<()> {
        let streams = self.streams.iter().filter_map(|stream| match stream {
            Stream::Descriptor(fd) => Some(fd),
            _ => None,
        });
        for fd in streams.chain(&self.pass_fds) {
            if inherit::descriptor(*fd).is_none() {
                return Err(Error::Start {
                    step: crate::sys::wire::Step::Descriptors,
                    errno: rustix::io::Errno::BADF.raw_os_error(),
                    file: None,
                });
            }
        }
        Ok(())
    }
}

/// NUL-terminated, or an error naming what it is.
pub fn terminated(text: &[u8], what: &'static str) -> Result<Vec<u8>> {
    if text.contains(&0) {
        return Err(Error::Invalid(format!("embedded null byte in {what}").into()));
    }
    let mut terminated = Vec::with_capacity(text.len() + 1);
    terminated.extend_from_slice(text);
    terminated.push(0);
    Ok(terminated)
}

/// One thing to start, with all that it takes from this process at this moment.
#[derive(Clone, Debug)]
pub struct Command {
    /// NUL-terminated texts, one after the other.
    pub argv: Vec<u8>,
    pub options: Arc<Options>,
    pub environment: Arc<[u8]>,
    pub directory: Option<Arc<Directory>>,
}

impl Command {
    /// What start errors are about.
    pub fn program(&self) -> &[u8] {
        let text = if self.options.executable.is_empty() { &self.argv } else { &self.options.executable };
        text.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}
