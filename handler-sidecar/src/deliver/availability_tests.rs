use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt as _;
use http::StatusCode;
use tidegate_broker_client::probes::Check;
use tidegate_broker_client::statuses::StatusRules;
use tidegate_test_broker::free_port;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::deliver::listeners::PortName;

const LONG: Duration = Duration::from_secs(5);

fn at(port: u16) -> Loopback {
    Loopback { port, named: PortName::Setting }
}

fn status(code: StatusCode) -> Answer {
    Answer::Status { code, retry_after: None, text: String::new() }
}

#[tokio::test]
async fn it_follows_the_listener() {
    let port = free_port();
    let handler = Arc::new(Availability::new(at(port), Probes::default()));
    let watcher = tokio::spawn({
        let handler = handler.clone();
        async move { handler.watch().await }
    });
    assert!(timeout(Duration::from_millis(250), handler.turn()).await.is_err());
    let _listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    assert!(matches!(timeout(LONG, handler.turn()).await.unwrap(), Turn::Free));
    handler.unreachable("test");
    assert!(handler.free_turn().is_none());
    timeout(LONG, handler.turn()).await.unwrap();
    watcher.abort();
}

/// A readiness probe decides; a listener that was closed has a new program, whose startup probe comes first.
#[tokio::test]
async fn its_probes_decide() {
    let gate = || Arc::new(AtomicBool::new(false));
    let (started, ready) = (gate(), gate());
    let answer = |gate: Arc<AtomicBool>| {
        axum::routing::get(move || async move {
            if gate.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
        })
    };
    let app = axum::Router::new().route("/s", answer(started.clone())).route("/r", answer(ready.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _server = tokio::spawn(async move { axum::serve(listener, app).await });
    let probe = |path: &str| Probe {
        check: Check::Http { tls: false, port, path: path.into(), headers: Vec::new() },
        initial_delay: Duration::from_millis(50),
        period: Duration::from_millis(20),
        timeout: LONG,
        success_threshold: 2,
        failure_threshold: 2,
    };
    let handler =
        Arc::new(Availability::new(at(port), Probes { startup: Some(probe("/s")), readiness: Some(probe("/r")) }));
    let _watcher = tokio::spawn({
        let handler = handler.clone();
        async move { handler.watch().await }
    });
    let says = async |expected: &str| {
        let mut state = handler.subscribe();
        let said = state.wait_for(|state| matches!(state, State::Unreachable(why) if why.contains(expected)));
        timeout(LONG, said).await.unwrap_or_else(|_| panic!("never says {expected}")).unwrap();
    };
    says("its startupProbe is asked 50ms after the start").await;
    ready.store(true, Ordering::Relaxed);
    says(&format!("its startupProbe fails: GET http://127.0.0.1:{port}/s answers 503")).await;
    started.store(true, Ordering::Relaxed);
    timeout(LONG, handler.turn()).await.unwrap();
    ready.store(false, Ordering::Relaxed);
    started.store(false, Ordering::Relaxed);
    says("its readinessProbe fails").await;
    assert!(handler.free_turn().is_none());
    ready.store(true, Ordering::Relaxed);
    // It is the same program: it has started.
    timeout(LONG, handler.turn()).await.unwrap();
}

/// However long a program takes to listen or to be ready, what waits for it is found out soon after.
#[test]
fn a_pause_is_short_beside_the_wait_so_far() {
    for pauses in [CONNECT_PAUSES, PROBE_PAUSES] {
        let mut waited = Duration::ZERO;
        for failures in 1..200 {
            let pause = pauses.wait(failures, 0.5);
            assert!(pause <= pauses.initial + waited / 10, "{pause:?} after {waited:?}");
            waited += pause;
        }
    }
}

/// A program that is ready long before its probe's next question is due.
#[tokio::test]
async fn a_long_period_does_not_hold_up_the_first_event() {
    let is_ready = Arc::new(AtomicBool::new(false));
    let answer = axum::routing::get({
        let is_ready = is_ready.clone();
        move || async move {
            if is_ready.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().route("/r", answer);
    let _server = tokio::spawn(async move { axum::serve(listener, app).await });
    let readiness = Probe {
        check: Check::Http { tls: false, port, path: "/r".into(), headers: Vec::new() },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(3600),
        timeout: LONG,
        success_threshold: 1,
        failure_threshold: 3,
    };
    let handler = Arc::new(Availability::new(at(port), Probes { startup: None, readiness: Some(readiness) }));
    let _watcher = tokio::spawn({
        let handler = handler.clone();
        async move { handler.watch().await }
    });
    let mut state = handler.subscribe();
    let unready = state.wait_for(|state| matches!(state, State::Unreachable(why) if why.contains("503")));
    timeout(LONG, unready).await.unwrap().unwrap();
    is_ready.store(true, Ordering::Relaxed);
    assert!(matches!(timeout(LONG, handler.turn()).await.unwrap(), Turn::Free));
}

fn end(handler: &Availability, event: u64, code: StatusCode, turn: Turn) -> Blame {
    let answer = status(code);
    let (class, began) = (answer.class(&StatusRules::default()), Instant::now());
    handler.ended(&AttemptEnd { event, is_first: true, turn, began, answer: &answer, class })
}

/// One whose breaker has just opened.
fn failing() -> Availability {
    let handler = Availability::new(at(1), Probes::default());
    handler.reachable();
    assert_eq!(end(&handler, 0, StatusCode::INTERNAL_SERVER_ERROR, Turn::Free), Blame::Event);
    assert!(handler.free_turn().is_some());
    assert_ne!(end(&handler, 1, StatusCode::INTERNAL_SERVER_ERROR, Turn::Free), Blame::Event);
    assert!(handler.free_turn().is_none());
    handler
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_tries_a_failing_handler() {
    let handler = failing();
    let begun = Instant::now();
    assert_eq!(handler.turn().await, Turn::Trial);
    assert_eq!(begun.elapsed(), Duration::from_millis(20));
    let second = handler.turn();
    tokio::pin!(second);
    assert!(timeout(LONG, &mut second).await.is_err(), "two at a time");
    let begun = Instant::now();
    assert_ne!(end(&handler, 0, StatusCode::BAD_GATEWAY, Turn::Trial), Blame::Event);
    assert_eq!(second.await, Turn::Trial);
    assert_eq!(begun.elapsed(), Duration::from_millis(502), "a tenth of the outage so far");
    let third = handler.turn();
    tokio::pin!(third);
    assert!((&mut third).now_or_never().is_none());
    assert_eq!(end(&handler, 1, StatusCode::OK, Turn::Trial), Blame::Event);
    assert_eq!(third.now_or_never(), Some(Turn::Free));
    assert!(handler.free_turn().is_some());
}

/// Who comes first tries first, and an event that is taken away meanwhile is no trial.
#[tokio::test(start_paused = true)]
async fn events_try_it_in_turn() {
    let handler = failing();
    let (mut first, mut second) = (Box::pin(handler.turn()), Box::pin(handler.turn()));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    tokio::select! {
        biased;
        _ = &mut second => panic!("the second one overtakes"),
        turn = &mut first => assert_eq!(turn, Turn::Trial),
    }
    assert_ne!(end(&handler, 3, StatusCode::INTERNAL_SERVER_ERROR, Turn::Trial), Blame::Event);
    drop(second);
    assert_eq!(timeout(LONG, handler.turn()).await, Ok(Turn::Trial));
}

/// A container that is restarted again and again is not up in between.
#[tokio::test(start_paused = true)]
async fn a_connection_says_nothing_about_how_events_end() {
    let handler = failing();
    handler.unreachable("refused");
    assert_eq!(*handler.state.borrow(), State::Unreachable("refused".into()));
    handler.reachable();
    assert!(matches!(&*handler.state.borrow(), State::Failing { last, .. } if last.contains("500")));
    assert_eq!(handler.turn().now_or_never(), Some(Turn::Trial), "at once: it is another program");
    assert_eq!(end(&handler, 1, StatusCode::BAD_REQUEST, Turn::Trial), Blame::Event);
    assert!(handler.free_turn().is_some(), "a refusal is a sign of life");
}

/// As many events as there can be end at the same time, on several threads: nothing waits, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_shared_by_threads() {
    let handler = Arc::new(failing());
    let ended = (0..4).map(|thread| {
        let handler = handler.clone();
        tokio::spawn(async move {
            for event in 0..200 {
                let code = if event == 199 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
                end(&handler, thread * 1000 + event, code, Turn::Trial);
            }
        })
    });
    futures::future::join_all(ended).await;
    assert_eq!(end(&handler, 1, StatusCode::OK, Turn::Trial), Blame::Event);
    assert_eq!(timeout(LONG, handler.turn()).await, Ok(Turn::Free));
}
