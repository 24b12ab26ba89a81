//! The one step that comes next (pure).
//!
//! More servers: routes → reload → pods → members → copies → counts. Fewer: leaders of streams → copies → what lies there →
//! leader of the cluster → removed while it runs → pod → volume → routes. A server is never stopped before it is removed:
//! two of which one is stopped have no majority, and then nothing can be removed any more. Where one was stopped all the same
//! (a pod that got its node while others were told to end), its pod comes back, and it is removed then.

use super::view::View;
use super::{BrokerStep, Next, Observed, Ordinal, Site, SiteStep, Step, StreamId, Wait};

/// Streams whose copies change at the same time, so that what has to be copied does not keep events waiting.
const STREAMS_AT_A_TIME: usize = 8;

/// What comes next for a broker that is to have so many servers: 1, 3 or 5.
///
/// The same observation gives the same step, so a step that was done and not noticed is done again, and a caller that
/// ends between two steps leaves nothing behind that the next one would have to know.
#[must_use]
pub fn plan(site: &Site, observed: &Observed, wanted: usize) -> Next {
    let Some(view) = View::new(site, observed) else {
        return stopped(site, observed).map_or(Next::Wait(Wait::Leader), |last| act(SiteStep::SetPods(last + 1)));
    };
    let away = view.away();
    if let Some(last) = away.last().copied().filter(|last| *last >= site.pods) {
        return act(SiteStep::SetPods(last + 1));
    }
    if !away.is_empty() {
        return Next::Wait(Wait::Away(view.names(away)));
    }
    if !view.is_agreed() {
        return Next::Wait(Wait::Agreement);
    }
    // What was removed and still runs goes first, also if it is wanted again by now: it comes back as a new server.
    let target = (0..wanted).find(|ordinal| view.is_removed(*ordinal)).unwrap_or(wanted);
    let change = Change { view: &view, target, wanted };
    if target < wanted && change.last_member() >= target {
        return Next::Wait(Wait::Removed(view.name(target)));
    }
    let next = if site.pods > target || change.last_member() >= target { change.shrink() } else { change.grow() };
    match next {
        Some(next) => next,
        // Its pod is told to end.
        None if target < wanted => Next::Wait(Wait::Ending(view.names([target]))),
        None => Next::Done,
    }
}

/// The last server that may be a member and was stopped, where no server leads. Those that run know how many members there
/// are and not which; a member has its volume until it is removed.
fn stopped(site: &Site, observed: &Observed) -> Option<Ordinal> {
    let running = observed.servers.range(..site.pods).filter_map(|(_, server)| server.cluster.as_ref());
    let members = running.map(|cluster| cluster.size).max()?;
    site.volumes.last().copied().filter(|last| members > site.pods && *last >= site.pods)
}

struct Change<'a> {
    view: &'a View<'a>,
    /// Servers that there are to be next.
    target: usize,
    /// And in the end.
    wanted: usize,
}

impl Change<'_> {
    fn grow(&self) -> Option<Next> {
        let Self { view, target, .. } = *self;
        let site = view.site;
        if site.pods < target {
            // A volume that a server left would come up with what it knew then.
            if let Some(next) = self.leftover_volumes() {
                return Some(next);
            }
            if site.routes < target {
                return Some(act(SiteStep::SetRoutes(target)));
            }
        }
        if let Some(next) = self.reload() {
            return Some(next);
        }
        if site.pods < target {
            return Some(act(SiteStep::SetPods(target)));
        }
        let joining: Vec<Ordinal> = (0..target).filter(|ordinal| !view.members.contains(ordinal)).collect();
        if !joining.is_empty() {
            return Some(Next::Wait(Wait::Joining(view.names(joining))));
        }
        self.copies().or_else(|| self.copying()).or_else(|| self.left_overs())
    }

    fn shrink(&self) -> Option<Next> {
        let Self { view, target, .. } = *self;
        let leaving: Vec<Ordinal> = view.members.iter().copied().filter(|ordinal| *ordinal >= target).collect();
        if let Some(last) = leaving.last() {
            let next = self.leaders().or_else(|| self.copies()).or_else(|| self.copying());
            return next.or_else(|| self.evacuate(*last)).or_else(|| Some(self.remove(*last)));
        }
        // One that may become a member while it is being stopped must become one first, and be removed: also one that has a
        // node and does not answer yet.
        let may_join = |ordinal: &Ordinal| view.is_joining(*ordinal) || view.is_silent(*ordinal);
        let joining: Vec<Ordinal> = (target..view.site.pods).filter(may_join).collect();
        if !joining.is_empty() {
            return Some(Next::Wait(Wait::Joining(view.names(joining))));
        }
        if view.site.pods > target {
            return Some(act(SiteStep::SetPods(target)));
        }
        self.copies().or_else(|| self.copying()).or_else(|| self.left_overs())
    }

    /// Streams get as many copies as there are servers, a few at a time. Of one that is coming down to one copy the
    /// consumers are paused until it has: it is gone on with until then.
    ///
    /// Copies are taken away only of a stream of which every copy is whole: the servers keep the leader's, and that may be
    /// the one that lacks something.
    fn copies(&self) -> Option<Next> {
        let copies = odd(self.target);
        let differs = |(_, stream): &(&StreamId, &super::Stream)| {
            if copies == 1 && stream.is_moving {
                return true;
            }
            stream.copies < copies || (stream.copies > copies && stream.is_settled())
        };
        let under_way = self.view.streams().filter(|of| !differs(of) && !of.1.is_settled()).count();
        let streams: Vec<StreamId> = self
            .view
            .streams()
            .filter(differs)
            .map(|(id, _)| id.clone())
            .take(STREAMS_AT_A_TIME.saturating_sub(under_way))
            .collect();
        (!streams.is_empty()).then(|| act_on(BrokerStep::SetCopies { streams, copies }))
    }

    /// Every copy of every stream is whole, or is waited for.
    fn copying(&self) -> Option<Next> {
        let unsettled = self.view.unsettled();
        (unsettled > 0).then_some(Next::Wait(Wait::Copying(unsettled)))
    }

    /// Streams that a server leads which is to go are led by one that stays, so that a publisher notices nothing. One
    /// that has no whole copy there moves with the rest.
    fn leaders(&self) -> Option<Next> {
        let leads = |stream: &super::Stream| stream.leader.is_some_and(|leader| leader >= self.target);
        let to = |stream: &super::Stream| {
            let mut whole = stream.holders.iter().filter(|(_, has_all)| **has_all).map(|(ordinal, _)| *ordinal);
            whole.find(|ordinal| *ordinal < self.target)
        };
        let streams: Vec<(StreamId, String)> = self
            .view
            .streams()
            .filter(|(_, stream)| leads(stream) && !stream.is_moving)
            .filter_map(|(id, stream)| Some((id.clone(), self.view.name(to(stream)?))))
            .take(STREAMS_AT_A_TIME)
            .collect();
        (!streams.is_empty()).then(|| act_on(BrokerStep::StepDown(streams)))
    }

    /// What lies on the last server moves. Only when that is removed comes the next one: what moves goes to any server
    /// that is a member, so two that are both to go would give it to each other for ever.
    fn evacuate(&self, last: Ordinal) -> Option<Next> {
        let lies_there = |stream: &super::Stream| stream.copies == 1 && stream.holders.contains_key(&last);
        let single = self.view.streams().filter(|(_, stream)| lies_there(stream)).map(|(id, _)| id.clone()).collect();
        (self.view.holds(last) > 0).then(|| act_on(BrokerStep::Evacuate { name: self.view.name(last), single }))
    }

    fn remove(&self, last: Ordinal) -> Next {
        if self.view.leader >= self.target {
            return act_on(BrokerStep::MetaStepDown(self.view.name(0)));
        }
        act_on(BrokerStep::RemoveServer(self.view.name(last)))
    }

    /// Once all that is to stay is whole: volumes and routes of servers that went.
    fn left_overs(&self) -> Option<Next> {
        let next = self.leftover_volumes();
        next.or_else(|| (self.view.site.routes != self.wanted).then(|| act(SiteStep::SetRoutes(self.wanted))))
            .or_else(|| self.reload())
    }

    fn leftover_volumes(&self) -> Option<Next> {
        let Self { view, .. } = *self;
        let volume = view.site.volumes.iter().copied().rfind(|ordinal| *ordinal >= view.site.pods)?;
        let present: Vec<Ordinal> =
            view.site.present.iter().copied().filter(|ordinal| *ordinal >= view.site.pods).collect();
        if !present.is_empty() {
            return Some(Next::Wait(Wait::Ending(view.names(present))));
        }
        self.copying().or_else(|| Some(act(SiteStep::RemoveVolume(volume))))
    }

    fn reload(&self) -> Option<Next> {
        let (ordinal, id) = self.view.outdated()?;
        Some(act_on(BrokerStep::Reload { id: id.to_owned(), name: self.view.name(ordinal) }))
    }

    fn last_member(&self) -> Ordinal {
        self.view.members.last().copied().unwrap_or(0)
    }
}

/// Copies of a stream on so many servers: an even number is passed only on the way.
fn odd(servers: usize) -> usize {
    if servers.is_multiple_of(2) { servers.saturating_sub(1).max(1) } else { servers }
}

fn act(step: SiteStep) -> Next {
    Next::Act(Step::Site(step))
}

fn act_on(step: BrokerStep) -> Next {
    Next::Act(Step::Broker(step))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
