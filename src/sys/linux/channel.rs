//! The owner's end of the socket to a supervisor.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// At most so many descriptors travel with one message; the supervisor has room for all of them.
pub const MOST_DESCRIPTORS: usize = 64;

/// What the socket did not take at once.
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// Sends frames in order; what does not fit waits here until the socket is writable again.
#[derive(Default)]
pub struct Outgoing {
    waiting: VecDeque<Chunk>,
}

impl Outgoing {
    /// True when all was sent; false: call `flush` when the socket is writable.
    pub fn send(&mut self, socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd]) -> Result<bool, Errno> {
        let mut sent = 0;
        if self.waiting.is_empty() {
            sent = send_some(&socket, bytes, fds)?;
            if sent == bytes.len() {
                return Ok(true);
            }
        }
        let left = if sent == 0 { fds } else { &[] };
        let fds = left.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0)).collect::<Result<_, _>>()?;
        self.waiting.push_back(Chunk { bytes: bytes[sent..].to_vec(), sent: 0, fds });
        Ok(false)
    }

    /// True when nothing waits any more.
    pub fn flush(&mut self, socket: impl AsFd) -> Result<bool, Errno> {
        while let Some(chunk) = self.waiting.front_mut() {
            let fds: Vec<BorrowedFd> = chunk.fds.iter().map(AsFd::as_fd).collect();
            let sent = send_some(&socket, &chunk.bytes[chunk.sent..], &fds)?;
            if sent == 0 {
                return Ok(false);
            }
            chunk.fds.clear();
            chunk.sent += sent;
            if chunk.sent == chunk.bytes.len() {
                self.waiting.pop_front();
            }
        }
        Ok(true)
    }
}

fn send_some(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            answer => return answer,
        }
    }
}

/// Appends what has come. `Ok(0)` is the end; `Err(AGAIN)`: nothing more now.
pub fn receive(
    socket: impl AsFd,
    scratch: &mut [u8],
    input: &mut Vec<u8>,
    received: &mut VecDeque<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let answer = recvmsg(socket, &mut [IoSliceMut::new(scratch)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            received.extend(fds);
        }
    }
    input.extend_from_slice(&scratch[..answer.bytes]);
    Ok(answer.bytes)
}
