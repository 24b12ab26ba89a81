//! How long each event of a run took from when it was to be sent to where it arrived.
//!
//! An open loop: events are sent by a clock, whatever became of those before, and an event that could not be sent in
//! time is late from then on (no coordinated omission).

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

/// The timer of a sleeping thread is late by up to this; what remains is waited for awake.
const AWAKE: Duration = Duration::from_micros(200);
/// Nanoseconds that can be told apart, from and to, with three digits.
const BOUNDS: (u64, u64, u8) = (1_000, 120_000_000_000, 3);

/// The times of the events of one run.
pub struct Stopwatch {
    numbers: Range<u64>,
    every: Duration,
    begin: OnceLock<Instant>,
    arrivals: Vec<OnceLock<Instant>>,
}

impl Stopwatch {
    /// For these events, one after each period; all others are ignored.
    pub fn new(numbers: Range<u64>, every: Duration) -> Arc<Self> {
        let arrivals = numbers.clone().map(|_| OnceLock::new()).collect();
        Arc::new(Self { numbers, every, begin: OnceLock::new(), arrivals })
    }

    /// Calls `send` for each event when its time has come.
    ///
    /// # Errors
    /// Those of `send`.
    pub async fn pace(self: &Arc<Self>, mut send: impl AsyncFnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (tick, mut ticks) = mpsc::unbounded_channel();
        let clock = Arc::clone(self);
        std::thread::Builder::new().name("clock".to_owned()).spawn(move || clock.tick(&tick))?;
        while let Some(number) = ticks.recv().await {
            send(number).await?;
        }
        Ok(())
    }

    fn tick(&self, tick: &mpsc::UnboundedSender<u64>) {
        let begin = *self.begin.get_or_init(Instant::now);
        for (number, place) in self.numbers.clone().zip(0..) {
            let due = begin + self.every * place;
            std::thread::sleep(due.saturating_duration_since(Instant::now()).saturating_sub(AWAKE));
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            if tick.send(number).is_err() {
                return;
            }
        }
    }

    /// The event is where it should be.
    pub fn arrived(&self, number: u64) {
        let place = number.checked_sub(self.numbers.start).and_then(|place| usize::try_from(place).ok());
        if let Some(arrival) = place.and_then(|place| self.arrivals.get(place)) {
            let _ = arrival.set(Instant::now());
        }
    }

    /// The events that have not arrived.
    pub fn missing(&self) -> usize {
        self.arrivals.iter().filter(|arrival| arrival.get().is_none()).count()
    }

    /// The latencies in nanoseconds, without those of the first tenth of the events.
    ///
    /// # Errors
    /// Some have not arrived.
    pub fn latencies(&self) -> anyhow::Result<Histogram<u64>> {
        let missing = self.missing();
        ensure!(missing == 0, "{missing} events did not arrive");
        let begin = *self.begin.get().context("no event was sent")?;
        let mut latencies = empty()?;
        for (arrival, place) in self.arrivals.iter().zip(0u32..).skip(self.arrivals.len() / 10) {
            let arrival = arrival.get().context("an event did not arrive")?;
            let latency = arrival.saturating_duration_since(begin + self.every * place);
            latencies.record(u64::try_from(latency.as_nanos())?)?;
        }
        Ok(latencies)
    }
}

/// No latencies.
///
/// # Errors
/// None: the bounds are valid.
pub fn empty() -> anyhow::Result<Histogram<u64>> {
    let (low, high, digits) = BOUNDS;
    Ok(Histogram::new_with_bounds(low, high, digits)?)
}

/// Milliseconds within which this share of the events arrived.
pub fn milliseconds(latencies: &Histogram<u64>, share: f64) -> f64 {
    latencies.value_at_quantile(share) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_that_is_sent_late_is_late() {
        let stopwatch = Stopwatch::new(0..20, Duration::from_millis(1));
        assert!(stopwatch.latencies().is_err());
        let send = async |number| {
            // The first one holds up all others, which are then late by so much, and not prompt.
            if number == 0 {
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            stopwatch.arrived(number);
            Ok(())
        };
        stopwatch.pace(send).await.unwrap();
        let latencies = stopwatch.latencies().unwrap();
        assert_eq!(latencies.len(), 18, "the first tenth is warm-up");
        assert!(milliseconds(&latencies, 0.0) >= 40.0, "{}", milliseconds(&latencies, 0.0));
    }
}
