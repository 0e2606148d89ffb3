//! `Map`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;

use super::errors::raise;
use super::options::{Options, argv};
use super::process::Process;
use super::wait::blocking;
use crate::error::Error;
use crate::map;
use crate::reaper::lock;
use crate::wait::Deadline;

#[pyclass(frozen, module = "fastjob._native")]
pub struct Map {
    inner: Arc<map::Map>,
    tokens: Mutex<HashMap<u64, Py<PyAny>>>,
}

impl Map {
    pub fn new(inner: Arc<map::Map>) -> Map {
        Map { inner, tokens: Mutex::default() }
    }
}

#[pymethods]
impl Map {
    fn room(&self) -> usize {
        self.inner.room()
    }

    fn submit(
        &self,
        py: Python<'_>,
        arguments: &Bound<'_, PyAny>,
        options: &Options,
        token: Py<PyAny>,
    ) -> PyResult<()> {
        let job = self.inner.job();
        job.check_open().map_err(|error| raise(py, &error))?;
        let command = job.prepare(argv(arguments)?, options.0.clone()).map_err(|error| raise(py, &error))?;
        // Held from before the command can finish until its token is there.
        let mut tokens = lock(&self.tokens);
        let number = self.inner.submit(command);
        tokens.insert(number, token);
        Ok(())
    }

    fn ready(&self) -> usize {
        self.inner.ready()
    }

    fn next(&self, py: Python<'_>) -> PyResult<Option<(Process, Py<PyAny>)>> {
        if !self.inner.job().is_owner() {
            return Err(raise(py, &Error::Forked));
        }
        let found = blocking(py, |interrupt| self.inner.next(interrupt))?;
        let Some((number, process)) = found else { return Ok(None) };
        let token = lock(&self.tokens).remove(&number);
        Ok(token.map(|token| (Process::new(process), token)))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if !self.inner.job().is_owner() {
            return Ok(());
        }
        let deadline = Deadline::after(Some(super::PATIENCE + 2.0));
        // What was interrupted is cancelled all the same; only the proof is waited for.
        blocking(py, |interrupt| self.inner.close(deadline, interrupt)).map(drop)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.inner.job().is_owner() {
            self.inner.cancel();
        }
    }
}
