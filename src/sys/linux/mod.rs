//! Linux: a supervisor process for each job, reached by a socket.

pub mod cgroup;
pub mod channel;
pub mod gate;
pub mod inherit;
pub mod launch;
pub mod per_process;
pub mod pipes;
pub mod poll;
pub mod procfs;
pub mod threads;
