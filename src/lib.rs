//! The guarantees of a Windows Job Object for processes started from Python.

#![deny(unsafe_code)]

pub mod capture;
pub mod command;
pub mod error;
pub mod job;
mod link;
mod listen;
pub mod map;
pub mod process;
pub mod reaper;
mod start;
pub mod stop;
#[allow(unsafe_code, reason = "the one place that talks to the system")]
pub mod sys;
pub mod wait;

extern crate alloc;

#[cfg(feature = "python")]
mod py;
