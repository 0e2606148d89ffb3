//! `Options`, and the arguments of a command.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::errors::raise;
use crate::command::{self, Stream, terminated};

/// The bytes that the system gets for a `str`, `bytes` or path.
pub fn file_system_bytes(value: &Bound<'_, PyAny>, what: &'static str, out: &mut Vec<u8>) -> PyResult<()> {
    let start = out.len();
    if let Ok(text) = value.cast::<PyString>() {
        match text.to_str() {
            Ok(text) => out.extend_from_slice(text.as_bytes()),
            // Surrogates: bytes that were no UTF-8 where they came from.
            Err(_) => out.extend_from_slice(&encode(value)?),
        }
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        out.extend_from_slice(bytes.as_bytes());
    } else {
        out.extend_from_slice(&encode(value)?);
    }
    if out[start..].contains(&0) {
        return Err(PyValueError::new_err(format!("embedded null byte in {what}")));
    }
    out.push(0);
    Ok(())
}

fn encode(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let encoded = value.py().import("os")?.call_method1("fsencode", (value,))?;
    Ok(encoded.cast::<PyBytes>()?.as_bytes().to_vec())
}

/// The argument block of a command.
pub fn argv(arguments: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if arguments.is_instance_of::<PyString>() || arguments.is_instance_of::<PyBytes>() {
        return Err(PyTypeError::new_err("args must be a sequence of arguments"));
    }
    let mut block = Vec::with_capacity(256);
    for argument in arguments.try_iter()? {
        file_system_bytes(&argument?, "an argument", &mut block)?;
    }
    if block.is_empty() {
        return Err(PyValueError::new_err("args is empty: it must name a program"));
    }
    Ok(block)
}

fn optional(value: Option<&Bound<'_, PyAny>>, what: &'static str) -> PyResult<Vec<u8>> {
    let mut text = Vec::new();
    if let Some(value) = value {
        file_system_bytes(value, what, &mut text)?;
    }
    Ok(text)
}

/// -1 stands for none.
fn given(value: i64, what: &'static str) -> PyResult<Option<u32>> {
    match value {
        -1 => Ok(None),
        value => match u32::try_from(value) {
            Ok(value) if value != u32::MAX => Ok(Some(value)),
            _ => Err(PyValueError::new_err(format!("{what} {value} is out of range"))),
        },
    }
}

#[pyclass(frozen, module = "fastjob._native")]
pub struct Options(pub Arc<command::Options>);

#[pymethods]
impl Options {
    #[new]
    #[pyo3(signature = (
        *, stdin, stdout, stderr, cwd, env, executable, pass_fds, suspended, restore_signals, umask, uid, gid,
        groups, new_session, process_group, pipe_size, max_output, input, timeout, grace, leftovers,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python's")]
    fn new(
        py: Python<'_>,
        stdin: i32,
        stdout: i32,
        stderr: i32,
        cwd: Option<&Bound<'_, PyAny>>,
        env: Option<Vec<Bound<'_, PyBytes>>>,
        executable: Option<&Bound<'_, PyAny>>,
        pass_fds: Vec<i32>,
        suspended: bool,
        restore_signals: bool,
        umask: i64,
        uid: i64,
        gid: i64,
        groups: Option<Vec<u32>>,
        new_session: bool,
        process_group: i32,
        pipe_size: i64,
        max_output: Option<usize>,
        input: Option<&Bound<'_, PyBytes>>,
        timeout: Option<f64>,
        grace: f64,
        leftovers: u8,
    ) -> PyResult<Options> {
        let raised = |error| raise(py, &error);
        let mut environment = None;
        if let Some(entries) = env {
            let mut block = Vec::new();
            for entry in entries {
                block.extend(terminated(entry.as_bytes(), "the environment").map_err(raised)?);
            }
            environment = Some(block.into());
        }
        let options = command::Options {
            streams: [
                Stream::from_code(stdin).map_err(raised)?,
                Stream::from_code(stdout).map_err(raised)?,
                Stream::from_code(stderr).map_err(raised)?,
            ],
            directory: optional(cwd, "cwd")?,
            environment,
            executable: optional(executable, "executable")?,
            pass_fds,
            suspended,
            restore_signals,
            umask: given(umask, "umask")?,
            user: given(uid, "user")?,
            group: given(gid, "group")?,
            groups,
            new_session,
            process_group: (process_group >= 0).then_some(process_group),
            pipe_size: usize::try_from(pipe_size).ok().filter(|size| *size > 0),
            max_output,
            input: input.map(|input| input.as_bytes().into()),
            timeout,
            grace,
            keep_leftovers: leftovers == 1,
        };
        options.validate().map_err(raised)?;
        Ok(Options(Arc::new(options)))
    }
}
