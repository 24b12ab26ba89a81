//! Keys of users outside the operator: random, each with a generation, replaced while the one before still works (pure).
//!
//! A new key is handed out first; sidecars and publishers need a while to hear of it. When this handover is over, the
//! account refuses every user JWT that was signed before the key was made. One time per account says that, however many
//! keys there were, and it also ends the users of an earlier account of the same name.

use std::time::Duration;

use nkeys::{KeyPair, KeyPairType};
use ring::rand::{SecureRandom as _, SystemRandom};
use time::OffsetDateTime;

use crate::authority::AuthorityError;
use crate::jwt;

/// The first byte of a seed's encoding, and the letter of a user in it.
const USER_SEED: &str = "SU";

/// How far ahead of this clock a time may be that another operator's clock gave.
const MAX_CLOCK_SKEW: time::Duration = time::Duration::hours(1);

/// Whether no operator can have written this time, unless its clock was wrong.
pub fn is_ahead(time: OffsetDateTime, now: OffsetDateTime) -> bool {
    time > now.saturating_add(MAX_CLOCK_SKEW)
}

/// A user's key, and what is to be known of it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserKey {
    /// The nkey seed.
    pub seed: String,
    /// Its history.
    pub record: KeyRecord,
}

/// What is known of a user's key besides the key itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRecord {
    /// Number of the key: 1 for the first one, and one more for each that replaces another.
    pub generation: u32,
    /// When it was made, in whole seconds; `None`: by a version that derived keys.
    pub issued: Option<OffsetDateTime>,
    /// User JWTs that were signed before this are refused, also while the key is handed over.
    pub refused_before: Option<OffsetDateTime>,
    /// The request that it was made for.
    pub request: Option<String>,
}

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserKey").field("record", &self.record).finish_non_exhaustive()
    }
}

impl KeyRecord {
    /// Until when the key before works too; `None`: there is none.
    pub fn handover_end(&self, handover: Duration, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let issued = self.issued.filter(|issued| self.refused_before.is_none_or(|refused| refused < *issued))?;
        let handover = time::Duration::try_from(handover).unwrap_or(time::Duration::MAX);
        Some(issued.saturating_add(handover)).filter(|end| now < *end)
    }

    /// From which time on user JWTs must have been signed; `None`: whenever they were.
    pub fn refused_before(&self, handover: Duration, now: OffsetDateTime) -> Option<OffsetDateTime> {
        match self.handover_end(handover, now) {
            Some(_) => self.refused_before,
            None => self.issued.max(self.refused_before),
        }
    }
}

impl UserKey {
    /// The key of a user that has none. `before`: what is remembered of keys that are lost; they work until the handover
    /// is over.
    ///
    /// # Errors
    /// No randomness.
    pub fn first(
        before: Option<&KeyRecord>,
        request: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let issued = after(before.and_then(|before| before.issued), now);
        Ok(Self {
            seed: random_seed()?,
            record: KeyRecord {
                generation: before.map_or(1, |before| before.generation.saturating_add(1)),
                issued: Some(issued),
                // Nobody has an older one that is to be let in.
                refused_before: before.map_or(Some(issued), |before| before.refused_before),
                request: request.map(str::to_owned),
            },
        })
    }

    /// The key as it is to be: a new one if another request asks for it, as soon as a handover that is under way is over.
    /// `user_jwt`: what was signed for it last.
    ///
    /// # Errors
    /// No randomness.
    pub fn for_request(
        self,
        request: Option<&str>,
        user_jwt: &str,
        handover: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, AuthorityError> {
        let is_asked_for = request.is_some_and(|request| self.record.request.as_deref() != Some(request));
        if !is_asked_for || self.record.handover_end(handover, now).is_some() {
            return Ok(self);
        }
        // Clocks of operators differ: what was signed last must be refused with the rest. Nobody verified that JWT.
        let signed = jwt::issue_time(user_jwt).filter(|signed| !is_ahead(*signed, now)).max(self.record.issued);
        Ok(Self {
            seed: random_seed()?,
            record: KeyRecord {
                generation: self.record.generation.saturating_add(1),
                refused_before: self.record.refused_before(handover, now),
                issued: Some(after(signed, now)),
                request: request.map(str::to_owned),
            },
        })
    }

    /// The key pair; `None`: the seed is none of a user.
    pub fn pair(&self) -> Option<KeyPair> {
        KeyPair::from_seed(&self.seed).ok().filter(|_| self.seed.starts_with(USER_SEED))
    }

    /// When a JWT for it is signed: not before it was made, whatever the clock says.
    pub(crate) fn signing_time(&self, now: OffsetDateTime) -> OffsetDateTime {
        self.record.issued.map_or(now, |issued| issued.max(now))
    }
}

/// Now in whole seconds, as JWTs have it, but after this.
fn after(last: Option<OffsetDateTime>, now: OffsetDateTime) -> OffsetDateTime {
    let now = now.replace_nanosecond(0).unwrap_or(now);
    last.map_or(now, |last| now.max(last.saturating_add(time::Duration::SECOND)))
}

fn random_seed() -> Result<String, AuthorityError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AuthorityError::Randomness)?;
    Ok(KeyPair::new_from_raw(KeyPairType::User, bytes)?.seed()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDOVER: Duration = Duration::from_secs(180);

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
    }

    fn refused(key: &UserKey, seconds: i64) -> Option<OffsetDateTime> {
        key.record.refused_before(HANDOVER, at(seconds))
    }

    #[test]
    fn a_key_is_replaced_once_for_each_request_and_the_one_before_works_until_the_handover_is_over() {
        let first = UserKey::first(None, None, at(0)).unwrap();
        assert_eq!((first.record.generation, refused(&first, 0)), (1, Some(at(0))), "none is let in from before");
        let ask =
            |key: &UserKey, request, seconds| key.clone().for_request(request, "", HANDOVER, at(seconds)).unwrap();
        assert_eq!(ask(&first, None, 500), first);
        let second = ask(&first, Some("leak"), 500);
        assert_eq!((second.record.generation, second.record.request.as_deref()), (2, Some("leak")));
        assert_ne!(second.seed, first.seed);
        assert!(second.pair().is_some());
        assert_eq!(ask(&second, Some("leak"), 900), second, "once");
        assert_eq!(ask(&second, None, 900), second, "that the request is withdrawn is none");
        for (seconds, until) in [(500, at(0)), (679, at(0)), (680, at(500)), (9_000, at(500))] {
            assert_eq!(refused(&second, seconds), Some(until), "{seconds}");
        }
        assert_eq!(second.record.handover_end(HANDOVER, at(600)), Some(at(680)));
        assert_eq!(ask(&second, Some("again"), 600), second, "one at a time");
        let third = ask(&second, Some("again"), 680);
        assert_eq!(
            (third.record.generation, refused(&third, 700), refused(&third, 860)),
            (3, Some(at(500)), Some(at(680)))
        );
    }

    #[test]
    fn a_key_that_was_derived_stays_until_it_is_replaced() {
        let derived = UserKey {
            record: KeyRecord { generation: 1, ..KeyRecord::default() },
            ..UserKey::first(None, None, at(0)).unwrap()
        };
        assert_eq!(refused(&derived, 1_000), None);
        let next = derived.for_request(Some("x"), "", HANDOVER, at(1_000)).unwrap();
        assert_eq!((next.record.generation, refused(&next, 1_000), refused(&next, 1_180)), (2, None, Some(at(1_000))));
    }

    #[test]
    fn a_lost_key_is_replaced_and_what_was_refused_stays_so() {
        let before =
            KeyRecord { generation: 4, issued: Some(at(100)), refused_before: Some(at(50)), request: Some("x".into()) };
        let next = UserKey::first(Some(&before), Some("x"), at(1_000)).unwrap();
        assert_eq!(
            (next.record.generation, refused(&next, 1_000), refused(&next, 1_180)),
            (5, Some(at(50)), Some(at(1_000)))
        );
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_an_old_key_alive() {
        let key = UserKey::first(None, None, at(1_000)).unwrap();
        let next = key.for_request(Some("x"), "", HANDOVER, at(0)).unwrap();
        assert_eq!(next.record.issued, None.or(Some(at(1_001))));
        assert_eq!(next.signing_time(at(0)), at(1_001));
    }

    /// Whoever may edit a Secret writes the record and the user JWT in it.
    #[test]
    fn no_time_that_somebody_wrote_panics_or_binds_the_next_key() {
        let last = OffsetDateTime::from_unix_timestamp(253_402_300_799).unwrap();
        for (issued, refused_before) in [(Some(last), None), (Some(at(0)), Some(last)), (Some(last), Some(last))] {
            let record = KeyRecord { generation: u32::MAX, issued, refused_before, request: None };
            record.handover_end(HANDOVER, at(0));
            record.handover_end(Duration::MAX, at(0));
            record.refused_before(HANDOVER, at(0));
            assert_eq!(UserKey::first(Some(&record), None, at(9)).unwrap().record.generation, u32::MAX);
        }
        use base64::Engine as _;
        let claims = format!("{{\"iat\": {}}}", last.unix_timestamp());
        let forged = format!("x.{}.x", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(jwt::issue_time(&forged), Some(last));
        let key = UserKey::first(None, None, at(0)).unwrap();
        let next = key.for_request(Some("leak"), &forged, HANDOVER, at(900)).unwrap();
        assert_eq!(next.record.issued, Some(at(900)));
    }

    #[test]
    fn no_secret_is_shown() {
        let key = UserKey::first(None, None, at(0)).unwrap();
        assert!(!format!("{key:?}").contains(&key.seed));
    }
}
