//! What was tried, as a table: identity × kind of operation × port, with counts.

#![allow(clippy::print_stdout)] // the matrix is what it is run for

use std::collections::BTreeMap;

use crate::doors::operations::Wanted::{self, Allowed, Open, Refused};

/// A kind of operation, with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// To be let in, by what is shown.
    Connect,
    Publish,
    Subscribe,
    /// To let the server write somewhere with its own rights: the reply subject is the requester's choice.
    ForgedReply,
    /// To hear what the topic's account answers to others.
    HearAnswers,
    /// To become one of the brokers.
    JoinRoutes,
    /// To be taken for a server behind this one.
    Leafnode,
    Monitor,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Connect,
        Self::Publish,
        Self::Subscribe,
        Self::ForgedReply,
        Self::HearAnswers,
        Self::JoinRoutes,
        Self::Leafnode,
        Self::Monitor,
    ];

    fn port(self) -> u16 {
        match self {
            Self::JoinRoutes => 6222,
            Self::Leafnode => 7422,
            Self::Monitor => 8222,
            _ => 4222,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::ForgedReply => "forged reply",
            Self::HearAnswers => "hear others' answers",
            Self::JoinRoutes => "join the brokers",
            Self::Leafnode => "pose as a leafnode",
            Self::Monitor => "read the monitor",
        }
    }
}

struct Cell {
    who: String,
    kind: Kind,
    what: String,
    wanted: Wanted,
    is_allowed: bool,
}

/// The table so far.
#[derive(Default)]
pub struct Matrix(Vec<Cell>);

/// Of one identity and one kind.
#[derive(Default)]
struct Counts {
    tried: usize,
    allowed: usize,
    known_open: usize,
    should_not: usize,
    should: usize,
}

impl Counts {
    fn add(&mut self, cell: &Cell) {
        self.tried += 1;
        self.allowed += usize::from(cell.is_allowed);
        match (cell.wanted, cell.is_allowed) {
            (Open, true) => self.known_open += 1,
            (Refused, true) => self.should_not += 1,
            (Allowed, false) => self.should += 1,
            (Allowed, true) | (Refused | Open, false) => {}
        }
    }

    fn line(&self, port: &str, kind: &str, who: &str) -> String {
        let Self { tried, allowed, known_open, should_not, should } = self;
        format!(
            "{port:<5} {kind:<21} {who:<17} {tried:>6} {allowed:>8} {:>8} {should_not:>23} {should:>22} {known_open:>11}",
            tried - allowed
        )
    }
}

impl Matrix {
    pub fn row(&mut self, who: &str, kind: Kind, what: impl Into<String>, wanted: Wanted, is_allowed: bool) {
        self.0.push(Cell { who: who.to_owned(), kind, what: what.into(), wanted, is_allowed });
    }

    /// Prints it, and returns what is not as it should be. A kind of which nothing was ever allowed proves nothing: each
    /// has a positive control.
    pub fn judge(&self, servers: usize) -> Vec<String> {
        let mut counts: BTreeMap<(Kind, &str), Counts> = BTreeMap::new();
        let mut all = Counts::default();
        for cell in &self.0 {
            counts.entry((cell.kind, &cell.who)).or_default().add(cell);
            all.add(cell);
        }
        println!("\nauthorization matrix, {servers} server(s)");
        println!(
            "port  operation             identity           tried  allowed  refused  allowed-but-should-not refused-but-should-not  known-open"
        );
        for ((kind, who), counts) in &counts {
            println!("{}", counts.line(&kind.port().to_string(), kind.name(), who));
        }
        println!("{}", all.line("all", "", ""));
        let is_control =
            |kind: Kind| move |cell: &&Cell| cell.kind == kind && cell.wanted == Allowed && cell.is_allowed;
        let proven = |kind: &Kind| self.0.iter().any(|cell| is_control(*kind)(&cell));
        let (proven, unproven): (Vec<Kind>, Vec<Kind>) = Kind::ALL.into_iter().partition(proven);
        println!("positive controls: {} of {} kinds of operation", proven.len(), Kind::ALL.len());
        println!("allowed-but-should-not: {}", all.should_not);
        let wrong = self.0.iter().filter_map(|Cell { who, kind, what, wanted, is_allowed }| {
            let remark = match (wanted, is_allowed) {
                (Allowed, false) => "should be allowed",
                (Refused, true) => "should be refused",
                (Open, false) => "is closed by now: mark it so",
                (Allowed, true) | (Refused, false) | (Open, true) => return None,
            };
            Some(format!("{} {} {what}: {who} {remark}", kind.port(), kind.name()))
        });
        wrong
            .chain(unproven.into_iter().map(|kind| format!("{}: nothing shows that it can succeed", kind.name())))
            .collect()
    }
}

#[test]
fn what_should_not_be_is_counted_and_named() {
    let mut matrix = Matrix::default();
    for kind in Kind::ALL {
        matrix.row("control", kind, "x", Allowed, true);
    }
    assert_eq!(matrix.judge(1), Vec::<String>::new());
    matrix.row("publisher", Kind::Publish, "events.>", Refused, true);
    matrix.row("publisher", Kind::Monitor, "x", Open, true);
    assert_eq!(matrix.judge(1), ["4222 publish events.>: publisher should be refused"]);
    let mut unproven = Matrix::default();
    unproven.row("control", Kind::Connect, "x", Allowed, true);
    assert_eq!(unproven.judge(1).len(), Kind::ALL.len() - 1);
}
