//! Counts events, and reads the time and the parties' processor time twice: after a tenth of the events, so that no
//! start is part of a figure, and at the last one that is to be part of it.
//!
//! Whoever counts reads the clocks in the same call, so that nothing that is late (the scheduler of a busy machine)
//! comes between an event and its reading.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::LIMIT;
use crate::cpu::{self, Clock};

/// How often it is looked whether a program still runs.
const LOOK: Duration = Duration::from_millis(100);

/// What was done, and what it cost each party for each event.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Work {
    /// Events per second.
    pub rate: f64,
    /// Microseconds of the program that is measured.
    pub program: f64,
    /// Microseconds of the broker's servers.
    pub server: f64,
    /// Microseconds of the thread that counts: the handler's, or the publisher's.
    pub counter: f64,
}

/// A count of events with two readings.
pub struct Meter {
    total: u64,
    measured: u64,
    warm_up: u64,
    count: AtomicU64,
    parties: OnceLock<(Clock, Clock)>,
    warm: OnceLock<Option<Reading>>,
    done: OnceLock<Option<Reading>>,
    changed: Notify,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    program: Duration,
    server: Duration,
    counter: Duration,
}

impl Meter {
    /// For this many events.
    pub fn new(total: u64) -> Arc<Self> {
        Self::up_to(total, total)
    }

    /// The same, with figures of the first `measured` alone: those after them wait for something else.
    pub fn up_to(measured: u64, total: u64) -> Arc<Self> {
        Arc::new(Self {
            total,
            measured,
            warm_up: (total / 10).max(1),
            count: AtomicU64::new(0),
            parties: OnceLock::new(),
            warm: OnceLock::new(),
            done: OnceLock::new(),
            changed: Notify::new(),
        })
    }

    /// Says whose processor time is read. It must be said before a tenth of the events has come.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn watch(&self, program: u32, servers: &[u32]) -> anyhow::Result<()> {
        let _ = self.parties.set((Clock::of(&[program])?, Clock::of(servers)?));
        Ok(())
    }

    /// One more event. All are counted on one thread.
    pub fn step(&self) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count == self.warm_up {
            let _ = self.warm.set(self.read());
        }
        if count == self.measured {
            let _ = self.done.set(self.read());
        }
        if count == self.total {
            self.changed.notify_one();
        }
    }

    fn read(&self) -> Option<Reading> {
        let at = Instant::now();
        let none = Duration::ZERO;
        let (program, server) = match self.parties.get() {
            Some((program, server)) => (program.now().ok()?, server.now().ok()?),
            None => (none, none),
        };
        Some(Reading { at, program, server, counter: cpu::this_thread().ok()? })
    }

    /// Waits for the last event, while `runs` holds.
    ///
    /// # Errors
    /// It does not come in time, or `runs` fails.
    pub async fn finished(&self, mut runs: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let missing = || self.count.load(Ordering::Relaxed) < self.total;
        while missing() {
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(LOOK) => {}
            }
            let count = self.count.load(Ordering::Relaxed);
            if missing() {
                runs().with_context(|| format!("after {count} of {} events", self.total))?;
                if begun.elapsed() > LIMIT {
                    bail!("{count} of {} events came within {LIMIT:?}", self.total);
                }
            }
        }
        Ok(())
    }

    /// What was done between the two readings.
    ///
    /// # Errors
    /// Not all events have come, or a party's clock could not be read.
    pub fn work(&self) -> anyhow::Result<Work> {
        let reading = |mark: &OnceLock<Option<Reading>>| *mark.get()?;
        let (warm, done) = reading(&self.warm).zip(reading(&self.done)).context("there are no two readings")?;
        let events = (self.measured - self.warm_up) as f64;
        let each = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / events;
        Ok(Work {
            rate: events / done.at.duration_since(warm.at).as_secs_f64(),
            program: each(warm.program, done.program),
            server: each(warm.server, done.server),
            counter: each(warm.counter, done.counter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rates_and_parties_are_of_the_last_nine_tenths() {
        let own = std::process::id();
        let meter = Meter::new(10);
        meter.watch(own, &[own]).unwrap();
        assert!(meter.work().is_err(), "before all came");
        std::thread::sleep(Duration::from_millis(30));
        for _ in 0..10 {
            meter.step();
        }
        meter.finished(|| Ok(())).await.unwrap();
        let work = meter.work().unwrap();
        assert!(work.rate > 9.0 / 0.030, "the time before the first tenth counts: {work:?}");
        assert!(work.program < 30_000.0 / 9.0 && work.counter <= work.program, "{work:?}");
    }

    #[tokio::test]
    async fn late_events_are_waited_for_and_not_measured() {
        let meter = Meter::up_to(8, 10);
        for count in 1..=10 {
            if count == 9 {
                assert!(meter.finished(|| anyhow::bail!("two are missing")).await.is_err());
                std::thread::sleep(Duration::from_millis(30));
            }
            meter.step();
        }
        meter.finished(|| Ok(())).await.unwrap();
        assert!(meter.work().unwrap().rate > 7.0 / 0.030);
    }

    #[tokio::test]
    async fn a_program_that_ended_is_not_waited_for() {
        let meter = Meter::new(10);
        meter.step();
        let error = meter.finished(|| anyhow::bail!("it ended")).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "after 1 of 10 events: it ended");
    }
}
