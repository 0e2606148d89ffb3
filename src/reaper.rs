//! The one background thread: exits, timers, captured output, input to be fed.
//!
//! It runs no Python and takes no interpreter lock. Handlers are called without any lock of the
//! reaper, so they may use it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::job::Job;
use crate::map::Map;
use crate::process::Process;
use crate::sys::platform::launch::{collect, expect_collected};
use crate::sys::platform::per_process::PerProcess;
use crate::sys::platform::poll::{Interest, Poll, Ready};
use crate::sys::platform::threads;

/// A lock that a panic elsewhere does not make unusable: each holder leaves the data consistent.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a descriptor that is watched belongs to.
#[derive(Clone)]
pub enum Source {
    /// The socket to a supervisor.
    Job(Arc<Job>),
    /// The captured stream of that index.
    Output(Arc<Process>, usize),
    Input(Arc<Process>),
    /// A guard whose job is closed.
    Guard(Arc<OwnedFd>),
}

/// What to do at a certain time.
pub enum Alarm {
    /// The process' timeout, or the end of the grace after it.
    Timeout(Weak<Process>),
    /// What the process left behind ought to have died by now.
    Stuck(Weak<Process>),
    /// Whoever adopted the guard ought to have collected it.
    Uncollected(Arc<OwnedFd>),
    /// Start what could not be started for want of something.
    Retry(Weak<Map>),
}

struct Timer {
    at: Instant,
    number: u64,
    alarm: Alarm,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub struct Reaper {
    poll: Poll,
    sources: Mutex<HashMap<u64, Source>>,
    timers: Mutex<BinaryHeap<Reverse<Timer>>>,
    count: AtomicU64,
    /// Whether guards are collected by whoever adopts them.
    looked: AtomicBool,
}

/// Some inits collect every few seconds only.
const INIT_PATIENCE: Duration = Duration::from_secs(10);

static REAPER: PerProcess<Reaper> = PerProcess::empty();

/// This process' reaper; started when it is first needed.
pub fn reaper() -> Result<&'static Reaper> {
    let exists = REAPER.get();
    let reaper = REAPER.get_or_make(|| {
        Ok::<_, Error>(Reaper {
            poll: Poll::new().map_err(|errno| Error::system("create the reaper", errno.raw_os_error()))?,
            sources: Mutex::default(),
            timers: Mutex::default(),
            count: AtomicU64::new(1),
            looked: AtomicBool::new(false),
        })
    })?;
    if exists.is_none() && reaper.count.fetch_add(1, Ordering::Relaxed) == 1 {
        threads::spawn_without_signals("fastjob-reaper", || reaper.run()).map_err(|error| {
            Error::system("start the reaper's thread", error.raw_os_error().unwrap_or(11))
        })?;
    }
    Ok(reaper)
}

impl Reaper {
    /// Watches a descriptor; the token names it from now on.
    pub fn watch(&self, fd: impl AsFd, interest: Interest, source: Source) -> Result<u64> {
        let token = self.count.fetch_add(1, Ordering::Relaxed);
        lock(&self.sources).insert(token, source);
        self.poll.add(fd, token, interest).map_err(|errno| {
            lock(&self.sources).remove(&token);
            Error::system("watch a descriptor (epoll_ctl)", errno.raw_os_error())
        })?;
        Ok(token)
    }

    pub fn change(&self, fd: impl AsFd, token: u64, interest: Interest) {
        let _ = self.poll.modify(fd, token, interest);
    }

    pub fn forget(&self, fd: impl AsFd, token: u64) {
        self.poll.remove(fd);
        // Dropped outside the lock: it may be the last reference.
        let source = lock(&self.sources).remove(&token);
        drop(source);
    }

    pub fn alarm(&self, at: Instant, alarm: Alarm) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mut timers = lock(&self.timers);
        let first = timers.peek().is_none_or(|Reverse(timer)| at < timer.at);
        timers.push(Reverse(Timer { at, number, alarm }));
        drop(timers);
        if first {
            self.poll.wake();
        }
    }

    /// Takes the status of a guard that has ended; the first time, looks whether somebody else does
    /// where that is not for us.
    pub fn collect(&self, guard: Arc<OwnedFd>) {
        if !collect(&guard) && !self.looked.swap(true, Ordering::Relaxed) {
            self.alarm(Instant::now() + INIT_PATIENCE, Alarm::Uncollected(guard));
        }
    }

    /// Waits for a guard's end in the background.
    pub fn collect_guard(&self, guard: OwnedFd) {
        let guard = Arc::new(guard);
        let _ = self.watch(&guard, Interest::Readable, Source::Guard(guard.clone()));
    }

    /// All jobs that are open.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        let jobs = |source: &Source| match source {
            Source::Job(job) => Some(job.clone()),
            _ => None,
        };
        lock(&self.sources).values().filter_map(jobs).collect()
    }

    fn run(&self) {
        let mut ready = Vec::new();
        let mut scratch = vec![0u8; 64 << 10];
        loop {
            self.poll.wait(self.fire_timers(), &mut ready);
            for Ready { token, readable, writable } in ready.drain(..) {
                let source = lock(&self.sources).get(&token).cloned();
                match source {
                    Some(Source::Job(job)) => job.on_socket(readable, writable, &mut scratch),
                    Some(Source::Output(process, stream)) => process.on_output(stream, &mut scratch),
                    Some(Source::Input(process)) => process.on_input(),
                    Some(Source::Guard(guard)) => {
                        self.forget(&guard, token);
                        self.collect(guard);
                    }
                    None => {}
                }
            }
        }
    }

    /// Sets off what is due; gives the time until the next.
    fn fire_timers(&self) -> Option<Duration> {
        loop {
            let mut timers = lock(&self.timers);
            let now = Instant::now();
            match timers.peek() {
                None => return None,
                Some(Reverse(timer)) if timer.at > now => return Some(timer.at - now),
                Some(_) => {}
            }
            let due = timers.pop();
            drop(timers);
            match due.map(|Reverse(timer)| timer.alarm) {
                Some(Alarm::Timeout(process)) => {
                    if let Some(process) = process.upgrade() {
                        process.on_timeout();
                    }
                }
                Some(Alarm::Stuck(process)) => {
                    if let Some(process) = process.upgrade() {
                        process.on_stuck();
                    }
                }
                Some(Alarm::Uncollected(guard)) => expect_collected(&guard),
                Some(Alarm::Retry(map)) => {
                    if let Some(map) = map.upgrade() {
                        map.retry();
                    }
                }
                None => {}
            }
        }
    }
}
