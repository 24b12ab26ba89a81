//! As many events a second as were asked for, and no more, evenly.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What was lost by waiting for the broker or by a clock of milliseconds is caught up on as far as this, no farther.
const SLACK: Duration = Duration::from_millis(20);

/// When the next one may go.
pub struct Pace {
    each: Duration,
    next: Instant,
}

impl Pace {
    /// Of so many a second. The first waits as if another had just gone: it is not recorded when the last one of the
    /// step before went, and the next step may begin at once, because its status has changed.
    pub fn new(rate: i32) -> Self {
        let each = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(1).max(1);
        Self { each, next: Instant::now() + each }
    }

    /// Waits until one may go; a second at most.
    pub async fn turn(&mut self) {
        sleep_until(self.next).await;
        let now = Instant::now();
        self.next = self.next.max(now.checked_sub(SLACK).unwrap_or(now)) + self.each;
    }
}
