//! How fast events come: counted, and timed from the first tenth on, so that no start is part of a rate.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::time::{sleep, timeout};

use crate::{LIMIT, process};

/// A count of events with two times: of the first tenth, and of all.
pub struct Pace {
    total: u64,
    count: AtomicU64,
    warm: OnceLock<Instant>,
    done: OnceLock<Instant>,
}

/// What a program did.
pub struct Work {
    /// Events per second.
    pub rate: f64,
    /// Processor time of its process for each event.
    pub cpu: Duration,
}

impl Pace {
    /// Waits for this many events.
    pub fn of(total: u64) -> Arc<Self> {
        Arc::new(Self { total, count: AtomicU64::new(0), warm: OnceLock::new(), done: OnceLock::new() })
    }

    /// One more.
    pub fn step(&self) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count == self.warm_up() {
            let _ = self.warm.set(Instant::now());
        }
        if count == self.total {
            let _ = self.done.set(Instant::now());
        }
    }

    /// Events per second after the first tenth; an error before all of them came.
    ///
    /// # Errors
    /// Not all have come.
    pub fn rate(&self) -> anyhow::Result<f64> {
        let (warm, done) = self.warm.get().zip(self.done.get()).context("not all events came")?;
        Ok((self.total - self.warm_up()) as f64 / done.duration_since(*warm).as_secs_f64())
    }

    /// Waits for the last event.
    ///
    /// # Errors
    /// It does not come in time.
    pub async fn finished(&self) -> anyhow::Result<()> {
        self.reached(self.total).await.map(drop)
    }

    /// Waits for the last event, and watches the process that delivers them.
    ///
    /// # Errors
    /// It does not come in time, or the process is gone.
    pub async fn watch(&self, pid: u32) -> anyhow::Result<Work> {
        let first = self.reached(self.warm_up()).await?;
        let began = process::cpu(pid)?;
        let last = self.reached(self.total).await?;
        let used = process::cpu(pid)?.saturating_sub(began);
        ensure!(last > first, "too few events to measure");
        Ok(Work { rate: self.rate()?, cpu: used.div_f64((last - first) as f64) })
    }

    fn warm_up(&self) -> u64 {
        (self.total / 10).max(1)
    }

    /// Waits for so many; returns how many there are.
    async fn reached(&self, wanted: u64) -> anyhow::Result<u64> {
        let wait = async {
            while self.count.load(Ordering::Relaxed) < wanted {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = timeout(LIMIT, wait).await;
        let count = self.count.load(Ordering::Relaxed);
        waited.with_context(|| format!("{count} of {wanted} events came within {LIMIT:?}"))?;
        Ok(count)
    }
}
