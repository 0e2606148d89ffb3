//! `Job`.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::errors::{raise, row};
use super::map::Map;
use super::options::{Options, argv};
use super::process::{Process, may_end};
use super::wait::{blocking, deadline};
use super::{PATIENCE, SUPERVISOR};
use crate::command::Command;
use crate::error::{Error, Result};
use crate::job::{self, Settings};
use crate::reaper::lock;
use crate::sys::wire::{Step, disable};
use crate::{map, process, stop};

type Signalled = Vec<(i32, Vec<i32>)>;

#[pyclass(frozen, module = "fastjob._native")]
pub struct Job(Arc<job::Job>);

/// Names in `FASTJOB_DISABLE`.
fn disabled(names: &[String]) -> PyResult<u32> {
    names.iter().try_fold(0, |bits, name| {
        let bit = match name.as_str() {
            "cgroup" => disable::CGROUP,
            "clone3" => disable::CLONE3,
            "pidfd" => disable::PIDFD,
            "close_range" => disable::CLOSE_RANGE,
            "ptrace" => disable::PTRACE,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "FASTJOB_DISABLE: {name:?} is none of cgroup, clone3, pidfd, close_range, ptrace"
                )));
            }
        };
        Ok(bits | bit)
    })
}

impl Job {
    fn prepare(&self, py: Python<'_>, arguments: &Bound<'_, PyAny>, options: &Options) -> PyResult<Command> {
        self.0.check_open().map_err(|error| raise(py, &error))?;
        self.0.prepare(argv(arguments)?, options.0.clone()).map_err(|error| raise(py, &error))
    }

    /// Starts and waits for the answers. What can't be handed to the caller is killed.
    fn start(&self, py: Python<'_>, commands: Vec<Command>) -> PyResult<Vec<Process>> {
        let processes = blocking(py, |interrupt| {
            let processes = self.0.start(commands, false)?;
            let mut answers = processes.iter().map(|process| process.wait_started(interrupt));
            if let Some(error) = answers.find_map(Result::err) {
                processes.iter().for_each(|process| process.kill_in_background());
                processes.iter().for_each(|process| process.kill_and_wait());
                return Err(error);
            }
            Ok(processes)
        })?;
        Ok(processes.into_iter().map(Process::new).collect())
    }
}

#[pymethods]
impl Job {
    #[new]
    fn new(
        py: Python<'_>,
        parent: Option<&Job>,
        kill_on_close: bool,
        isolate_interrupt: bool,
        disable: Vec<String>,
    ) -> PyResult<Job> {
        let settings = Settings { kill_on_close, isolate_interrupt, disabled: disabled(&disable)? };
        let supervisor = lock(&SUPERVISOR).clone();
        let parent = parent.map(|parent| parent.0.clone());
        blocking(py, |interrupt| match parent {
            None => job::Job::create(&supervisor, settings, interrupt),
            Some(parent) => {
                let job = parent.nest(settings)?;
                job.wait_ready(interrupt)?;
                Ok(job)
            }
        })
        .map(Job)
    }

    /// `("cgroup" or "subreaper", why not better)`
    #[getter]
    fn containment(&self, py: Python<'_>) -> PyResult<(&'static str, String)> {
        let Some(held) = self.0.containment() else { return Err(raise(py, &Error::Closed)) };
        if held.cgroup {
            return Ok(("cgroup", String::new()));
        }
        let reason: String = match (held.step, held.errno) {
            (Step::Disabled, _) => "cgroup: disabled by FASTJOB_DISABLE".into(),
            (step, errno) => {
                let reason: String = py.import("os")?.call_method1("strerror", (errno,))?.extract()?;
                format!("failed to {}: {reason}", step.describe())
            }
        };
        Ok(("subreaper", reason))
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    #[getter]
    fn supervisor_pid(&self) -> i32 {
        self.0.supervisor()
    }

    fn spawn(&self, py: Python<'_>, arguments: &Bound<'_, PyAny>, options: &Options) -> PyResult<Process> {
        let command = self.prepare(py, arguments, options)?;
        let mut processes = self.start(py, vec![command])?;
        processes.pop().ok_or_else(|| raise(py, &Error::Lost))
    }

    fn spawn_many(
        &self,
        py: Python<'_>,
        commands: Vec<(Bound<'_, PyAny>, Bound<'_, Options>)>,
    ) -> PyResult<Vec<Process>> {
        let prepare = |(arguments, options): (Bound<'_, PyAny>, Bound<'_, Options>)| {
            self.prepare(py, &arguments, options.get())
        };
        let commands = commands.into_iter().map(prepare).collect::<PyResult<Vec<_>>>()?;
        self.start(py, commands)
    }

    fn start_isolated(
        &self,
        py: Python<'_>,
        arguments: &Bound<'_, PyAny>,
        options: &Options,
    ) -> PyResult<Process> {
        let command = self.prepare(py, arguments, options)?;
        let process = blocking(py, |interrupt| -> Result<Arc<process::Process>> {
            let process = self.0.start_isolated(command)?;
            process.wait_started(interrupt).inspect_err(|_| process.kill_and_wait())?;
            Ok(process)
        })?;
        Ok(Process::new(process))
    }

    fn map(&self, py: Python<'_>, concurrency: usize, ordered: bool) -> PyResult<Map> {
        self.0.check_open().map_err(|error| raise(py, &error))?;
        Ok(Map::new(map::Map::new(self.0.clone(), concurrency, ordered)))
    }

    fn pids(&self, py: Python<'_>) -> PyResult<Vec<i32>> {
        let members = blocking(py, |interrupt| stop::members(&self.0, interrupt))?;
        Ok(members.iter().map(|member| member.pid).collect())
    }

    fn processes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let processes = blocking(py, |interrupt| stop::processes(&self.0, interrupt))?;
        processes.iter().map(|process| row(py, process)).collect()
    }

    fn signal(&self, py: Python<'_>, signal: i32) -> PyResult<Vec<i32>> {
        blocking(py, |interrupt| {
            if may_end(signal) {
                self.0.family().iter().for_each(|job| job.mark_killed());
            }
            stop::signal(&self.0, signal, interrupt)
        })
    }

    fn stop(&self, py: Python<'_>, ladder: Vec<(i32, f64)>, timeout: f64) -> PyResult<(Signalled, Vec<i32>)> {
        let report = blocking(py, |interrupt| stop::stop(&self.0, &ladder, timeout, interrupt))?;
        Ok((report.rungs, report.already_gone))
    }

    fn suspend(&self, py: Python<'_>) -> PyResult<()> {
        blocking(py, |interrupt| stop::freeze(&self.0, true, interrupt))
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        blocking(py, |interrupt| stop::freeze(&self.0, false, interrupt))
    }

    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = deadline(timeout)?;
        blocking(py, |interrupt| stop::wait_empty(&self.0, deadline, interrupt))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        blocking(py, |interrupt| stop::close(&self.0, PATIENCE, interrupt))
    }

    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.0.check_open().map_err(|error| raise(py, &error))?;
        self.0.detach();
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.close_in_background();
    }
}
