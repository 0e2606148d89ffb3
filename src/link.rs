//! The connection to a supervisor: frames out in order, frames in as they come.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::reaper::{Source, lock, reaper};
use crate::sys::platform::channel::{self, Outgoing};
use crate::sys::platform::poll::Interest;
use crate::sys::wire::Reader;

/// The socket and its token at the reaper.
type Socket = Arc<(OwnedFd, u64)>;

/// Bytes that are no whole frame yet, and descriptors that no frame has claimed.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

#[derive(Default)]
pub struct Link {
    /// `None` before it is opened and after its end.
    socket: Mutex<Option<Socket>>,
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Incoming>,
}

impl Link {
    /// From now on the reaper calls the job when something comes.
    pub fn open(&self, socket: OwnedFd, job: &Arc<Job>) -> Result<()> {
        let mut place = lock(&self.socket);
        let token = reaper()?.watch(&socket, Interest::Readable, Source::Job(job.clone()))?;
        *place = Some(Arc::new((socket, token)));
        Ok(())
    }

    fn socket(&self) -> Option<Socket> {
        lock(&self.socket).clone()
    }

    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd]) -> Result<()> {
        let socket = self.socket().ok_or(Error::Lost)?;
        let mut outgoing = lock(&self.outgoing);
        match outgoing.send(&socket.0, bytes, fds) {
            Ok(true) => Ok(()),
            Ok(false) => {
                reaper()?.change(&socket.0, socket.1, Interest::Both);
                Ok(())
            }
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::Lost),
            Err(errno) => Err(Error::system("send to the job's supervisor", errno.raw_os_error())),
        }
    }

    pub fn on_writable(&self) {
        let Some(socket) = self.socket() else { return };
        let mut outgoing = lock(&self.outgoing);
        if let (Ok(true), Ok(reaper)) = (outgoing.flush(&socket.0), reaper()) {
            reaper.change(&socket.0, socket.1, Interest::Readable);
        }
    }

    /// Gives each whole frame that has come to `handle`; false at the end of the connection.
    pub fn on_readable(
        &self,
        scratch: &mut [u8],
        mut handle: impl FnMut(u8, &mut Reader, &mut VecDeque<OwnedFd>, &mut [u8]),
    ) -> bool {
        let Some(socket) = self.socket() else { return true };
        let mut incoming = lock(&self.incoming);
        let Incoming { bytes, fds } = &mut *incoming;
        let answer = channel::receive(&socket.0, scratch, bytes, fds);
        let mut done = 0;
        while let Some((kind, mut body, length)) = Reader::next_frame(&bytes[done..]) {
            handle(kind, &mut body, fds, scratch);
            done += length;
        }
        bytes.drain(..done);
        matches!(answer, Ok(1..) | Err(Errno::AGAIN | Errno::INTR))
    }

    pub fn close(&self) {
        let socket = lock(&self.socket).take();
        if let (Some(socket), Ok(reaper)) = (socket, reaper()) {
            reaper.forget(&socket.0, socket.1);
        }
    }
}
