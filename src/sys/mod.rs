//! The only place that knows the platform, and the only one with `unsafe`.
//!
//! What the platform's module offers to the rest of the crate:
//! - `launch`, `Channel`: start a job's supervisor and talk to it;
//! - `Poll`: readiness of descriptors, for the reaper; `Gate`: what threads wait on;
//! - `environment`, `Directory`: what a child inherits from this process at this moment;
//! - `procfs`: what the system tells about a process.

pub mod raw;
pub mod wire;

#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(target_os = "linux")]
pub use linux as platform;

#[cfg(not(target_os = "linux"))]
compile_error!("fastjob holds jobs on Linux only");
