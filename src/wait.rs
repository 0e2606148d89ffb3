//! Waiting with a deadline and a way out.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::sys::platform::gate::{Gate, is_main_thread};

/// How often the main thread looks for Ctrl-C while it waits. A signal ends its sleep at once; only
/// one that comes between the look and the sleep is found by the next look.
const LOOK: Duration = Duration::from_millis(40);

/// When a wait is over, in monotonic time; `None` never.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    pub const NEVER: Deadline = Deadline(None);

    /// Seconds from now; none, or more than the clock can hold: never.
    pub fn after(seconds: Option<f64>) -> Deadline {
        Deadline(seconds.and_then(|seconds| {
            let time = Duration::try_from_secs_f64(seconds.max(0.0)).ok()?;
            Instant::now().checked_add(time)
        }))
    }

    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    pub fn is_over(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// Looks for pending Python signals; an error ends the wait.
pub type Interrupt<'a> = &'a mut dyn FnMut() -> Result<()>;

/// For waits that are short by construction.
pub fn uninterrupted() -> Result<()> {
    Ok(())
}

/// Until `ready` gives something; `None` when the time is over first.
pub fn wait_until<T>(
    gate: &Gate,
    deadline: Deadline,
    interrupt: Interrupt,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let slice = is_main_thread().then_some(LOOK);
    loop {
        let seen = gate.count();
        if let Some(answer) = ready()? {
            return Ok(Some(answer));
        }
        if deadline.is_over() {
            return Ok(None);
        }
        gate.wait(seen, [deadline.left(), slice].into_iter().flatten().min());
        interrupt()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn no_change_is_missed() {
        let (gate, flag) = (Arc::new(Gate::default()), Arc::new(AtomicBool::new(false)));
        let other = {
            let (gate, flag) = (gate.clone(), flag.clone());
            std::thread::spawn(move || {
                flag.store(true, Ordering::SeqCst);
                gate.open();
            })
        };
        let ready = || Ok(flag.load(Ordering::SeqCst).then_some(7));
        let answer = wait_until(&gate, Deadline::NEVER, &mut uninterrupted, ready);
        assert!(matches!(answer, Ok(Some(7))));
        other.join().unwrap();
    }

    #[test]
    fn deadlines_take_any_number() {
        for seconds in [-1.0, 0.0, f64::MIN] {
            assert!(Deadline::after(Some(seconds)).is_over());
        }
        for seconds in [1e10, f64::INFINITY, f64::MAX] {
            assert!(!Deadline::after(Some(seconds)).is_over());
        }
        assert!(!Deadline::NEVER.is_over());
    }
}
