//! Other certificate authorities take the place of a broker's while events flow (pure).
//!
//! 1. *Trusting.* The next authorities are made. Everything trusts the present and the next ones; the present ones sign.
//! 2. *Signing.* The next ones sign. Everything still trusts both.
//! 3. *Dropping.* Nothing trusts the former ones any more.
//!
//! Each stage is one write of the broker's keys, with the [generation](Rollover::generation) of what is made from them.
//! Whoever has an identity carries that generation with it, in the same files, so that it is a fact that can be seen how far
//! everything is. A stage ends when everything is as far; then both neighbours of a connection verify each other, whichever
//! of the two is the first to go on to the next one.

use std::time::Duration;

use time::OffsetDateTime;

use crate::authority::{Authority, AuthorityError};
use crate::issuers::{Anchors, Issuers};

/// A rollover begins by itself when less than this is left of an authority: leaves that are made until its end, and
/// publishers that take months, fit in easily.
pub const BEGIN_BEFORE: time::Duration = time::Duration::days(365);

/// What [`Wait::Behind`] may be of: Secrets and ConfigMaps.
pub const IDENTITIES: &str = "identities to be written";
/// The servers.
pub const SERVERS: &str = "servers";
/// The ingresses.
pub const INGRESSES: &str = "ingresses";
/// The sidecars.
pub const SIDECARS: &str = "sidecars";

/// How far the replacement of a broker's authorities is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollover {
    /// Number of what is made from the authorities: one more with each stage.
    pub generation: u64,
    /// The stage.
    pub stage: Stage,
    /// Since when everybody's Secrets and ConfigMaps are of this stage, in whole seconds; `None`: not all are.
    pub told: Option<OffsetDateTime>,
    /// The last request for it that was taken up.
    pub request: Option<String>,
}

/// A stage of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is to be done.
    #[default]
    Settled,
    /// The next authorities are trusted, and do not sign yet.
    Trusting {
        /// These.
        next: Issuers,
    },
    /// They sign. The former ones are trusted.
    Signing {
        /// These.
        former: Anchors,
    },
    /// The former ones are trusted no longer.
    Dropping,
}

/// Why a rollover begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked for it.
    Request(String),
    /// An authority ends within [`BEGIN_BEFORE`].
    End,
    /// Servers and clients have one authority between them.
    NotSeparate,
}

/// What is to be seen of those who have an identity. Of each that is not as far as the keys, the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Why no step may be taken now; `None`: one may.
    pub held: Option<String>,
    /// Secrets and ConfigMaps that were not written yet.
    pub unwritten: Vec<String>,
    /// Servers that did not say that they use what they were given.
    pub servers: Vec<String>,
    /// Ingresses.
    pub ingresses: Vec<String>,
    /// Sidecars.
    pub sidecars: Vec<String>,
    /// Whether there are publishers outside that have leaves.
    pub has_publishers: bool,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// A rollover begins ([`Authority::begin`]).
    Begin(Cause),
    /// From now on publishers have their time ([`Authority::told`]).
    Told,
    /// The next authorities sign ([`Authority::sign`]).
    Sign,
    /// The former ones are dropped ([`Authority::drop_former`]).
    Drop,
    /// It is over ([`Authority::settle`]).
    Settle,
    /// Something is waited for.
    Wait(Wait),
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Something else is under way.
    Held(String),
    /// These are not as far; what they are.
    Behind(&'static str, Vec<String>),
    /// Publishers, who report nothing, have their time until then.
    Publishers(OffsetDateTime),
}

/// Decides it. `request`: what asks for a rollover. `grace`: the time that publishers are given, in each stage that concerns
/// them.
pub fn next(
    authority: &Authority,
    request: Option<&str>,
    observed: &Observed,
    grace: Duration,
    now: OffsetDateTime,
) -> Next {
    let (concerns_publishers, finish) = match &authority.rollover.stage {
        Stage::Settled => return begin(authority, request, observed, now),
        // Whoever publishes over HTTPS or MQTT verifies servers.
        Stage::Trusting { .. } => (true, Next::Sign),
        Stage::Signing { .. } => (observed.has_publishers, Next::Drop),
        Stage::Dropping => (false, Next::Settle),
    };
    if let Some(why) = &observed.held {
        return Next::Wait(Wait::Held(why.clone()));
    }
    let is_behind =
        |what, names: &Vec<String>| (!names.is_empty()).then(|| Next::Wait(Wait::Behind(what, names.clone())));
    if let Some(wait) = is_behind(IDENTITIES, &observed.unwritten) {
        return wait;
    }
    let Some(told) = authority.rollover.told else { return Next::Told };
    let behind = [(SERVERS, &observed.servers), (INGRESSES, &observed.ingresses), (SIDECARS, &observed.sidecars)];
    if let Some(wait) = behind.into_iter().find_map(|(what, names)| is_behind(what, names)) {
        return wait;
    }
    let until = told + grace;
    if concerns_publishers && now < until { Next::Wait(Wait::Publishers(until)) } else { finish }
}

fn begin(authority: &Authority, request: Option<&str>, observed: &Observed, now: OffsetDateTime) -> Next {
    let asked = request.filter(|request| authority.rollover.request.as_deref() != Some(request));
    let is_ending = authority.issuers.end().is_some_and(|end| end - now < BEGIN_BEFORE);
    let cause = if let Some(request) = asked {
        Cause::Request(request.to_owned())
    } else if is_ending {
        Cause::End
    } else if !authority.issuers.are_separate() {
        Cause::NotSeparate
    } else {
        return Next::Rest;
    };
    match &observed.held {
        Some(why) => Next::Wait(Wait::Held(why.clone())),
        None => Next::Begin(cause),
    }
}

impl Authority {
    /// What is trusted now.
    pub fn anchors(&self) -> Anchors {
        let own = self.issuers.anchors();
        match &self.rollover.stage {
            Stage::Settled | Stage::Dropping => own,
            Stage::Trusting { next } => own.with(&next.anchors()),
            Stage::Signing { former } => own.with(former),
        }
    }

    /// The same with next authorities, whose certificates carry `name`.
    ///
    /// # Errors
    /// A certificate could not be made.
    pub fn begin(&self, name: &str, cause: &Cause, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let generation = self.rollover.generation + 1;
        let next = Issuers::generate(&format!("{name} {generation}"), now)?;
        let request = match cause {
            Cause::Request(request) => Some(request.clone()),
            Cause::End | Cause::NotSeparate => self.rollover.request.clone(),
        };
        Ok(self.at(Rollover { generation, stage: Stage::Trusting { next }, told: None, request }))
    }

    /// The same when all have been told of the stage.
    #[must_use]
    pub fn told(&self, now: OffsetDateTime) -> Self {
        let told = now.replace_nanosecond(0).unwrap_or(now);
        self.at(Rollover { told: Some(told), ..self.rollover.clone() })
    }

    /// The same with the next authorities signing.
    #[must_use]
    pub fn sign(&self) -> Self {
        let Stage::Trusting { next } = &self.rollover.stage else { return self.clone() };
        let stage = Stage::Signing { former: self.issuers.anchors() };
        Self { issuers: next.clone(), ..self.advanced(stage) }
    }

    /// The same without the former ones.
    #[must_use]
    pub fn drop_former(&self) -> Self {
        self.advanced(Stage::Dropping)
    }

    /// The same when it is over. Nothing has to be made again for it.
    #[must_use]
    pub fn settle(&self) -> Self {
        self.at(Rollover { stage: Stage::Settled, told: None, ..self.rollover.clone() })
    }

    fn advanced(&self, stage: Stage) -> Self {
        let Rollover { generation, request, .. } = self.rollover.clone();
        self.at(Rollover { generation: generation + 1, stage, told: None, request })
    }

    fn at(&self, rollover: Rollover) -> Self {
        Self { rollover, ..self.clone() }
    }
}

#[cfg(test)]
#[path = "rollover_tests.rs"]
mod tests;
