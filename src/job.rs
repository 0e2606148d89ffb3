//! A job: what holds processes, as its owner sees it.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::io::Errno;

use crate::command::Command;
use crate::error::{Error, Result};
use crate::link::Link;
use crate::process::Process;
use crate::reaper::{lock, reaper};
use crate::start::Inherited;
use crate::sys::platform::cgroup;
use crate::sys::platform::gate::Gate;
use crate::sys::platform::launch::{connection, launch};
use crate::sys::platform::poll::wait_readable;
use crate::sys::platform::procfs::Member;
use crate::sys::wire::{Step, Writer, disable, request};
use crate::wait::{Deadline, Interrupt, wait_until};

/// Seconds that a supervisor may take for what it can do at once.
const ANSWER_PATIENCE: f64 = 10.0;
const START: &str = "start the job's supervisor";
/// Idle anonymous jobs that are kept for the next `run` or `map`.
const MOST_IDLE: usize = 8;
/// How long `close` waits for the guard, in milliseconds.
const GUARD_PATIENCE: u32 = 5000;

#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub kill_on_close: bool,
    /// Children get process groups of their own, which the terminal's Ctrl-C does not reach.
    pub isolate_interrupt: bool,
    /// Bits of `wire::disable`.
    pub disabled: u32,
}

/// What holds a job, and why not better.
#[derive(Clone, Copy, Debug)]
pub struct Containment {
    pub cgroup: bool,
    pub step: Step,
    pub errno: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Open,
    /// By us.
    Closed,
    /// By somebody who killed the supervisor.
    Lost,
}

/// Answers from the supervisor.
#[derive(Debug)]
pub enum Reply {
    /// An errno, 0 for none.
    Done(i32),
    Descriptor(OwnedFd),
    Pids(Vec<i32>),
    Killed {
        killed: Vec<i32>,
        gone: Vec<i32>,
    },
    Members(Vec<Member>),
}

pub struct State {
    pub phase: Phase,
    pub supervisor: i32,
    pub containment: Option<Containment>,
    pub processes: HashMap<u64, Arc<Process>>,
    /// `None` until the answer comes.
    pub replies: HashMap<u64, Option<Reply>>,
    nested: Vec<Weak<Job>>,
    /// Anonymous nested jobs, proven empty.
    pub idle: Vec<Arc<Job>>,
    pub suspended: bool,
}

pub struct Job {
    owner: u32,
    settings: Settings,
    parent: Option<Arc<Job>>,
    /// Readable when guard and supervisor have ended.
    guard: Mutex<Option<OwnedFd>>,
    cgroup: Option<PathBuf>,
    count: AtomicU64,
    pub link: Link,
    /// Opened at each change of the state.
    pub gate: Gate,
    pub state: Mutex<State>,
    /// What children are given, as it was last seen here.
    pub seen: Mutex<Inherited>,
    /// The same as it was last sent, held while something that refers to it is.
    pub sent: Mutex<Inherited>,
}

impl Job {
    /// A top-level job, held by a supervisor of its own.
    pub fn create(supervisor: &str, settings: Settings, interrupt: Interrupt) -> Result<Arc<Job>> {
        let program = CString::new(supervisor).unwrap_or_default();
        let place = if settings.disabled & disable::CGROUP == 0 { cgroup::place_for_job() } else { None };
        let mut disabled = settings.disabled;
        if !settings.kill_on_close {
            disabled |= disable::KEEP_ON_CLOSE;
        }
        let parent = place.as_ref().map(|place| (place.parent.as_fd(), place.name.as_c_str()));
        let launched = launch(&program, parent, disabled).map_err(|errno| Error::system(START, errno))?;
        let mut job = Job::with_parent(settings, None);
        job.guard = Mutex::new(launched.guard);
        job.cgroup = place.map(|place| place.path);
        let job = Arc::new(job);
        job.link.open(launched.socket, &job)?;
        job.wait_ready(interrupt)?;
        Ok(job)
    }

    /// A job inside this one. It need not be waited for: what is sent to it arrives.
    pub fn nest(self: &Arc<Self>, settings: Settings) -> Result<Arc<Job>> {
        self.check_open()?;
        let (ours, theirs) =
            connection().map_err(|errno| Error::system("connect a nested job", errno.raw_os_error()))?;
        let job = Arc::new(Job::with_parent(settings, Some(self.clone())));
        job.link.open(ours, &job)?;
        let mut state = lock(&self.state);
        state.nested.retain(|nested| nested.strong_count() > 0);
        state.nested.push(Arc::downgrade(&job));
        drop(state);
        self.post(request::NEST, &[theirs.as_fd()], |out| out.u64(0))?;
        Ok(job)
    }

    fn with_parent(settings: Settings, parent: Option<Arc<Job>>) -> Job {
        Job {
            owner: std::process::id(),
            settings,
            parent,
            guard: Mutex::default(),
            cgroup: None,
            count: AtomicU64::new(1),
            link: Link::default(),
            gate: Gate::default(),
            state: Mutex::new(State {
                phase: Phase::Open,
                supervisor: 0,
                containment: None,
                processes: HashMap::new(),
                replies: HashMap::new(),
                nested: Vec::new(),
                idle: Vec::new(),
                suspended: false,
            }),
            seen: Mutex::default(),
            sent: Mutex::default(),
        }
    }

    /// For a process or a request.
    pub fn next_id(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// Until the supervisor has said how it holds the job.
    pub fn wait_ready(&self, interrupt: Interrupt) -> Result<()> {
        let ready = wait_until(&self.gate, Deadline::NEVER, interrupt, || {
            let state = lock(&self.state);
            match (state.containment, state.phase) {
                (Some(_), _) => Ok(Some(())),
                (None, Phase::Open) => Ok(None),
                _ => Err(Error::system(START, Errno::AGAIN.raw_os_error())),
            }
        });
        ready.map(drop)
    }

    // --- what it is ---

    pub fn containment(&self) -> Option<Containment> {
        lock(&self.state).containment
    }

    pub fn supervisor(&self) -> i32 {
        lock(&self.state).supervisor
    }

    pub fn settings(&self) -> Settings {
        self.settings
    }

    pub fn parent(&self) -> Option<&Arc<Job>> {
        self.parent.as_ref()
    }

    /// Those that run in slots of this job.
    pub fn isolated_processes(&self) -> Vec<Arc<Process>> {
        let nested: Vec<_> = lock(&self.state).nested.iter().filter_map(Weak::upgrade).collect();
        let isolated = |job: Arc<Job>| {
            let processes: Vec<_> = lock(&job.state).processes.values().cloned().collect();
            processes.into_iter().filter(|process| process.isolated)
        };
        nested.into_iter().flat_map(isolated).collect()
    }

    pub fn is_owner(&self) -> bool {
        self.owner == std::process::id()
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.state).phase != Phase::Open
    }

    pub fn check_open(&self) -> Result<()> {
        if !self.is_owner() {
            return Err(Error::Forked);
        }
        match lock(&self.state).phase {
            Phase::Open => Ok(()),
            Phase::Closed => Err(Error::Closed),
            Phase::Lost => Err(Error::Lost),
        }
    }

    /// This job and all inside it that may have members.
    pub fn family(self: &Arc<Self>) -> Vec<Arc<Job>> {
        let mut family = vec![self.clone()];
        let mut at = 0;
        while at < family.len() {
            let state = lock(&family[at].state);
            let idle = &state.idle;
            let alive = state.nested.iter().filter_map(Weak::upgrade);
            let busy: Vec<_> = alive
                .filter(|job| !job.is_closed() && !idle.iter().any(|idle| Arc::ptr_eq(idle, job)))
                .collect();
            drop(state);
            family.extend(busy);
            at += 1;
        }
        family
    }

    // --- anonymous nested jobs ---

    /// Starts a command alone in a nested job.
    pub fn start_isolated(self: &Arc<Self>, command: Command) -> Result<Arc<Process>> {
        self.check_running()?;
        let idle = lock(&self.state).idle.pop();
        let slot = match idle {
            Some(slot) => slot,
            None => self.nest(Settings { kill_on_close: true, ..self.settings })?,
        };
        match slot.start(vec![command], true) {
            Ok(mut processes) => processes.pop().ok_or(Error::Lost),
            Err(error) => {
                self.give_back(&slot, false);
                // A slot that never answered: there was no process for its supervisor.
                let stillborn = matches!(error, Error::Lost) && slot.containment().is_none();
                Err(if stillborn && !self.is_closed() {
                    Error::system(START, Errno::AGAIN.raw_os_error())
                } else {
                    error
                })
            }
        }
    }

    /// The slot is empty again, and kept for the next; or it is to end with what is in it.
    pub fn give_back(&self, slot: &Arc<Job>, keep: bool) {
        let mut state = lock(&self.state);
        if keep && state.phase == Phase::Open && !slot.is_closed() {
            state.idle.push(slot.clone());
        } else {
            drop(state);
            slot.close_in_background();
        }
    }

    /// Ends idle slots above a number that a few commands at once need.
    pub fn trim_idle(&self) {
        let mut state = lock(&self.state);
        let keep = state.idle.len().min(MOST_IDLE);
        let excess = state.idle.split_off(keep);
        drop(state);
        excess.iter().for_each(|slot| slot.close_in_background());
    }

    // --- requests ---

    fn post(&self, kind: u8, fds: &[BorrowedFd], body: impl FnOnce(&mut Writer)) -> Result<()> {
        let mut out = Writer::default();
        out.frame(kind, body);
        self.link.send(&out.buffer, fds)
    }

    /// Sends a request; `reply` waits for the answer.
    pub fn request(&self, kind: u8, body: impl FnOnce(&mut Writer)) -> Result<u64> {
        self.check_open()?;
        let id = self.next_id();
        lock(&self.state).replies.insert(id, None);
        let sent = self.post(kind, &[], |out| {
            out.u64(id);
            body(out);
        });
        if sent.is_err() {
            self.abandon(id);
        }
        sent.map(|()| id)
    }

    pub fn abandon(&self, id: u64) {
        lock(&self.state).replies.remove(&id);
    }

    /// `None` when the time is over; the request is still under way.
    pub fn reply(&self, id: u64, deadline: Deadline, interrupt: Interrupt) -> Result<Option<Reply>> {
        let answer = wait_until(&self.gate, deadline, interrupt, || {
            let mut state = lock(&self.state);
            match (state.replies.get(&id), state.phase) {
                (Some(Some(_)), _) => Ok(state.replies.remove(&id).flatten()),
                (_, Phase::Open) => Ok(None),
                (_, Phase::Closed) => Err(Error::Closed),
                (_, Phase::Lost) => Err(Error::Lost),
            }
        });
        if answer.is_err() {
            self.abandon(id);
        }
        answer
    }

    /// For answers that do not depend on what processes do.
    pub fn ask(&self, kind: u8, interrupt: Interrupt, body: impl FnOnce(&mut Writer)) -> Result<Reply> {
        let id = self.request(kind, body)?;
        let reply = self.reply(id, Deadline::after(Some(ANSWER_PATIENCE)), interrupt)?;
        reply.ok_or_else(|| {
            self.abandon(id);
            let step =
                format!("get an answer from the job's supervisor (pid {}): is it stopped", self.supervisor());
            Error::System { step: step.into(), errno: 0 }
        })
    }

    /// Signals one process; false when it has ended.
    pub fn signal_process(&self, process: &Process, signal: i32, interrupt: Interrupt) -> Result<bool> {
        let reply = self.ask(request::SIGNAL, interrupt, |out| {
            out.u64(process.id);
            out.u32(signal as u32);
        })?;
        Ok(matches!(reply, Reply::Pids(pids) if !pids.is_empty()))
    }

    /// For the reaper's thread, which must not wait: an isolated process stands for its job.
    pub fn signal_in_background(&self, process: &Process, signal: i32) {
        let kind = if process.isolated { request::SIGNAL_ALL } else { request::SIGNAL };
        // An answer to request 0 goes to nobody.
        let _ = self.post(kind, &[], |out| {
            out.u64(0);
            if !process.isolated {
                out.u64(process.id);
            }
            out.u32(signal as u32);
        });
    }

    pub fn kill_in_background(&self, process: &Process) {
        let _ = self.post(if process.isolated { request::KILL } else { request::KILL_TREE }, &[], |out| {
            out.u64(0);
            if !process.isolated {
                out.u64(process.id);
            }
        });
    }

    pub fn is_suspended(&self) -> bool {
        lock(&self.state).suspended
    }

    pub fn set_suspended(&self, on: bool) {
        lock(&self.state).suspended = on;
    }

    /// Recorded before a kill is sent.
    pub fn mark_killed(&self) {
        let processes: Vec<_> = lock(&self.state).processes.values().cloned().collect();
        processes.iter().for_each(|process| process.mark_killed());
    }

    // --- the end ---

    /// Tells the supervisor to end, with all or without harm to any member.
    fn say_goodbye(&self, kill: bool) {
        let family: Vec<_> = lock(&self.state).nested.iter().filter_map(Weak::upgrade).collect();
        family.iter().filter(|job| !job.is_closed()).for_each(|job| job.say_goodbye(kill));
        if kill {
            self.mark_killed();
        }
        let mut state = lock(&self.state);
        state.phase = Phase::Closed;
        let processes: Vec<_> = state.processes.drain().map(|(_, process)| process).collect();
        state.idle.clear();
        drop(state);
        // With its parent's end a nested supervisor ends anyway; a detached one must be told.
        let _ = self.post(if kill { request::CLOSE } else { request::DETACH }, &[], |_| {});
        self.gate.open();
        processes.iter().for_each(|process| process.lost());
    }

    /// Closes without waiting; what is left is killed by the supervisor.
    pub fn close_in_background(&self) {
        if self.is_owner() && !self.is_closed() {
            self.say_goodbye(self.settings.kill_on_close);
        }
    }

    /// Ends the supervisor and waits for it; members should have been ended before.
    pub fn finish_close(self: &Arc<Self>) {
        let kill = self.settings.kill_on_close;
        // Taken first: the reaper leaves it to us then.
        let guard = lock(&self.guard).take();
        self.say_goodbye(kill);
        if kill {
            wait_for_guard(guard);
        }
    }

    /// Of a job that was closed without waiting.
    pub fn leave_guard(&self) {
        if let (Some(guard), Ok(reaper)) = (lock(&self.guard).take(), reaper()) {
            reaper.collect_guard(guard);
        }
    }

    /// After the supervisor was killed: until the guard has ended everything, or in its stead.
    pub fn clean_up(&self) {
        if let Some(directory) = &self.cgroup {
            cgroup::kill(directory);
        }
        wait_for_guard(lock(&self.guard).take());
        if let Some(directory) = &self.cgroup {
            cgroup::remove(directory);
        }
    }

    /// What is held open for children that can't be started any more.
    pub fn release(&self) {
        *lock(&self.seen) = Inherited::default();
        *lock(&self.sent) = Inherited::default();
    }

    pub fn detach(&self) {
        self.say_goodbye(false);
    }
}

/// Until guard and supervisor are gone, which takes as long as the kernel takes.
fn wait_for_guard(guard: Option<OwnedFd>) {
    if let Some(guard) = guard {
        wait_readable(&guard, GUARD_PATIENCE);
        if let Ok(reaper) = reaper() {
            reaper.collect(Arc::new(guard));
        }
    }
}
