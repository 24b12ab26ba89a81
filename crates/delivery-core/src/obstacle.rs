//! What keeps a consumer from being pulled, and when that is worth a report.

use crate::event::Moment;
use crate::exchange::Trouble;

/// That no consumer answers is reported when it has lasted for so long. Until then it may pass by itself: a server shows
/// an account to a second connection before it has subscribed to what that imports (`fetchAccount` of nats-server
/// 2.15.2 registers the account first; 5 to 25 ms on a busy machine), and a consumer has no leader for a moment after
/// its server has gone.
const PASSES_WITHIN: Moment = 2000;

/// What is in the way, if anything is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Obstacle {
    /// No consumer answers, since this moment.
    since: Option<Moment>,
    reported: Option<Trouble>,
}

impl Obstacle {
    /// A pull was not served. Whether there is something to be reported.
    pub fn met(&mut self, now: Moment, trouble: &Trouble) -> bool {
        let lasts = match trouble {
            Trouble::NoConsumer => now >= *self.since.get_or_insert(now) + PASSES_WITHIN || self.reported.is_some(),
            other => !other.is_ordinary(),
        };
        if lasts {
            self.reported = Some(trouble.clone());
        }
        lasts
    }

    /// The consumer answers.
    pub fn passed(&mut self) {
        *self = Self::default();
    }

    /// What is to be reported.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.reported.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_not_reported() {
        let mut obstacle = Obstacle::default();
        assert!(!obstacle.met(0, &Trouble::NoConsumer) && !obstacle.met(PASSES_WITHIN - 1, &Trouble::NoConsumer));
        assert!(!obstacle.met(PASSES_WITHIN - 1, &Trouble::Moved), "which says nothing of it");
        assert!(obstacle.trouble().is_none());
        assert!(obstacle.met(PASSES_WITHIN, &Trouble::NoConsumer), "it lasts");
        assert_eq!(obstacle.trouble(), Some(&Trouble::NoConsumer));
        obstacle.passed();
        assert!(obstacle.trouble().is_none());
        assert!(!obstacle.met(PASSES_WITHIN + 1, &Trouble::NoConsumer), "it begins again");
    }

    #[test]
    fn all_else_is_reported_at_once() {
        let mut obstacle = Obstacle::default();
        let refused = Trouble::Refused("400".to_owned());
        assert!(obstacle.met(0, &refused) && obstacle.trouble() == Some(&refused));
        assert!(obstacle.met(1, &Trouble::NoConsumer), "it is in trouble already");
        assert_eq!(obstacle.trouble(), Some(&Trouble::NoConsumer));
    }
}
