use std::collections::BTreeSet;

use super::*;

const GRACE: Duration = Duration::from_secs(60);

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

fn authority() -> Authority {
    Authority::generate("orders", now()).unwrap()
}

fn decide(authority: &Authority, observed: &Observed, at: OffsetDateTime) -> Next {
    next(authority, authority.rollover.request.as_deref(), observed, GRACE, at)
}

fn some() -> Vec<String> {
    vec!["x".to_owned()]
}

#[test]
fn it_begins_when_it_is_asked_for_or_due() {
    let (rested, observed) = (authority(), Observed::default());
    let asked = |request| next(&rested, request, &observed, GRACE, now());
    assert_eq!(asked(None), Next::Rest);
    assert_eq!(asked(Some("leak")), Next::Begin(Cause::Request("leak".into())));
    let held = Observed { held: Some("growing".into()), ..Observed::default() };
    assert_eq!(next(&rested, Some("leak"), &held, GRACE, now()), Next::Wait(Wait::Held("growing".into())));
    let begun = rested.begin("orders", &Cause::Request("leak".into()), now()).unwrap();
    let over = begun.sign().drop_former().settle();
    assert_eq!(decide(&over, &observed, now()), Next::Rest, "once for each request");
    let late = now() + time::Duration::days(3650 - 364);
    assert_eq!(next(&rested, None, &observed, GRACE, late), Next::Begin(Cause::End));
    assert_eq!(next(&rested, None, &observed, GRACE, late - time::Duration::days(2)), Next::Rest);
    let issuers = Issuers { servers: rested.issuers.clients.clone(), ..rested.issuers.clone() };
    let earlier = Authority { issuers, ..rested };
    assert_eq!(decide(&earlier, &observed, now()), Next::Begin(Cause::NotSeparate));
}

#[test]
fn each_stage_waits_for_all_that_it_concerns() {
    let begun = authority().begin("orders", &Cause::End, now()).unwrap();
    let told = begun.told(now());
    let signing = told.sign().told(now());
    let dropping = signing.drop_former().told(now());
    let late = now() + GRACE;
    let behind = |what, seen: Observed| (seen, Next::Wait(Wait::Behind(what, some())));
    for authority in [&begun, &told, &signing, &dropping] {
        let held = Observed { held: Some("h".into()), unwritten: some(), ..Observed::default() };
        assert_eq!(decide(authority, &held, late), Next::Wait(Wait::Held("h".into())));
        let unwritten = Observed { unwritten: some(), servers: some(), ..Observed::default() };
        let (seen, wait) = behind("identities to be written", unwritten);
        assert_eq!(decide(authority, &seen, late), wait);
    }
    for authority in [&told, &signing, &dropping] {
        for (seen, wait) in [
            behind("servers", Observed { servers: some(), ingresses: some(), ..Observed::default() }),
            behind("ingresses", Observed { ingresses: some(), sidecars: some(), ..Observed::default() }),
            behind("sidecars", Observed { sidecars: some(), ..Observed::default() }),
        ] {
            assert_eq!(decide(authority, &seen, late), wait, "{:?}", authority.rollover);
        }
    }
    let done = Observed::default();
    for untold in [&begun, &told.sign(), &signing.drop_former()] {
        assert_eq!(decide(untold, &Observed { servers: some(), ..Observed::default() }, late), Next::Told);
    }
    assert_eq!(decide(&told, &done, now()), Next::Wait(Wait::Publishers(late)));
    assert_eq!(decide(&told, &done, late), Next::Sign);
    assert_eq!(decide(&signing, &done, now()), Next::Drop, "nobody outside has a leaf");
    let published = Observed { has_publishers: true, ..Observed::default() };
    assert_eq!(decide(&signing, &published, now()), Next::Wait(Wait::Publishers(late)));
    assert_eq!(decide(&signing, &published, late), Next::Drop);
    assert_eq!(decide(&dropping, &published, now()), Next::Settle);
    assert_eq!(decide(&dropping.settle(), &done, now()), Next::Rest);
}

/// Who has an identity, and of which generation. Each takes over a new one whenever it likes.
struct World {
    authority: Authority,
    /// All stages by generation, as identities were made of them.
    made: Vec<Authority>,
    /// Of the server, an ingress, a sidecar and a publisher outside.
    has: [u64; 4],
    now: OffsetDateTime,
}

impl World {
    /// Whether each of the two verifies the other: by what it trusts, and what the other shows.
    fn can_connect(&self, server: u64, client: u64) -> bool {
        let accepted = self.of(server).anchors().clients.contains(&self.of(client).issuers.clients.certificate);
        accepted && self.trusts(client, server)
    }

    fn trusts(&self, client: u64, server: u64) -> bool {
        self.of(client).trusted_servers().contains(&self.of(server).issuers.servers.certificate)
    }

    fn of(&self, generation: u64) -> &Authority {
        &self.made[usize::try_from(generation).unwrap()]
    }

    fn observed(&self) -> Observed {
        let behind = |who: usize| if self.has[who] < self.authority.rollover.generation { some() } else { Vec::new() };
        Observed {
            servers: behind(0),
            ingresses: behind(1),
            sidecars: behind(2),
            has_publishers: true,
            ..Observed::default()
        }
    }

    fn step(&mut self) -> Next {
        let next = decide(&self.authority, &self.observed(), self.now);
        let authority = match &next {
            Next::Begin(cause) => self.authority.begin("orders", cause, self.now).unwrap(),
            Next::Told => self.authority.told(self.now),
            Next::Sign => self.authority.sign(),
            Next::Drop => self.authority.drop_former(),
            Next::Settle => self.authority.settle(),
            Next::Rest | Next::Wait(_) => return next,
        };
        if authority.rollover.generation > self.authority.rollover.generation {
            self.made.push(authority.clone());
        }
        self.authority = authority;
        next
    }
}

/// In whatever order those who have identities take the new ones over, any of them can connect to any server at any moment.
/// Publishers outside need at most their grace.
#[test]
fn whoever_is_first_can_connect_at_every_moment() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let first = authority();
        let issuers = Issuers { servers: first.issuers.clients.clone(), ..first.issuers.clone() };
        let first = if seed % 2 == 0 { first } else { Authority { issuers, ..first } };
        let mut begun = first.clone();
        begun.rollover.request = None;
        let (mut world, mut seen) =
            (World { made: vec![first], authority: begun, has: [0; 4], now: now() }, BTreeSet::new());
        let mut asked = Some("leak");
        for _ in 0..500 {
            world.now += Duration::from_secs(random.u64(0..20));
            let who = random.usize(0..4);
            let newest = world.authority.rollover.generation;
            // A publisher takes whatever there is within half of its grace.
            world.has[who] = random.u64(world.has[who]..=newest);
            if world.authority.rollover.told.is_some_and(|told| world.now - told > GRACE / 2) {
                world.has[3] = newest;
            }
            if let Some(request) = asked.take() {
                let authority = world.authority.begin("orders", &Cause::Request(request.into()), world.now).unwrap();
                world.made.push(authority.clone());
                world.authority = authority;
            } else if world.step() == Next::Settle {
                seen.insert("settled");
            }
            let [server, ingress, sidecar, publisher] = world.has;
            for client in [ingress, sidecar, publisher] {
                assert!(
                    world.can_connect(server, client),
                    "seed {seed}: {:?} {:?}",
                    world.has,
                    world.authority.rollover
                );
            }
            // Publishers over HTTPS trust what the ingress shows.
            assert!(world.trusts(publisher, ingress), "seed {seed}: {:?}", world.has);
            if !seen.is_empty() {
                break;
            }
        }
        assert!(seen.contains("settled"), "seed {seed}: {:?}", world.authority.rollover.stage);
        let (last, first) = (&world.authority, &world.made[0]);
        assert!(last.issuers.are_separate() && last.rollover.generation == 3);
        let old = &first.issuers.clients.certificate;
        assert!(!last.anchors().clients.contains(old) && !last.trusted_servers().contains(old));
    }
}
