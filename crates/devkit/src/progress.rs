//! Progress on standard error, with the time elapsed, and bounded waits that say what they wait for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const FIRST_WORD: Duration = Duration::from_secs(3);
const NEXT_WORDS: Duration = Duration::from_secs(10);

/// The clock of one command.
#[derive(Clone, Copy)]
pub struct Progress {
    start: Instant,
}

/// What a look at a condition found.
pub enum Look<T> {
    /// It holds.
    Ready(T),
    /// Not yet, and why.
    NotYet(String),
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Tells a step.
    pub fn say(&self, message: impl AsRef<str>) {
        eprintln!("[{:>6.1}s] {}", self.start.elapsed().as_secs_f64(), message.as_ref());
    }

    /// Looks every `every` until ready, at most for `limit`; says what it waits for when that takes a while.
    ///
    /// # Errors
    /// An error of `look` ends the wait at once; a wait that is over tells the last reason.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        every: Duration,
        mut look: impl FnMut() -> Result<Look<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut next_word = FIRST_WORD;
        loop {
            let why = match look()? {
                Look::Ready(value) => return Ok(value),
                Look::NotYet(why) => why,
            };
            let waited = start.elapsed();
            if waited >= limit {
                bail!("waited {} s for {what}: {why}", limit.as_secs());
            }
            if waited >= next_word {
                self.say(format!("waiting for {what}: {why}"));
                next_word = waited + NEXT_WORDS;
            }
            std::thread::sleep(every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn a_wait_ends_with_the_value() {
        let mut looks = 0;
        let value = Progress::start().wait("three looks", Duration::from_secs(5), SOON, || {
            looks += 1;
            Ok(if looks == 3 { Look::Ready(looks) } else { Look::NotYet("not three".into()) })
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_wait_that_is_over_tells_the_reason() {
        let never = |why: &str| Ok(Look::<()>::NotYet(why.into()));
        let error = Progress::start().wait("it", Duration::ZERO, SOON, || never("closed")).unwrap_err();
        assert!(error.to_string().ends_with("for it: closed"), "{error}");
    }

    #[test]
    fn an_error_ends_the_wait_at_once() {
        let look = || -> Result<Look<()>> { bail!("kubelet died") };
        let error = Progress::start().wait("it", Duration::from_secs(60), SOON, look).unwrap_err();
        assert_eq!(error.to_string(), "kubelet died");
    }
}
