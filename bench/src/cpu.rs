//! Processor time, to the nanosecond.
//!
//! `/proc/<pid>/stat` counts in ticks of ten milliseconds; the processor-time clock of a process
//! (clock_getcpuclockid(3)) has no such grain, and includes threads that have ended.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// The processor time of some processes together.
#[derive(Clone, Debug)]
pub struct Clock(Vec<ClockId>);

impl Clock {
    /// The clock of these processes.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let clock = |pid: &u32| anyhow::Ok(clock_getcpuclockid(Pid::from_raw(i32::try_from(*pid)?))?);
        Ok(Self(pids.iter().map(clock).collect::<anyhow::Result<_>>()?))
    }

    /// What they have used so far.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn now(&self) -> anyhow::Result<Duration> {
        self.0.iter().map(|clock| Ok(Duration::from(clock.now()?))).sum()
    }
}

/// What this thread has used so far.
///
/// # Errors
/// None that is known.
pub fn this_thread() -> anyhow::Result<Duration> {
    Ok(Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn work_is_counted_and_sleep_is_not() {
        let clock = Clock::of(&[std::process::id()]).unwrap();
        let thread = this_thread().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let slept = this_thread().unwrap() - thread;
        assert!(slept < Duration::from_millis(10), "{slept:?}");
        let before = clock.now().unwrap();
        let begun = Instant::now();
        while this_thread().unwrap() - thread < Duration::from_millis(20) {
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
        assert!(clock.now().unwrap() - before >= Duration::from_millis(9));
    }

    #[test]
    fn a_process_that_is_gone_has_no_clock() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Clock::of(&[child.id()]).is_err());
    }
}
