//! One started process: identity, exit, streams.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::capture::Capture;
use crate::command::{Command, Options};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::reaper::{Alarm, Source, lock, reaper};
use crate::sys::platform::gate::Gate;
use crate::sys::platform::pipes::{self, Read};
use crate::sys::platform::poll::Interest;
use crate::sys::wire::{Exit, Step};
use crate::wait::{Deadline, Interrupt, uninterrupted, wait_until};

const SIGTERM: i32 = 15;
/// Read at a time from one stream before the others get their turn.
const MOST_READS: usize = 16;
/// How long what an isolated process left behind may take to die.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Called once, by the reaper, when a process is done.
pub trait Watcher: Send + Sync {
    fn done(&self, process: &Arc<Process>);
}

/// How a start ended, or how a process ended that was started.
#[derive(Debug, Clone)]
pub enum End {
    Exited(Exit),
    /// It was never started.
    Failed(Error),
    /// Its supervisor is gone, and its status with it.
    Lost,
}

/// A stream of the child that is read here.
struct Output {
    capture: Capture,
    /// The pipe and its token, until its end.
    pipe: Option<(OwnedFd, u64)>,
}

/// Data on its way to the child's standard input.
struct Input {
    data: Arc<[u8]>,
    written: usize,
    pipe: OwnedFd,
    token: u64,
}

#[derive(Default)]
struct State {
    pid: i32,
    /// Seconds since 1970, and nanoseconds on the monotonic clock.
    started: Option<(f64, u64)>,
    end: Option<End>,
    done: bool,
    timed_out: bool,
    killed_by_us: bool,
    stuck: bool,
    leftovers: Vec<(i32, Vec<Vec<u8>>)>,
    /// Standard output and standard error.
    outputs: [Option<Output>; 2],
    input: Option<Input>,
    /// Our ends of `PIPE` streams, until the caller takes them.
    pipes: [Option<OwnedFd>; 3],
    watchers: Vec<Arc<dyn Watcher>>,
}

pub struct Process {
    /// Its number among all of this owner.
    pub serial: u64,
    /// Its number in the job.
    pub id: u64,
    pub job: Arc<Job>,
    pub options: Arc<Options>,
    program: Vec<u8>,
    /// Alone in `job`, which is done only when nothing else is alive in it.
    pub isolated: bool,
    gate: Gate,
    state: Mutex<State>,
    in_grace: AtomicBool,
}

/// What the reaper found out about an exit.
pub struct Ended {
    pub exit: Exit,
    pub leftovers: Vec<(i32, Vec<Vec<u8>>)>,
}

impl Process {
    pub fn new(id: u64, job: Arc<Job>, command: &Command, isolated: bool) -> Process {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Process {
            serial: COUNT.fetch_add(1, Ordering::Relaxed),
            id,
            job,
            options: command.options.clone(),
            program: command.program().to_vec(),
            isolated,
            gate: Gate::default(),
            state: Mutex::default(),
            in_grace: AtomicBool::new(false),
        }
    }

    /// One that could not even be asked for.
    pub fn failed_before(job: &Arc<Job>, command: &Command, error: Error) -> Arc<Process> {
        let process = Arc::new(Process::new(0, job.clone(), command, false));
        process.finish(End::Failed(error));
        process
    }

    // --- what the caller asks ---

    pub fn pid(&self) -> i32 {
        lock(&self.state).pid
    }

    pub fn end(&self) -> Option<End> {
        lock(&self.state).end.clone()
    }

    /// Seconds since 1970: start and end.
    pub fn times(&self) -> (Option<f64>, Option<f64>) {
        let state = lock(&self.state);
        let ended = match (&state.end, state.started) {
            (Some(End::Exited(exit)), Some((wall, monotonic))) => {
                Some(wall + exit.ended.saturating_sub(monotonic) as f64 / 1e9)
            }
            _ => None,
        };
        (state.started.map(|(wall, _)| wall), ended)
    }

    pub fn timed_out(&self) -> bool {
        lock(&self.state).timed_out
    }

    pub fn killed_by_us(&self) -> bool {
        lock(&self.state).killed_by_us
    }

    /// Recorded before the signal is sent, so that an end is never called an outsider's that was ours.
    pub fn mark_killed(&self) {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.killed_by_us = true;
        }
    }

    pub fn leftovers(&self) -> Vec<(i32, Vec<Vec<u8>>)> {
        lock(&self.state).leftovers.clone()
    }

    /// What has been collected of stream 1 or 2; `None` when it is not captured.
    pub fn with_capture<T>(&self, stream: usize, look: impl FnOnce(&Capture) -> T) -> Option<T> {
        lock(&self.state).outputs[stream - 1].as_ref().map(|output| look(&output.capture))
    }

    pub fn take_pipe(&self, stream: usize) -> Option<OwnedFd> {
        lock(&self.state).pipes[stream].take()
    }

    /// Until it has ended (or could not be started).
    pub fn wait(&self, deadline: Deadline, interrupt: Interrupt) -> Result<Option<End>> {
        wait_until(&self.gate, deadline, interrupt, || Ok(self.end()))
    }

    /// Until it is done: ended, output collected, and nothing of it alive if it is isolated.
    pub fn wait_done(&self, deadline: Deadline, interrupt: Interrupt) -> Result<bool> {
        let done = wait_until(&self.gate, deadline, interrupt, || Ok(lock(&self.state).done.then_some(())))?;
        Ok(done.is_some())
    }

    /// Until the supervisor has answered the start.
    pub fn wait_started(&self, interrupt: Interrupt) -> Result<()> {
        let answer = wait_until(&self.gate, Deadline::NEVER, interrupt, || {
            let state = lock(&self.state);
            Ok((state.started.is_some() || state.end.is_some()).then(|| state.end.clone()))
        })?;
        match answer.flatten() {
            Some(End::Failed(error)) => Err(error),
            Some(End::Lost) => Err(Error::Lost),
            _ => Ok(()),
        }
    }

    pub fn is_done(&self) -> bool {
        lock(&self.state).done
    }

    /// Calls `watcher` when the process is done, now if it is already.
    pub fn watch(self: &Arc<Self>, watcher: Arc<dyn Watcher>) {
        let mut state = lock(&self.state);
        if state.done {
            drop(state);
            watcher.done(self);
        } else {
            state.watchers.push(watcher);
        }
    }

    // --- streams ---

    pub fn keep_pipe(&self, stream: usize, pipe: OwnedFd) {
        lock(&self.state).pipes[stream] = Some(pipe);
    }

    /// Collects a stream in the background until its end.
    pub fn capture(self: &Arc<Self>, stream: usize, pipe: OwnedFd, limit: Option<usize>) -> Result<()> {
        pipes::set_nonblocking(&pipe)?;
        let mut state = lock(&self.state);
        let token = reaper()?.watch(&pipe, Interest::Readable, Source::Output(self.clone(), stream))?;
        state.outputs[stream - 1] = Some(Output { capture: Capture::new(limit), pipe: Some((pipe, token)) });
        let ended = state.end.is_some();
        drop(state);
        if ended {
            self.drain();
        }
        Ok(())
    }

    /// Writes `data` to the child in the background, then closes the pipe.
    pub fn feed(self: &Arc<Self>, pipe: OwnedFd, data: Arc<[u8]>) -> Result<()> {
        pipes::set_nonblocking(&pipe)?;
        let written = match pipes::write_some(&pipe, &data) {
            Some(written) if written < data.len() => written,
            _ => return Ok(()),
        };
        let mut state = lock(&self.state);
        if state.end.is_none() {
            let token = reaper()?.watch(&pipe, Interest::Writable, Source::Input(self.clone()))?;
            state.input = Some(Input { data, written, pipe, token });
        }
        Ok(())
    }

    pub fn on_output(&self, stream: usize, scratch: &mut [u8]) {
        let mut state = lock(&self.state);
        if let Some(output) = &mut state.outputs[stream - 1] {
            output.read(MOST_READS * scratch.len(), scratch);
        }
        drop(state);
    }

    pub fn on_input(&self) {
        let mut state = lock(&self.state);
        let Some(input) = &mut state.input else { return };
        let written = pipes::write_some(&input.pipe, &input.data[input.written..]);
        input.written += written.unwrap_or(0);
        if written.is_none() || input.written == input.data.len() {
            state.close_input();
        }
    }

    /// What is in the pipes now; a grandchild that writes on and on does not hold us.
    fn drain(&self) {
        let mut scratch = vec![0u8; 64 << 10];
        let mut state = lock(&self.state);
        for output in state.outputs.iter_mut().flatten() {
            output.drain(&mut scratch);
        }
    }

    // --- what the reaper reports ---

    pub fn started(&self, pid: i32, monotonic: u64) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let ago = monotonic_now().saturating_sub(monotonic) as f64 / 1e9;
        let mut state = lock(&self.state);
        state.pid = pid;
        state.started = Some((wall - ago, monotonic));
        drop(state);
        self.gate.open();
    }

    pub fn failed(self: &Arc<Self>, step: Step, errno: i32) {
        let options = &self.options;
        let file = match step {
            Step::Directory => options.directory.strip_suffix(b"\0"),
            Step::Exec => Some(&*self.program),
            _ => None,
        };
        self.finish(End::Failed(Error::start(step, errno, file)));
    }

    /// The leader has ended. An isolated one is done only when `emptied` was called, unless it
    /// left nothing or may leave what it left.
    pub fn exited(self: &Arc<Self>, ended: Ended, scratch: &mut [u8]) {
        let mut state = lock(&self.state);
        for output in state.outputs.iter_mut().flatten() {
            output.drain(scratch);
        }
        state.close_input();
        // After a timeout those are being ended with it, and were not left running.
        if !state.timed_out {
            state.leftovers = ended.leftovers;
        }
        state.end = Some(End::Exited(ended.exit));
        let done = !self.isolated || ended.exit.empty || self.options.keep_leftovers;
        drop(state);
        if done {
            return self.finish_with(self.isolated);
        }
        self.gate.open();
        if let (Ok(reaper), Some(at)) = (reaper(), Instant::now().checked_add(KILL_PATIENCE)) {
            reaper.alarm(at, Alarm::Stuck(Arc::downgrade(self)));
        }
    }

    /// What it left behind does not die: whoever waits is told, and the slot is not used again.
    pub fn on_stuck(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if !state.done {
            state.stuck = true;
            drop(state);
            self.finish_with(true);
        }
    }

    /// Something of an isolated process could not be killed.
    pub fn is_stuck(&self) -> bool {
        lock(&self.state).stuck
    }

    /// What an isolated process left behind has been ended.
    pub fn emptied(self: &Arc<Self>, scratch: &mut [u8]) {
        for output in lock(&self.state).outputs.iter_mut().flatten() {
            output.drain(scratch);
        }
        self.finish_with(true);
    }

    pub fn lost(self: &Arc<Self>) {
        let started = lock(&self.state).started.is_some();
        match (started, self.isolated) {
            // The slot never came to be: the system had no process for it.
            (false, true) => self.failed(Step::Clone, rustix::io::Errno::AGAIN.raw_os_error()),
            _ => self.finish(End::Lost),
        }
    }

    pub fn finish(self: &Arc<Self>, end: End) {
        lock(&self.state).end.get_or_insert(end);
        self.finish_with(true);
    }

    fn finish_with(self: &Arc<Self>, close_streams: bool) {
        let mut state = lock(&self.state);
        if state.done {
            return;
        }
        state.done = true;
        if close_streams {
            state.outputs.iter_mut().flatten().for_each(Output::close);
            state.close_input();
        }
        let watchers = std::mem::take(&mut state.watchers);
        let slot = self.isolated.then(|| state.slot_after(self.options.keep_leftovers)).flatten();
        drop(state);
        // Before anybody is told, so that the next command finds it.
        if let (Some(reusable), Some(parent)) = (slot, self.job.parent()) {
            parent.give_back(&self.job, reusable);
        }
        self.gate.open();
        watchers.iter().for_each(|watcher| watcher.done(self));
    }

    // --- ending it ---

    /// Starts the clock.
    pub fn arm_timeout(self: &Arc<Self>) -> Result<()> {
        let deadline = Deadline::after(self.options.timeout);
        if let Some(at) = deadline.instant() {
            reaper()?.alarm(at, Alarm::Timeout(Arc::downgrade(self)));
        }
        Ok(())
    }

    pub fn on_timeout(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return;
        }
        state.timed_out = true;
        drop(state);
        let grace = Duration::try_from_secs_f64(self.options.grace).unwrap_or(Duration::MAX);
        let kill_at = Instant::now().checked_add(grace);
        if !grace.is_zero() && !self.in_grace.swap(true, Ordering::Relaxed) {
            self.job.signal_in_background(self, SIGTERM);
            if let (Ok(reaper), Some(at)) = (reaper(), kill_at) {
                reaper.alarm(at, Alarm::Timeout(Arc::downgrade(self)));
            }
        } else {
            self.kill_in_background();
        }
    }

    /// For one that nobody gets a handle of: returns when it has ended, unless it does not die.
    pub fn kill_and_wait(self: &Arc<Self>) {
        self.kill_in_background();
        let _ = self.wait_done(Deadline::after(Some(KILL_PATIENCE.as_secs_f64())), &mut uninterrupted);
    }

    /// It and all it started.
    pub fn kill_in_background(self: &Arc<Self>) {
        self.mark_killed();
        self.job.kill_in_background(self);
    }
}

impl State {
    /// Whether the slot may be used again; `None` when what is in it is to live on.
    fn slot_after(&self, keep_leftovers: bool) -> Option<bool> {
        match &self.end {
            Some(End::Exited(exit)) if keep_leftovers && !exit.empty => None,
            Some(End::Exited(_)) => Some(!self.stuck),
            // A slot is a process too: where there are no more, it is given back to the system.
            Some(End::Failed(error)) => Some(!error.is_exhaustion()),
            _ => Some(false),
        }
    }

    fn close_input(&mut self) {
        if let (Some(input), Ok(reaper)) = (self.input.take(), reaper()) {
            reaper.forget(&input.pipe, input.token);
        }
    }
}

impl Output {
    fn read(&mut self, at_most: usize, scratch: &mut [u8]) {
        let mut left = at_most;
        while left > 0 {
            let Some((pipe, _)) = &self.pipe else { return };
            let room = left.min(scratch.len());
            match pipes::read_some(pipe, &mut scratch[..room]) {
                Read::Some(count) => {
                    self.capture.push(&scratch[..count]);
                    left -= count;
                    if count < room {
                        // A pipe gives all it has: nothing more now.
                        return;
                    }
                }
                Read::Nothing => return,
                Read::End => self.close(),
            }
        }
    }

    /// What is in the pipe at this moment.
    fn drain(&mut self, scratch: &mut [u8]) {
        let Some((pipe, _)) = &self.pipe else { return };
        let available = pipes::available(pipe.as_fd());
        // One more than there is shows the end, if it has come.
        self.read(available + 1, scratch);
    }

    fn close(&mut self) {
        if let (Some((pipe, token)), Ok(reaper)) = (self.pipe.take(), reaper()) {
            reaper.forget(&pipe, token);
        }
    }
}

fn monotonic_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Processes that end, in the order in which they do.
#[derive(Default)]
pub struct Queue {
    gate: Gate,
    done: Mutex<std::collections::VecDeque<Arc<Process>>>,
}

impl Queue {
    pub fn next(&self, deadline: Deadline, interrupt: Interrupt) -> Result<Option<Arc<Process>>> {
        wait_until(&self.gate, deadline, interrupt, || Ok(lock(&self.done).pop_front()))
    }
}

impl Watcher for Queue {
    fn done(&self, process: &Arc<Process>) {
        lock(&self.done).push_back(process.clone());
        self.gate.open();
    }
}
