//! A pull to which the broker says that no one is there: it is asked again soon, and that is reported only if it lasts.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_delivery_core::lane::timing::LaneTiming;
use tidegate_delivery_core::{
    Action, ByKey, Close, Demand, Discipline, Handler, InboxReport, Input, Moment, Pull, Service, Trouble, Unordered,
};

const ACK_WAIT: Moment = 30_000;
const DEMAND: Demand = Demand { handler: Handler::Up, connected: true, epoch: 1, room: true, turns: usize::MAX };
/// The first pull after the first such answer is sent within this.
const SOON: Moment = 250;
/// So long it may last without a word, and is reported by then.
const QUIET: Moment = 2000;
const REPORTED_BY: Moment = 6000;

fn disciplines() -> [(&'static str, Box<dyn Discipline>); 2] {
    let timing = LaneTiming::of(Duration::from_millis(ACK_WAIT));
    let mut by_key = ByKey::new(4, timing, 1000);
    by_key.input(0, Input::Lanes([0].into()));
    by_key.input(0, Input::Others(BTreeSet::new()));
    [("none", Box::new(Unordered::new(4, ACK_WAIT, 10_000, 7))), ("by key", Box::new(by_key))]
}

/// What it pulls now; what it asks is not answered, and an inbox that it closes is closed.
fn pulls(machine: &mut dyn Discipline, now: Moment) -> Vec<Pull> {
    let mut pulls = Vec::new();
    loop {
        let mut actions = Vec::new();
        machine.actions(now, &DEMAND, &mut actions);
        if actions.is_empty() {
            return pulls;
        }
        for action in actions {
            match action {
                Action::Pull(pull) => pulls.push(pull),
                Action::Close(lane, inbox, Close::InOrder) => {
                    machine.input(now, Input::Inbox(lane, inbox, InboxReport::Closed));
                }
                Action::Ask(lane) => machine.input(now, Input::State(lane, None)),
                _ => {}
            }
        }
    }
}

/// Each pull is answered so until this moment, and then with signs of life. The moments of the topic's pulls, and of the first report.
fn run(machine: &mut dyn Discipline, refused_until: Moment, end: Moment) -> (Vec<Moment>, Option<Moment>) {
    let (mut now, mut sent, mut reported, mut served) = (0, Vec::new(), None, Vec::new());
    while now < end {
        for pull in pulls(machine, now) {
            if now >= refused_until {
                served.push((pull.lane, pull.inbox));
            } else {
                machine.input(now, Input::Inbox(pull.lane, pull.inbox, InboxReport::Lost(Trouble::NoConsumer)));
            }
            if pull.lane == 0 {
                sent.push(now);
            }
        }
        for (lane, inbox) in &served {
            machine.input(now, Input::Inbox(*lane, *inbox, InboxReport::Alive));
        }
        if matches!(machine.service(), Service::Troubled(..) | Service::Partial(..)) {
            reported.get_or_insert(now);
        }
        now += 10;
    }
    (sent, reported)
}

#[test]
fn one_that_is_not_there_yet_is_asked_again_soon_and_not_reported() {
    for (name, mut machine) in disciplines() {
        let (sent, reported) = run(&mut *machine, 30, QUIET + 3000);
        assert!(sent.len() > 1 && sent[1] <= SOON, "{name}: {sent:?}");
        assert_eq!(reported, None, "{name}");
        assert_eq!(machine.service(), Service::Serving, "{name}");
    }
}

#[test]
fn one_that_stays_away_is_reported_and_not_asked_too_often() {
    for (name, mut machine) in disciplines() {
        let (sent, reported) = run(&mut *machine, Moment::MAX, 60_000);
        assert!(reported.is_some_and(|at| (QUIET..=REPORTED_BY).contains(&at)), "{name}: {reported:?}");
        assert!(sent.len() < 100, "{name}: {} pulls in a minute", sent.len());
    }
}
