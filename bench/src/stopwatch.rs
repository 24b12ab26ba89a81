//! How long each event of a run took from where it was sent to where it arrived.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::{MissedTickBehavior, interval};

/// The first so many events of a run warm it up.
const WARM_UP: usize = 20;

/// The times of the events of one run.
pub struct Stopwatch {
    numbers: Range<u64>,
    laps: Vec<(OnceLock<Instant>, OnceLock<Instant>)>,
}

impl Stopwatch {
    /// For these events; all others are ignored.
    pub fn new(numbers: Range<u64>) -> Arc<Self> {
        let laps = numbers.clone().map(|_| Default::default()).collect();
        Arc::new(Self { numbers, laps })
    }

    /// Calls `send` for one event after the other, at this distance.
    ///
    /// # Errors
    /// Those of `send`.
    pub async fn pace(
        &self,
        every: Duration,
        mut send: impl AsyncFnMut(u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in self.numbers.clone() {
            ticks.tick().await;
            if let Some((sent, _)) = self.lap(number) {
                let _ = sent.set(Instant::now());
            }
            send(number).await?;
        }
        Ok(())
    }

    /// The event is where it should be.
    pub fn arrived(&self, number: u64) {
        if let Some((_, arrived)) = self.lap(number) {
            let _ = arrived.set(Instant::now());
        }
    }

    /// The events that have not arrived.
    pub fn missing(&self) -> usize {
        self.laps.iter().filter(|(_, arrived)| arrived.get().is_none()).count()
    }

    /// Milliseconds of each event, warm-up excluded.
    ///
    /// # Errors
    /// Some have not arrived.
    pub fn milliseconds(&self) -> anyhow::Result<Vec<f64>> {
        let missing = self.missing();
        ensure!(missing == 0, "{missing} events did not arrive");
        let lap = |(sent, arrived): &(OnceLock<Instant>, OnceLock<Instant>)| {
            Some(arrived.get()?.duration_since(*sent.get()?).as_secs_f64() * 1e3)
        };
        Ok(self.laps.iter().skip(WARM_UP).filter_map(lap).collect())
    }

    fn lap(&self, number: u64) -> Option<&(OnceLock<Instant>, OnceLock<Instant>)> {
        self.laps.get(usize::try_from(number.checked_sub(self.numbers.start)?).ok()?)
    }
}
