//! The one place where Python threads wait: without the interpreter lock, and with Ctrl-C.

use pyo3::prelude::*;

use super::errors::raise;
use crate::error::{Error, Result};
use crate::sys::platform::gate::is_main_thread;
use crate::wait::{Deadline, Interrupt};

/// Runs `wait` without the interpreter lock. In the main thread, pending signal handlers run
/// whenever it looks; what they raise ends the wait.
pub fn blocking<T: Send>(py: Python<'_>, wait: impl FnOnce(Interrupt) -> Result<T> + Send) -> PyResult<T> {
    let mut raised: Option<PyErr> = None;
    let answer = py.detach(|| {
        let main = is_main_thread();
        wait(&mut || {
            if !main {
                return Ok(());
            }
            Python::attach(|py| py.check_signals()).map_err(|error| {
                raised = Some(error);
                Error::Interrupted
            })
        })
    });
    match (answer, raised) {
        (Err(Error::Interrupted), Some(error)) => Err(error),
        (answer, _) => answer.map_err(|error| raise(py, &error)),
    }
}

/// Seconds from now; NaN is refused.
pub fn deadline(timeout: Option<f64>) -> PyResult<Deadline> {
    if timeout.is_some_and(f64::is_nan) {
        return Err(pyo3::exceptions::PyValueError::new_err("timeout is not a number (nan)"));
    }
    Ok(Deadline::after(timeout))
}
