//! Readiness of descriptors (man 7 epoll), for the one thread that waits for all of them.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::time::Timespec;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    Readable,
    Writable,
    Both,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Readable => EventFlags::IN,
            Interest::Writable => EventFlags::OUT,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
        }
    }
}

const WAKE: u64 = u64::MAX;

pub struct Poll {
    epoll: OwnedFd,
    wake: OwnedFd,
}

/// One source that is ready.
pub struct Ready {
    pub token: u64,
    pub writable: bool,
    /// Readable, or at its end.
    pub readable: bool,
}

impl Poll {
    pub fn new() -> rustix::io::Result<Poll> {
        let poll = Poll {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        poll.add(&poll.wake, WAKE, Interest::Readable)?;
        Ok(poll)
    }

    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, source, EventData::new_u64(token), interest.flags())
    }

    pub fn modify(&self, source: impl AsFd, token: u64, interest: Interest) -> rustix::io::Result<()> {
        epoll::modify(&self.epoll, source, EventData::new_u64(token), interest.flags())
    }

    /// Before the descriptor is closed: a copy of it elsewhere would keep it in the set.
    pub fn remove(&self, source: impl AsFd) {
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Ends a `wait` that is under way, or the next one.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub fn wait(&self, at_most: Option<Duration>, ready: &mut Vec<Ready>) {
        let timeout = at_most.and_then(|time| Timespec::try_from(time).ok());
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 128];
        ready.clear();
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) else { return };
        for event in events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token == WAKE {
                let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
                continue;
            }
            let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            ready.push(Ready {
                token,
                writable: gone || flags.contains(EventFlags::OUT),
                readable: gone || flags.contains(EventFlags::IN),
            });
        }
    }
}

/// Until one descriptor is readable, or so many milliseconds have passed.
pub fn wait_readable(fd: impl AsFd, milliseconds: u32) {
    let fd = fd.as_fd();
    let timeout = Timespec::try_from(Duration::from_millis(milliseconds.into())).ok();
    let _ = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref());
}
