//! The Python module: thin classes over the core.

mod errors;
mod job;
mod map;
mod options;
mod process;
mod wait;

use std::sync::Mutex;

use pyo3::prelude::*;

use crate::reaper::{lock, reaper};
use crate::stop;

/// Path of the supervisor's executable.
static SUPERVISOR: Mutex<String> = Mutex::new(String::new());

#[pyfunction]
fn configure(supervisor: String) {
    *lock(&SUPERVISOR) = supervisor;
}

/// What `close` may take for a job, in seconds.
const PATIENCE: f64 = 10.0;

#[pyfunction]
fn close_all(py: Python<'_>) -> PyResult<()> {
    let jobs = reaper().map(|reaper| reaper.jobs()).unwrap_or_default();
    for job in jobs.iter().filter(|job| job.parent().is_none()) {
        wait::blocking(py, |interrupt| stop::close(job, PATIENCE, interrupt))?;
    }
    Ok(())
}

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(configure, module)?)?;
    module.add_function(wrap_pyfunction!(close_all, module)?)?;
    module.add_class::<options::Options>()?;
    module.add_class::<job::Job>()?;
    module.add_class::<process::Process>()?;
    module.add_class::<process::Queue>()?;
    module.add_class::<map::Map>()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
