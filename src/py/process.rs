//! `Process` and `Queue`.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyProcessLookupError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::errors::raise;
use super::wait::{blocking, deadline};
use crate::error::Error;
use crate::job::Reply;
use crate::process::{self, End};
use crate::reaper::lock;
use crate::sys::platform::pipes;
use crate::sys::wire::request;
use crate::wait::Deadline;

#[pyclass(frozen, module = "fastjob._native")]
pub struct Process {
    pub inner: Arc<process::Process>,
    pidfd: Mutex<Option<OwnedFd>>,
}

impl Process {
    pub fn new(inner: Arc<process::Process>) -> Process {
        Process { inner, pidfd: Mutex::new(None) }
    }

    fn status(&self, py: Python<'_>, end: Option<End>) -> PyResult<Option<i32>> {
        match end {
            None => Ok(None),
            Some(End::Exited(exit)) => Ok(Some(exit.status)),
            Some(End::Failed(error)) => Err(raise(py, &error)),
            Some(End::Lost) => Err(raise(py, &Error::Lost)),
        }
    }

    fn exit(&self) -> Option<crate::sys::wire::Exit> {
        match self.inner.end() {
            Some(End::Exited(exit)) => Some(exit),
            _ => None,
        }
    }

    /// In a forked child nothing may be asked of the supervisor.
    fn check_owner(&self, py: Python<'_>) -> PyResult<()> {
        if self.inner.job.is_owner() { Ok(()) } else { Err(raise(py, &Error::Forked)) }
    }
}

/// Whether an end after this signal may be by this signal: not after 0, SIGCONT or SIGSTOP.
pub fn may_end(signal: i32) -> bool {
    !matches!(signal, 0 | 18 | 19)
}

fn stream_number(stream: usize, most: usize) -> PyResult<usize> {
    if stream <= most { Ok(stream) } else { Err(PyValueError::new_err("no such stream")) }
}

#[pymethods]
impl Process {
    #[getter]
    fn pid(&self) -> i32 {
        self.inner.pid()
    }

    fn poll(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        self.check_owner(py)?;
        self.status(py, self.inner.end())
    }

    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<i32>> {
        self.check_owner(py)?;
        let deadline = deadline(timeout)?;
        let end = match self.inner.end() {
            Some(end) => Some(end),
            None => blocking(py, |interrupt| self.inner.wait(deadline, interrupt))?,
        };
        self.status(py, end)
    }

    fn wait_done(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.check_owner(py)?;
        let deadline = deadline(timeout)?;
        let done = blocking(py, |interrupt| self.inner.wait_done(deadline, interrupt))?;
        match self.inner.end() {
            Some(End::Exited(_)) | None => {}
            end => drop(self.status(py, end)?),
        }
        if self.inner.is_stuck() {
            let survivors = blocking(py, |interrupt| crate::stop::processes(&self.inner.job, interrupt))?;
            return Err(raise(py, &Error::KillFailed(survivors)));
        }
        Ok(done)
    }

    fn send_signal(&self, py: Python<'_>, signal: i32) -> PyResult<bool> {
        self.check_owner(py)?;
        if self.inner.end().is_some() {
            return Ok(false);
        }
        if may_end(signal) {
            self.inner.mark_killed();
        }
        match blocking(py, |interrupt| match self.inner.job.signal_process(&self.inner, signal, interrupt) {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            answer => Ok(answer),
        }) {
            Ok(Ok(sent)) => Ok(sent),
            // What has ended meanwhile, with its job or alone, needs no signal.
            Ok(Err(Error::Closed | Error::Lost)) if self.inner.end().is_some() => Ok(false),
            Ok(Err(error)) => Err(raise(py, &error)),
            Err(error) => Err(error),
        }
    }

    fn kill_tree(&self, py: Python<'_>) -> PyResult<Vec<i32>> {
        self.check_owner(py)?;
        if self.inner.end().is_some() {
            return Ok(Vec::new());
        }
        self.inner.mark_killed();
        let id = self.inner.id;
        let reply =
            blocking(py, |interrupt| self.inner.job.ask(request::KILL_TREE, interrupt, |out| out.u64(id)))?;
        Ok(if let Reply::Pids(pids) = reply { pids } else { Vec::new() })
    }

    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.check_owner(py)?;
        if let Some(fd) = &*lock(&self.pidfd) {
            return Ok(fd.as_raw_fd());
        }
        let ended = || PyProcessLookupError::new_err("the process has ended: there is no pidfd for it");
        if self.inner.end().is_some() {
            return Err(ended());
        }
        let id = self.inner.id;
        match blocking(py, |interrupt| self.inner.job.ask(request::PIDFD, interrupt, |out| out.u64(id)))? {
            Reply::Descriptor(fd) => Ok(lock(&self.pidfd).get_or_insert(fd).as_raw_fd()),
            Reply::Done(errno) if errno == rustix::io::Errno::SRCH.raw_os_error() => Err(ended()),
            Reply::Done(errno) => Err(raise(
                py,
                &Error::Unsupported(format!("no pidfd for the process: errno {errno} of pidfd_open").into()),
            )),
            _ => Err(ended()),
        }
    }

    fn take_stream(&self, stream: usize) -> PyResult<i32> {
        Ok(self.inner.take_pipe(stream_number(stream, 2)?).map_or(-1, pipes::release))
    }

    fn capture(&self, py: Python<'_>, stream: usize, fd: i32) -> PyResult<()> {
        let stream = stream_number(stream, 2)?.max(1);
        let pipe = pipes::duplicate(fd).map_err(|errno| raise(py, &errno.into()))?;
        self.inner.capture(stream, pipe, None).map_err(|error| raise(py, &error))
    }

    fn feed(&self, py: Python<'_>, fd: i32, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        let pipe = pipes::duplicate(fd).map_err(|errno| raise(py, &errno.into()))?;
        let data: Arc<[u8]> = data.as_bytes().into();
        self.inner.feed(pipe, data).map_err(|error| raise(py, &error))
    }

    fn output<'py>(&self, py: Python<'py>, stream: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let stream = stream_number(stream, 2)?.max(1);
        let output = self.inner.with_capture(stream, crate::capture::Capture::output);
        Ok(output.map(|output| PyBytes::new(py, &output)))
    }

    fn output_stats(&self, stream: usize) -> PyResult<(u64, u64)> {
        let stream = stream_number(stream, 2)?.max(1);
        Ok(self
            .inner
            .with_capture(stream, |capture| (capture.total(), capture.dropped()))
            .unwrap_or_default())
    }

    #[getter]
    fn started_at(&self) -> Option<f64> {
        self.inner.times().0
    }

    #[getter]
    fn ended_at(&self) -> Option<f64> {
        self.inner.times().1
    }

    #[getter]
    fn duration(&self) -> Option<f64> {
        match self.inner.times() {
            (Some(start), Some(end)) => Some(end - start),
            _ => None,
        }
    }

    #[getter]
    fn usage(&self) -> Option<(f64, f64, u64, u64, u64, u64, u64)> {
        let exit = self.exit()?;
        Some((
            exit.user_us as f64 / 1e6,
            exit.system_us as f64 / 1e6,
            exit.max_rss_kib * 1024,
            exit.minor_faults,
            exit.major_faults,
            exit.voluntary_switches,
            exit.involuntary_switches,
        ))
    }

    #[getter]
    fn timed_out(&self) -> bool {
        self.inner.timed_out()
    }

    #[getter]
    fn killed_by_us(&self) -> bool {
        self.inner.killed_by_us()
    }

    /// All of a result at once: a harness asks for it thousands of times.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let (error, status) = match self.inner.end() {
            Some(End::Exited(exit)) => (None, Some(exit.status)),
            Some(End::Failed(error)) => (Some(error), None),
            Some(End::Lost) => (Some(Error::Lost), None),
            None => (None, None),
        };
        let (started, ended) = self.inner.times();
        let stats = [1, 2].map(|stream| self.stats(stream));
        let fields: [Bound<'py, PyAny>; 13] = [
            self.inner.pid().into_bound_py_any(py)?,
            status.into_bound_py_any(py)?,
            self.output(py, 1)?.into_bound_py_any(py)?,
            self.output(py, 2)?.into_bound_py_any(py)?,
            started.into_bound_py_any(py)?,
            ended.into_bound_py_any(py)?,
            self.usage().into_bound_py_any(py)?,
            self.inner.timed_out().into_bound_py_any(py)?,
            self.inner.killed_by_us().into_bound_py_any(py)?,
            leftovers(py, &self.inner.leftovers())?.into_any(),
            (stats[0].0 + stats[1].0).into_bound_py_any(py)?,
            (stats[0].1 + stats[1].1).into_bound_py_any(py)?,
            error.map(|error| raise(py, &error).into_value(py)).into_bound_py_any(py)?,
        ];
        PyTuple::new(py, fields)
    }

    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.check_owner(py)?;
        self.inner.kill_in_background();
        let deadline = Deadline::after(Some(super::PATIENCE));
        blocking(py, |interrupt| self.inner.wait_done(deadline, interrupt)).map(drop)
    }
}

impl Process {
    fn stats(&self, stream: usize) -> (u64, u64) {
        self.inner.with_capture(stream, |capture| (capture.total(), capture.dropped())).unwrap_or_default()
    }
}

/// An isolated process has no other handle: when this one is lost, to an exception at the wrong
/// moment, nobody could end it.
impl Drop for Process {
    fn drop(&mut self) {
        if self.inner.isolated && self.inner.job.is_owner() && !self.inner.is_done() {
            self.inner.kill_in_background();
        }
    }
}

fn leftovers<'py>(py: Python<'py>, found: &[(i32, Vec<Vec<u8>>)]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for (pid, arguments) in found {
        let arguments = PyList::new(py, arguments.iter().map(|argument| PyBytes::new(py, argument)))?;
        list.append((*pid, arguments))?;
    }
    Ok(list)
}

#[pyclass(frozen, module = "fastjob._native")]
pub struct Queue {
    inner: Arc<process::Queue>,
    tokens: Mutex<HashMap<u64, Vec<Py<PyAny>>>>,
}

#[pymethods]
impl Queue {
    #[new]
    fn new() -> Queue {
        Queue { inner: Arc::default(), tokens: Mutex::default() }
    }

    fn add(&self, process: &Process, token: Py<PyAny>) {
        lock(&self.tokens).entry(process.inner.serial).or_default().push(token);
        process.inner.watch(self.inner.clone());
    }

    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let deadline: Deadline = deadline(timeout)?;
        let process = blocking(py, |interrupt| self.inner.next(deadline, interrupt))?;
        Ok(process.and_then(|process| lock(&self.tokens).get_mut(&process.serial)?.pop()))
    }
}
