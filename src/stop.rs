//! Ending a job's members: ask, wait, kill, and prove that none is left.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::{Job, Reply};
use crate::sys::platform::procfs::{Member, ProcessInfo, process_info};
use crate::sys::wire::request;
use crate::wait::{Deadline, Interrupt};

const SIGKILL: i32 = 9;

/// Who ended, and by what.
#[derive(Debug, Default)]
pub struct Report {
    /// `(signal, pids)` in the order in which they were sent.
    pub rungs: Vec<(i32, Vec<i32>)>,
    pub already_gone: Vec<i32>,
}

/// Living members of the job and of all nested in it.
pub fn members(job: &Arc<Job>, interrupt: Interrupt) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for_each(job, |job| {
        if let Reply::Members(found) = job.ask(request::MEMBERS, interrupt, |_| {})? {
            members.extend(found);
        }
        Ok(())
    })?;
    Ok(members)
}

pub fn processes(job: &Arc<Job>, interrupt: Interrupt) -> Result<Vec<ProcessInfo>> {
    Ok(members(job, interrupt)?.iter().filter_map(process_info).collect())
}

pub fn signal(job: &Arc<Job>, signal: i32, interrupt: Interrupt) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for_each(job, |job| {
        if let Reply::Pids(found) = job.ask(request::SIGNAL_ALL, interrupt, |out| out.u32(signal as u32))? {
            pids.extend(found);
        }
        Ok(())
    })?;
    Ok(pids)
}

pub fn freeze(job: &Arc<Job>, on: bool, interrupt: Interrupt) -> Result<()> {
    job.check_open()?;
    for_each(job, |job| {
        job.set_suspended(on);
        match job.ask(request::FREEZE, interrupt, |out| out.u8(u8::from(on)))? {
            Reply::Done(0) => Ok(()),
            Reply::Done(errno) => Err(Error::System { step: "suspend or resume the members".into(), errno }),
            _ => Ok(()),
        }
    })
}

/// For the job and each nested one; nested ones that end meanwhile don't matter.
fn for_each(job: &Arc<Job>, mut visit: impl FnMut(&Arc<Job>) -> Result<()>) -> Result<()> {
    job.check_open()?;
    for member in job.family() {
        match visit(&member) {
            Err(Error::Closed | Error::Lost) if !Arc::ptr_eq(&member, job) => {}
            answer => answer?,
        }
    }
    Ok(())
}

/// Asks all supervisors at once and waits for each; true when all answered in time.
fn all_answer(
    job: &Arc<Job>,
    kind: u8,
    deadline: Deadline,
    interrupt: Interrupt,
    mut each: impl FnMut(Reply),
) -> Result<bool> {
    job.check_open()?;
    let family = job.family();
    let requests: Vec<_> = family.iter().map(|job| (job, job.request(kind, |_| {}))).collect();
    let mut all = Ok(true);
    for (member, request) in requests {
        let answer = request.and_then(|id| match all {
            // One that is late or broken must not keep answers of the others waiting for nobody.
            Ok(true) => member.reply(id, deadline, interrupt).inspect(|answer| {
                if answer.is_none() {
                    member.abandon(id);
                }
            }),
            _ => {
                member.abandon(id);
                Ok(None)
            }
        });
        match answer {
            Ok(Some(reply)) => each(reply),
            Ok(None) if matches!(all, Ok(true)) => all = Ok(false),
            Ok(None) => {}
            Err(Error::Closed | Error::Lost) if !Arc::ptr_eq(member, job) => {}
            Err(error) if all.is_ok() => all = Err(error),
            Err(_) => {}
        }
    }
    all
}

/// Until no member is alive; false when the time is over.
pub fn wait_empty(job: &Arc<Job>, deadline: Deadline, interrupt: Interrupt) -> Result<bool> {
    loop {
        let before = job.family().len();
        if !all_answer(job, request::WAIT, deadline, interrupt, |_| {})? {
            return Ok(false);
        }
        // A nested job that was made meanwhile may have members.
        if job.family().len() <= before {
            return Ok(true);
        }
    }
}

/// Sends each signal of the ladder and waits as long as it says, then kills what is left.
/// `patience` bounds the killing.
pub fn stop(job: &Arc<Job>, ladder: &[(i32, f64)], patience: f64, interrupt: Interrupt) -> Result<Report> {
    let mut report = Report::default();
    job.family().iter().for_each(|job| job.mark_killed());
    for &(number, seconds) in ladder {
        let asked = signal(job, number, interrupt)?;
        if wait_empty(job, Deadline::after(Some(seconds)), interrupt)? {
            report.rungs.push((number, asked));
            return Ok(report);
        }
        let alive: HashSet<i32> = members(job, interrupt)?.iter().map(|member| member.pid).collect();
        report.rungs.push((number, asked.into_iter().filter(|pid| !alive.contains(pid)).collect()));
    }
    let mut killed = Vec::new();
    let collect = |reply: Reply| {
        if let Reply::Killed { killed: pids, gone } = reply {
            killed.extend(pids);
            report.already_gone.extend(gone);
        }
    };
    if !all_answer(job, request::KILL, Deadline::after(Some(patience)), interrupt, collect)? {
        let survivors = processes(job, interrupt)?;
        if !survivors.is_empty() {
            return Err(Error::KillFailed(survivors));
        }
    }
    // The dead are not suspended, and what is started next is not meant to be.
    if job.is_suspended() {
        freeze(job, false, interrupt)?;
    }
    killed.sort_unstable();
    report.rungs.push((SIGKILL, killed));
    Ok(report)
}

/// Kills what is left, then gives up the supervisor. A survivor is reported, but the job is closed:
/// its supervisor goes on killing.
pub fn close(job: &Arc<Job>, patience: f64, interrupt: Interrupt) -> Result<()> {
    if !job.is_owner() || job.is_closed() {
        return Ok(());
    }
    let answer =
        if job.settings().kill_on_close { stop(job, &[], patience, interrupt).map(drop) } else { Ok(()) };
    if answer.is_err() {
        job.close_in_background();
        return answer;
    }
    job.finish_close();
    Ok(())
}
