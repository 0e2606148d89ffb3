//! What the supervisor says; called by the reaper.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::job::{Containment, Job, Phase, Reply};
use crate::process::{Ended, Process};
use crate::reaper::lock;
use crate::sys::platform::procfs::{Member, split_arguments};
use crate::sys::wire::{Exit, Reader, Step, event};

impl Job {
    pub fn on_socket(self: &Arc<Self>, readable: bool, writable: bool, scratch: &mut [u8]) {
        if writable {
            self.link.on_writable();
        }
        let handle = |kind, body: &mut Reader, fds: &mut VecDeque<OwnedFd>, scratch: &mut [u8]| {
            self.handle(kind, body, fds, scratch);
        };
        if readable && !self.link.on_readable(scratch, handle) {
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
            event::DONE => Reply::Done(body.u32()? as i32),
            event::DESCRIPTOR => Reply::Descriptor(received.pop_front()?),
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
        if exit.empty || !process.isolated || process.options.keep_leftovers {
            self.process(id, true);
        }
        process.exited(Ended { exit, leftovers }, scratch);
        Some(())
    }

    fn process(&self, id: u64, remove: bool) -> Option<Arc<Process>> {
        let mut state = lock(&self.state);
        if remove { state.processes.remove(&id) } else { state.processes.get(&id).cloned() }
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
        self.link.close();
        self.release();
        if lost {
            self.clean_up();
        } else {
            self.leave_guard();
        }
        processes.iter().for_each(|process| process.lost());
        drop(idle);
        self.gate.open();
    }
}
