//! The one funnel from the core's errors to Python's exceptions.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::error::{Error, resource};
use crate::sys::platform::procfs::ProcessInfo;

/// An exception class of the package.
fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("fastjob._errors")?.getattr(name)
}

fn describe(py: Python<'_>, errno: i32) -> PyResult<String> {
    py.import("os")?.call_method1("strerror", (errno,))?.extract()
}

pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).unwrap_or_else(|error| error)
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let job_error = |name: &str, message: String| -> PyResult<PyErr> {
        Ok(PyErr::from_value(class(py, name)?.call1((message,))?))
    };
    match error {
        Error::Closed => job_error("JobClosed", "the job is closed: make a new one".into()),
        Error::Forked => job_error(
            "JobError",
            "the job belongs to the process that this one was forked from: make a new one here".into(),
        ),
        Error::Lost => job_error(
            "JobError",
            "the job's supervisor was killed by somebody else, and its members with it: make a new job"
                .into(),
        ),
        Error::Interrupted => job_error("JobError", "interrupted".into()),
        Error::Invalid(message) => Ok(PyValueError::new_err(message.to_string())),
        Error::Unsupported(message) => job_error("Unsupported", message.to_string()),
        Error::Start { step, errno, file } => start(py, step.describe(), *errno, file.as_deref()),
        Error::Exhausted { step, errno } => {
            let what = resource(*errno).unwrap_or("resources");
            let message = format!(
                "failed to {step}: {} (out of {what}: let some end, or raise the limit)",
                describe(py, *errno)?
            );
            let arguments = PyDict::new(py);
            arguments.set_item("resource", what)?;
            let error = class(py, "SpawnError")?.call((*errno, message), Some(&arguments))?;
            Ok(PyErr::from_value(error))
        }
        Error::System { step, errno } => {
            let reason = if *errno == 0 { String::new() } else { format!(": {}", describe(py, *errno)?) };
            let arguments = PyDict::new(py);
            arguments.set_item("step", step)?;
            arguments.set_item("errno", errno)?;
            let error =
                class(py, "JobError")?.call((format!("failed to {step}{reason}"),), Some(&arguments))?;
            Ok(PyErr::from_value(error))
        }
        Error::KillFailed(survivors) => {
            let names: Vec<String> = survivors
                .iter()
                .map(|survivor| {
                    let line = survivor.command_line.join(&b' ');
                    format!("{} ({})", survivor.pid, String::from_utf8_lossy(&line))
                })
                .collect();
            let arguments = PyDict::new(py);
            let rows = survivors.iter().map(|survivor| row(py, survivor)).collect::<PyResult<Vec<_>>>()?;
            let list = PyList::new(py, rows)?;
            arguments.set_item("survivors", list)?;
            let message = format!("still alive after SIGKILL: {}", names.join(", "));
            Ok(PyErr::from_value(class(py, "KillFailed")?.call((message,), Some(&arguments))?))
        }
    }
}

/// What `subprocess` raises: the errno decides the class.
fn start(py: Python<'_>, step: &str, errno: i32, file: Option<&[u8]>) -> PyResult<PyErr> {
    let reason = describe(py, errno)?;
    let error = match file {
        None => py.get_type::<PyOSError>().call1((errno, format!("failed to {step}: {reason}")))?,
        Some(file) => py.get_type::<PyOSError>().call1((errno, reason, OsString::from_vec(file.to_vec())))?,
    };
    Ok(PyErr::from_value(error))
}

/// `(pid, ppid, name, exe, cmdline, create_time, user_time, system_time, rss)`
pub fn row<'py>(py: Python<'py>, info: &ProcessInfo) -> PyResult<Bound<'py, PyAny>> {
    let arguments = info.command_line.iter().map(|argument| PyBytes::new(py, argument));
    let row = (
        info.pid,
        info.parent,
        &info.name,
        info.executable.as_ref().map(|path| PyBytes::new(py, path)),
        PyList::new(py, arguments)?,
        info.created,
        info.user_time,
        info.system_time,
        info.resident_bytes,
    );
    row.into_bound_py_any(py)
}
