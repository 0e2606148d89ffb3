//! A job: what holds processes, as its owner sees it.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::io::Errno;

use crate::command::{Command, Options, Stream};
use crate::error::{Error, Result};
use crate::process::{Ended, Process};
use crate::reaper::{Source, lock, reaper};
use crate::sys::platform::channel::{self, MOST_DESCRIPTORS, Outgoing};
use crate::sys::platform::gate::Gate;
use crate::sys::platform::inherit::{self, Directory};
use crate::sys::platform::launch::{connection, launch};
use crate::sys::platform::poll::{Interest, wait_readable};
use crate::sys::platform::procfs::{Member, split_arguments};
use crate::sys::platform::{cgroup, pipes};
use crate::sys::wire::{
    self, Exit, NO_ID, Reader, Spawn, Step, Writer, disable, event, request, spawn_flag, stream,
};
use crate::wait::{Deadline, Interrupt, uninterrupted, wait_until};

/// So much is gathered before it is sent.
const BATCH_BYTES: usize = 64 << 10;
/// Idle anonymous jobs that are kept for the next `run` or `map`.
const MOST_IDLE: usize = 8;

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
enum Phase {
    Open,
    /// By us.
    Closed,
    /// By somebody who killed the supervisor.
    Lost,
}

/// Answers from the supervisor.
#[derive(Debug)]
pub enum Reply {
    Done(i32, Option<OwnedFd>),
    Pids(Vec<i32>),
    Killed { killed: Vec<i32>, gone: Vec<i32> },
    Members(Vec<Member>),
}

struct State {
    phase: Phase,
    supervisor: i32,
    containment: Option<Containment>,
    processes: HashMap<u64, Arc<Process>>,
    /// `None` until the answer comes.
    replies: HashMap<u64, Option<Reply>>,
    nested: Vec<Weak<Job>>,
    /// Anonymous nested jobs, proven empty.
    idle: Vec<Arc<Job>>,
    suspended: bool,
    input: Vec<u8>,
    received: VecDeque<OwnedFd>,
}

/// What goes to the supervisor, in order.
#[derive(Default)]
struct Sending {
    outgoing: Outgoing,
    environment: Option<Arc<[u8]>>,
    directory: Option<Arc<Directory>>,
}

/// What children inherit, kept while it has not changed.
#[derive(Default)]
struct Inherited {
    environment: Option<Arc<[u8]>>,
    directory: Option<Arc<Directory>>,
}

pub struct Job {
    owner: u32,
    settings: Settings,
    parent: Option<Arc<Job>>,
    socket: OwnedFd,
    token: AtomicU64,
    guard: Option<OwnedFd>,
    cgroup: Option<PathBuf>,
    count: AtomicU64,
    gate: Gate,
    state: Mutex<State>,
    sending: Mutex<Sending>,
    inherited: Mutex<Inherited>,
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
        let launched = launch(&program, parent, disabled)
            .map_err(|errno| Error::system("start the job's supervisor", errno))?;
        let mut job = Job::with_socket(launched.socket, settings, None);
        job.guard = launched.guard;
        job.cgroup = place.map(|place| place.path);
        let job = Arc::new(job);
        job.start_listening()?;
        job.wait_ready(interrupt)?;
        Ok(job)
    }

    /// A job inside this one. It need not be waited for: what is sent to it arrives.
    pub fn nest(self: &Arc<Self>, settings: Settings) -> Result<Arc<Job>> {
        self.check_open()?;
        let (ours, theirs) =
            connection().map_err(|errno| Error::system("connect a nested job", errno.raw_os_error()))?;
        let job = Arc::new(Job::with_socket(ours, settings, Some(self.clone())));
        job.start_listening()?;
        let mut state = lock(&self.state);
        state.nested.retain(|nested| nested.strong_count() > 0);
        state.nested.push(Arc::downgrade(&job));
        drop(state);
        self.post(request::NEST, &[theirs.as_fd()], |out| out.u64(0))?;
        Ok(job)
    }

    fn with_socket(socket: OwnedFd, settings: Settings, parent: Option<Arc<Job>>) -> Job {
        Job {
            owner: std::process::id(),
            settings,
            parent,
            socket,
            token: AtomicU64::new(0),
            guard: None,
            cgroup: None,
            count: AtomicU64::new(1),
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
                input: Vec::new(),
                received: VecDeque::new(),
            }),
            sending: Mutex::default(),
            inherited: Mutex::default(),
        }
    }

    fn start_listening(self: &Arc<Self>) -> Result<()> {
        // Sends look at the token too, so none may come before it is there.
        let _sending = lock(&self.sending);
        let token = reaper()?.watch(&self.socket, Interest::Readable, Source::Job(self.clone()))?;
        self.token.store(token, Ordering::Release);
        Ok(())
    }

    /// Until the supervisor has said how it holds the job.
    pub fn wait_ready(&self, interrupt: Interrupt) -> Result<()> {
        let ready = wait_until(&self.gate, Deadline::NEVER, interrupt, || {
            let state = lock(&self.state);
            match (state.containment, state.phase) {
                (Some(_), _) => Ok(Some(())),
                (None, Phase::Open) => Ok(None),
                _ => Err(Error::system("start the job's supervisor", Errno::AGAIN.raw_os_error())),
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

    // --- starting ---

    /// Takes from this process what `options` leave to be inherited. Call it with the interpreter
    /// locked, which keeps the environment from changing meanwhile.
    pub fn prepare(&self, argv: Vec<u8>, options: Arc<Options>) -> Result<Command> {
        options.check_descriptors()?;
        let mut inherited = lock(&self.inherited);
        let environment = match &options.environment {
            Some(environment) => environment.clone(),
            None => {
                let current = inherit::environment(inherited.environment.as_ref());
                inherited.environment = Some(current.clone());
                current
            }
        };
        let directory = Directory::current(inherited.directory.as_ref())
            .map_err(|errno| Error::system("open the working directory", errno.raw_os_error()))?;
        inherited.directory = Some(directory.clone());
        Ok(Command { argv, options, environment, directory: Some(directory) })
    }

    /// Sends all commands in as few messages as possible; each answer comes to its process.
    pub fn start(self: &Arc<Self>, commands: Vec<Command>, isolated: bool) -> Result<Vec<Arc<Process>>> {
        self.check_open()?;
        self.check_running()?;
        let mut processes = Vec::with_capacity(commands.len());
        let mut batch = Batch::default();
        let mut failure = None;
        for command in commands {
            let id = self.count.fetch_add(1, Ordering::Relaxed);
            let process = Arc::new(Process::new(id, self.clone(), command, isolated));
            lock(&self.state).processes.insert(id, process.clone());
            match self.add_to_batch(&mut batch, &process) {
                Ok(()) => processes.push(process),
                Err(error) => {
                    lock(&self.state).processes.remove(&id);
                    process.finish(crate::process::End::Failed(error.clone()));
                    failure = Some(error);
                    break;
                }
            }
        }
        let sent = self.send_batch(&mut batch);
        match failure.or(sent.err()) {
            None => Ok(processes),
            Some(error) => {
                processes.iter().for_each(|process| process.kill_in_background());
                Err(error)
            }
        }
    }

    fn check_running(&self) -> Result<()> {
        let mut job = Some(self);
        while let Some(current) = job {
            if lock(&current.state).suspended {
                return Err(Error::System {
                    step: "start a process in a suspended job: resume() it".into(),
                    errno: 0,
                });
            }
            job = current.parent.as_deref();
        }
        Ok(())
    }

    fn add_to_batch(&self, batch: &mut Batch, process: &Arc<Process>) -> Result<()> {
        let command = process.command.clone();
        let options = &*command.options;
        let mut ends = ChildEnds::make(process)?;
        for &fd in &options.pass_fds {
            ends.borrow(fd, fd);
        }
        let count = ends.count();
        if count > MOST_DESCRIPTORS - 2 {
            return Err(Error::Invalid(
                format!("{count} descriptors for one process: at most {}", MOST_DESCRIPTORS - 2).into(),
            ));
        }
        if batch.fds.len() + count + 1 > MOST_DESCRIPTORS || batch.out.buffer.len() > BATCH_BYTES {
            self.send_batch(batch)?;
        }
        let mut sending = lock(&self.sending);
        let new_directory = match (&sending.directory, &command.directory) {
            (Some(before), Some(now)) if Arc::ptr_eq(before, now) => false,
            (_, now) => now.is_some(),
        };
        if new_directory {
            sending.directory.clone_from(&command.directory);
            batch.out.frame(request::DIRECTORY, |_| {});
            batch.directories.extend(command.directory.clone());
            batch.fds.push(BatchFd::Directory(batch.directories.len() - 1));
        }
        let same =
            sending.environment.as_ref().is_some_and(|before| Arc::ptr_eq(before, &command.environment));
        sending.environment = Some(command.environment.clone());
        let (streams, fds) = ends.into_parts();
        let spawn = Spawn {
            id: process.id,
            flags: flags(options, process.isolated, same),
            umask: options.umask.unwrap_or(NO_ID),
            user: options.user.unwrap_or(NO_ID),
            group: options.group.unwrap_or(NO_ID),
            groups: options.groups.clone(),
            process_group: self.process_group(options),
            streams,
            directory: &options.directory,
            executable: &options.executable,
            argv: &command.argv,
            environment: if same { &[] } else { &command.environment },
        };
        batch.out.frame(request::SPAWN, |out| spawn.encode(out));
        batch.fds.extend(fds);
        // Before the answer can come: what is armed now is there when it does.
        drop(sending);
        process.arm_timeout()
    }

    fn process_group(&self, options: &Options) -> i32 {
        match options.process_group {
            Some(group) => group,
            None if options.new_session => i32::MIN,
            None if self.settings.isolate_interrupt => 0,
            None => -inherit::process_group(),
        }
    }

    fn send_batch(&self, batch: &mut Batch) -> Result<()> {
        if batch.out.buffer.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(batch);
        let fds: Vec<BorrowedFd> = batch
            .fds
            .iter()
            .map(|fd| match fd {
                BatchFd::Owned(fd) => fd.as_fd(),
                BatchFd::Borrowed(fd) => *fd,
                BatchFd::Directory(at) => batch.directories[*at].fd(),
            })
            .collect();
        self.send(&batch.out.buffer, &fds)
    }

    fn send(&self, bytes: &[u8], fds: &[BorrowedFd]) -> Result<()> {
        let mut sending = lock(&self.sending);
        match sending.outgoing.send(&self.socket, bytes, fds) {
            Ok(true) => Ok(()),
            Ok(false) => {
                reaper()?.change(&self.socket, self.token.load(Ordering::Acquire), Interest::Both);
                Ok(())
            }
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::Lost),
            Err(errno) => Err(Error::system("send to the job's supervisor", errno.raw_os_error())),
        }
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
                Err(error)
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
        self.send(&out.buffer, fds)
    }

    /// Sends a request; `reply` waits for the answer.
    pub fn request(&self, kind: u8, body: impl FnOnce(&mut Writer)) -> Result<u64> {
        self.check_open()?;
        let id = self.count.fetch_add(1, Ordering::Relaxed);
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
    pub fn ask(&self, kind: u8, body: impl FnOnce(&mut Writer)) -> Result<Reply> {
        let id = self.request(kind, body)?;
        self.reply(id, Deadline::NEVER, &mut uninterrupted)?.ok_or(Error::Lost)
    }

    /// Signals one process; false when it has ended.
    pub fn signal_process(&self, process: &Process, signal: i32) -> Result<bool> {
        let reply = self.ask(request::SIGNAL, |out| {
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
        self.say_goodbye(kill);
        if !kill {
            return;
        }
        if let Some(guard) = &self.guard {
            wait_readable(guard, GUARD_PATIENCE);
        }
    }

    pub fn detach(&self) {
        self.say_goodbye(false);
    }

    // --- what the supervisor says; called by the reaper ---

    pub fn on_socket(self: &Arc<Self>, readable: bool, writable: bool, scratch: &mut [u8]) {
        if writable {
            let mut sending = lock(&self.sending);
            if let Ok(true) = sending.outgoing.flush(&self.socket)
                && let Ok(reaper) = reaper()
            {
                reaper.change(&self.socket, self.token.load(Ordering::Acquire), Interest::Readable);
            }
        }
        if !readable {
            return;
        }
        let mut state = lock(&self.state);
        let (mut input, mut received) =
            (std::mem::take(&mut state.input), std::mem::take(&mut state.received));
        drop(state);
        let answer = channel::receive(&self.socket, scratch, &mut input, &mut received);
        let mut done = 0;
        while let Some((kind, mut body, length)) = Reader::next_frame(&input[done..]) {
            self.handle(kind, &mut body, &mut received, scratch);
            done += length;
        }
        input.drain(..done);
        let mut state = lock(&self.state);
        (state.input, state.received) = (input, received);
        drop(state);
        if matches!(answer, Ok(0)) || answer.is_err_and(|errno| errno != Errno::AGAIN) {
            self.on_end_of_file();
        }
    }

    fn handle(
        &self,
        kind: u8,
        body: &mut Reader,
        received: &mut VecDeque<OwnedFd>,
        scratch: &mut [u8],
    ) -> Option<()> {
        match kind {
            event::HELLO => {
                let supervisor = body.u32()? as i32;
                let (cgroup, step) = (body.u8()? != 0, Step::from_u8(body.u8()?));
                let mut state = lock(&self.state);
                state.supervisor = supervisor;
                state.containment = Some(Containment { cgroup, step, errno: body.u32()? as i32 });
            }
            event::STARTED => {
                let process = self.process(body.u64()?, false)?;
                process.started(body.u32()? as i32, body.u64()?);
                return Some(());
            }
            event::FAILED => {
                let process = self.process(body.u64()?, true)?;
                process.failed(Step::from_u8(body.u8()?), body.u32()? as i32);
                return Some(());
            }
            event::EXITED => return self.on_exited(body, scratch),
            event::EMPTIED => {
                self.process(body.u64()?, true)?.emptied(scratch);
                return Some(());
            }
            _ => {
                let (id, reply) = self.decode_reply(kind, body, received)?;
                if let Some(waiting) = lock(&self.state).replies.get_mut(&id) {
                    *waiting = Some(reply);
                }
            }
        }
        self.gate.open();
        Some(())
    }

    fn decode_reply(
        &self,
        kind: u8,
        body: &mut Reader,
        received: &mut VecDeque<OwnedFd>,
    ) -> Option<(u64, Reply)> {
        let id = body.u64()?;
        let reply = match kind {
            // Only the answer to a request for a pidfd brings a descriptor.
            event::DONE => Reply::Done(body.u32()? as i32, received.pop_front()),
            event::PIDS => Reply::Pids(body.pids()?),
            event::KILLED => Reply::Killed { killed: body.pids()?, gone: body.pids()? },
            event::MEMBERS => {
                let count = body.u32()?;
                let member = |body: &mut Reader| {
                    Some(Member {
                        pid: body.u32()? as i32,
                        proc_pid: body.u32()? as i32,
                        parent: body.u32()? as i32,
                        start: body.u64()?,
                    })
                };
                Reply::Members((0..count).map(|_| member(body)).collect::<Option<_>>()?)
            }
            _ => return None,
        };
        Some((id, reply))
    }

    fn on_exited(&self, body: &mut Reader, scratch: &mut [u8]) -> Option<()> {
        let id = body.u64()?;
        let exit = Exit::decode(body)?;
        let count = body.u32()?;
        let leftover = |body: &mut Reader| Some((body.u32()? as i32, split_arguments(body.bytes()?)));
        let leftovers = (0..count).map(|_| leftover(body)).collect::<Option<_>>()?;
        let process = self.process(id, false)?;
        if exit.empty || !process.isolated || process.command.options.keep_leftovers {
            self.process(id, true);
        }
        process.exited(Ended { exit, leftovers }, scratch);
        Some(())
    }

    fn process(&self, id: u64, remove: bool) -> Option<Arc<Process>> {
        let mut state = lock(&self.state);
        if remove { state.processes.remove(&id) } else { state.processes.get(&id).cloned() }
    }

    /// After the supervisor was killed: until the guard has ended everything.
    fn clean_up(&self) {
        if let Some(directory) = &self.cgroup {
            cgroup::kill(directory);
        }
        if let Some(guard) = &self.guard {
            wait_readable(guard, GUARD_PATIENCE);
        }
        if let Some(directory) = &self.cgroup {
            cgroup::remove(directory);
        }
    }

    fn on_end_of_file(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let lost = state.phase == Phase::Open;
        if lost {
            state.phase = Phase::Lost;
        }
        let processes: Vec<_> = state.processes.drain().map(|(_, process)| process).collect();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if let Ok(reaper) = reaper() {
            reaper.forget(&self.socket, self.token.load(Ordering::Acquire));
        }
        if lost {
            self.clean_up();
        }
        processes.iter().for_each(|process| process.lost());
        drop(idle);
        self.gate.open();
    }
}

/// How long `close` waits for the guard, in milliseconds.
const GUARD_PATIENCE: u32 = 5000;

fn flags(options: &Options, isolated: bool, same_environment: bool) -> u32 {
    let bits = [
        (options.new_session, spawn_flag::NEW_SESSION),
        (options.suspended, spawn_flag::SUSPENDED),
        (!options.restore_signals, spawn_flag::KEEP_IGNORED_SIGNALS),
        (isolated, spawn_flag::ISOLATED),
        (options.keep_leftovers, spawn_flag::KEEP_LEFTOVERS),
        (same_environment, spawn_flag::SAME_ENVIRONMENT),
    ];
    bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()
}

enum BatchFd {
    Owned(OwnedFd),
    Borrowed(BorrowedFd<'static>),
    Directory(usize),
}

/// Frames and descriptors of one message.
#[derive(Default)]
struct Batch {
    out: Writer,
    fds: Vec<BatchFd>,
    directories: Vec<Arc<Directory>>,
}

/// The child's ends of its streams.
struct ChildEnds {
    streams: Vec<(i32, u8)>,
    fds: Vec<BatchFd>,
}

impl ChildEnds {
    /// Makes the pipes that the options ask for; our ends go to the process.
    fn make(process: &Arc<Process>) -> Result<ChildEnds> {
        let options = process.command.options.clone();
        let mut ends = ChildEnds { streams: Vec::new(), fds: Vec::new() };
        for (at, what) in options.streams.into_iter().enumerate() {
            let number = at as i32;
            match what {
                Stream::Null => ends.streams.push((number, stream::NULL)),
                Stream::Inherit => ends.borrow(number, number),
                Stream::Descriptor(fd) => ends.borrow(fd, number),
                Stream::Pipe | Stream::Capture => {
                    let theirs = make_pipe(process, at, what, &options)?;
                    ends.streams.push((number, stream::PASSED));
                    ends.fds.push(BatchFd::Owned(theirs));
                }
                Stream::Stdout => ends.same_as_stdout()?,
            }
        }
        Ok(ends)
    }

    /// A descriptor of this process; where it is not open, the child has none either.
    fn borrow(&mut self, from: i32, to: i32) {
        match inherit::descriptor(from) {
            None => self.streams.push((to, stream::CLOSED)),
            Some(fd) => {
                self.streams.push((to, stream::PASSED));
                self.fds.push(BatchFd::Borrowed(fd));
            }
        }
    }

    fn same_as_stdout(&mut self) -> Result<()> {
        let kind = self.streams.iter().find(|(to, _)| *to == 1).map_or(stream::CLOSED, |(_, kind)| *kind);
        self.streams.push((2, kind));
        if kind == stream::PASSED {
            let copy = match self.fds.last() {
                Some(BatchFd::Owned(fd)) => BatchFd::Owned(fd.try_clone().map_err(io_error)?),
                Some(BatchFd::Borrowed(fd)) => BatchFd::Borrowed(*fd),
                _ => return Ok(()),
            };
            self.fds.push(copy);
        }
        Ok(())
    }

    fn count(&self) -> usize {
        self.fds.len()
    }

    fn into_parts(self) -> (Vec<(i32, u8)>, Vec<BatchFd>) {
        (self.streams, self.fds)
    }
}

fn io_error(error: std::io::Error) -> Error {
    Error::system("copy a descriptor", error.raw_os_error().unwrap_or(wire::NO_ID as i32))
}

fn make_pipe(process: &Arc<Process>, at: usize, what: Stream, options: &Options) -> Result<OwnedFd> {
    let (read, write) =
        pipes::pipe(options.pipe_size).map_err(|errno| Error::system("make a pipe", errno.raw_os_error()))?;
    if at == 0 {
        match &options.input {
            Some(data) => process.feed(write, data.clone())?,
            None => process.keep_pipe(0, write),
        }
        return Ok(read);
    }
    if what == Stream::Capture {
        process.capture(at, read, options.max_output)?;
    } else {
        process.keep_pipe(at, read);
    }
    Ok(write)
}
