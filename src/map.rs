//! The harness loop: at most so many commands at once, the next one started as soon as one is
//! done, by the reaper itself, so that a busy interpreter does not leave the machine idle.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use crate::command::Command;
use crate::error::Result;
use crate::job::Job;
use crate::process::{End, Process, Watcher};
use crate::reaper::{Alarm, lock, reaper};
use crate::sys::platform::gate::Gate;
use crate::wait::{Deadline, Interrupt, wait_until};

/// When the system has nothing more to give and nothing of ours runs that could give it back.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const MOST_RETRIES: u32 = 20;

#[derive(Default)]
struct State {
    submitted: u64,
    /// Not started yet.
    ready: VecDeque<(u64, Command)>,
    /// By the process' serial: its command, and the number of that.
    running: HashMap<u64, (u64, Command)>,
    /// Being started by some thread at this moment.
    starting: usize,
    finished: BTreeMap<u64, Arc<Process>>,
    /// Numbers in the order in which they finished.
    order: VecDeque<u64>,
    taken: u64,
    closed: bool,
    /// Something ran out: start nothing until a process of ours has ended.
    held: bool,
    retries: u32,
}

impl State {
    fn busy(&self) -> usize {
        self.running.len() + self.starting
    }
}

pub struct Map {
    job: Arc<Job>,
    concurrency: usize,
    ordered: bool,
    gate: Gate,
    state: Mutex<State>,
    myself: Weak<Map>,
}

impl Map {
    pub fn new(job: Arc<Job>, concurrency: usize, ordered: bool) -> Arc<Map> {
        Arc::new_cyclic(|myself| Map {
            job,
            concurrency,
            ordered,
            gate: Gate::default(),
            state: Mutex::default(),
            myself: myself.clone(),
        })
    }

    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How many more commands it takes: twice the concurrency, less those not yet handed out.
    pub fn room(&self) -> usize {
        let state = self.state();
        (2 * self.concurrency).saturating_sub((state.submitted - state.taken) as usize)
    }

    /// Gives the command's number.
    pub fn submit(&self, command: Command) -> u64 {
        let mut state = self.state();
        let number = state.submitted;
        state.submitted += 1;
        state.ready.push_back((number, command));
        drop(state);
        self.start_next();
        number
    }

    /// How many `next` would give without waiting.
    pub fn ready(&self) -> usize {
        let state = self.state();
        if !self.ordered {
            return state.order.len();
        }
        (state.taken..).take_while(|number| state.finished.contains_key(number)).count()
    }

    /// The next finished command and its number; `None` when there is nothing to wait for.
    pub fn next(&self, interrupt: Interrupt) -> Result<Option<(u64, Arc<Process>)>> {
        let answer = wait_until(&self.gate, Deadline::NEVER, interrupt, || {
            let mut state = self.state();
            if state.submitted == state.taken || state.closed {
                return Ok(Some(None));
            }
            let number = if self.ordered { Some(state.taken) } else { state.order.front().copied() };
            let found = number.and_then(|number| Some((number, state.finished.remove(&number)?)));
            if found.is_some() {
                state.taken += 1;
                state.order.retain(|other| found.as_ref().is_none_or(|(number, _)| number != other));
            }
            Ok(found.map(Some))
        });
        answer.map(Option::flatten)
    }

    /// Starts what may be started. Called by whoever submits, and by the reaper.
    fn start_next(&self) {
        loop {
            let mut state = self.state();
            if state.closed || state.held || state.busy() >= self.concurrency {
                return;
            }
            let Some((number, command)) = state.ready.pop_front() else { return };
            // Counted before it is started, so that two threads never start one too many.
            state.starting += 1;
            drop(state);
            let started = self.job.start_isolated(command.clone());
            let mut state = self.state();
            state.starting -= 1;
            match started {
                Ok(process) => {
                    state.running.insert(process.serial, (number, command));
                    let closed = state.closed;
                    drop(state);
                    if let Some(myself) = self.myself.upgrade() {
                        process.watch(myself);
                    }
                    if closed {
                        process.kill_in_background();
                    }
                }
                Err(error) if error.is_exhaustion() => {
                    let failed = || Process::failed_before(&self.job, &command, error.clone());
                    self.hold(state, number, command.clone(), failed);
                }
                Err(error) => {
                    let process = Process::failed_before(&self.job, &command, error);
                    self.finished(state, number, process);
                }
            }
        }
    }

    /// Puts a command back until something has ended, or gives up on it.
    fn hold(
        &self,
        mut state: MutexGuard<State>,
        number: u64,
        command: Command,
        failed: impl FnOnce() -> Arc<Process>,
    ) {
        let alone = state.busy() == 0;
        if alone && state.retries >= MOST_RETRIES {
            state.retries = 0;
            state.held = false;
            return self.finished(state, number, failed());
        }
        state.ready.push_front((number, command));
        state.held = true;
        if alone {
            state.retries += 1;
            drop(state);
            if let Ok(reaper) = reaper() {
                reaper.alarm(Instant::now() + RETRY_AFTER, Alarm::Retry(self.myself.clone()));
            }
        }
    }

    fn finished(&self, mut state: MutexGuard<State>, number: u64, process: Arc<Process>) {
        state.finished.insert(number, process);
        state.order.push_back(number);
        drop(state);
        self.gate.open();
    }

    pub fn retry(&self) {
        self.state().held = false;
        self.start_next();
    }

    /// Drops what waits and kills what runs, without waiting for it.
    pub fn cancel(&self) -> Vec<Arc<Process>> {
        let mut state = self.state();
        state.closed = true;
        let dropped = std::mem::take(&mut state.ready);
        drop(state);
        drop(dropped);
        self.gate.open();
        let running = self.job.isolated_processes();
        let state = self.state();
        let ours: Vec<_> =
            running.into_iter().filter(|process| state.running.contains_key(&process.serial)).collect();
        drop(state);
        ours.iter().for_each(|process| process.kill_in_background());
        ours
    }

    /// Cancels, and returns when nothing of it is alive.
    pub fn close(&self, deadline: Deadline, interrupt: Interrupt) -> Result<bool> {
        self.cancel();
        let idle =
            wait_until(&self.gate, deadline, interrupt, || Ok((self.state().busy() == 0).then_some(())))?;
        self.job.trim_idle();
        Ok(idle.is_some())
    }
}

impl Watcher for Map {
    fn done(&self, process: &Arc<Process>) {
        let mut state = self.state();
        let Some((number, command)) = state.running.remove(&process.serial) else { return };
        let exhausted = matches!(process.end(), Some(End::Failed(error)) if error.is_exhaustion());
        if exhausted && !state.closed {
            self.hold(state, number, command, || process.clone());
        } else {
            state.held = false;
            state.retries = 0;
            self.finished(state, number, process.clone());
        }
        self.start_next();
        self.gate.open();
    }
}
