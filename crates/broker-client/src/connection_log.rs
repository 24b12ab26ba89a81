//! What a program logs of its connection to a broker: a bounded number of lines, whatever the broker does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_wire::nats::{Event, Loss};

/// Lines of a kind in a [`PERIOD`], at most.
const MAX_LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// Logs what happens to a connection, for [`tidegate_wire::nats::Options::on_event`]. A broker that complains of every
/// message, or that cannot be reached for hours, fills no log: of each kind of line there are ten in a minute, and the
/// next one says how many were left out.
pub fn connection_log() -> Arc<dyn Fn(&Event) + Send + Sync> {
    let log = ConnectionLog::default();
    Arc::new(move |event| log.note(event, Instant::now()))
}

#[derive(Default)]
struct ConnectionLog {
    states: Mutex<LineBudget>,
    attempts: Mutex<LineBudget>,
    errors: Mutex<LineBudget>,
}

impl ConnectionLog {
    fn note(&self, event: &Event, now: Instant) {
        let budget = match event {
            Event::Connected | Event::Disconnected(_) => &self.states,
            Event::ConnectFailed(_) => &self.attempts,
            Event::ServerError(_) => &self.errors,
            other => return tracing::debug!(event = %other, "the connection to the broker changed"),
        };
        // No caller's code runs under the lock.
        let Some(left_out) = budget.lock().unwrap_or_else(PoisonError::into_inner).take(now) else { return };
        if left_out > 0 {
            tracing::warn!(left_out, "left out lines like the next one");
        }
        match event {
            Event::Connected => tracing::info!("connected to the broker"),
            Event::Disconnected(Loss::Closed) => tracing::debug!("closed the connection to the broker"),
            Event::Disconnected(loss) => tracing::warn!(%loss, "lost the connection to the broker"),
            Event::ConnectFailed(error) => tracing::warn!(%error, "cannot reach the broker"),
            other => tracing::warn!(error = %other, "the broker reported an error"),
        }
    }
}

/// How many lines there are in the current period.
#[derive(Debug, Default)]
struct LineBudget {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LineBudget {
    /// Takes a line. Returns how many were left out before it; `None`: it is left out itself.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == MAX_LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_lines_in_a_minute_and_the_rest_is_counted() {
        let (begin, mut budget) = (Instant::now(), LineBudget::default());
        let at = |millis| begin + Duration::from_millis(millis);
        let taken = (0..1000).filter(|millis| budget.take(at(*millis)) == Some(0)).count();
        assert_eq!(taken, 10);
        assert_eq!(budget.take(at(59_999)), None);
        assert_eq!(budget.take(at(60_000)), Some(991));
        assert_eq!(budget.take(at(60_001)), Some(0));
    }

    /// Complaints of a broker do not hide that it was lost.
    #[test]
    fn each_kind_has_its_own_lines() {
        let (now, log) = (Instant::now(), ConnectionLog::default());
        (0..1000).for_each(|_| log.note(&Event::ServerError("x".into()), now));
        log.note(&Event::Disconnected(Loss::Silent), now);
        let lines = |budget: &Mutex<LineBudget>| budget.lock().unwrap().lines;
        assert_eq!((lines(&log.errors), lines(&log.states), lines(&log.attempts)), (10, 1, 0));
    }
}
