//! `tidegate console` as a process: who is answered, and what becomes of those who are not. Its pages are tested with the
//! operator, on an API server.

use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::stored::{Cluster, refusal};
use crate::support::{Dev, Received, raw, status};

/// A running console.
struct Running {
    process: Dev,
    host: String,
    port: u16,
    token: String,
    cookie: String,
    cluster: Cluster,
}

/// An answer: its status, all of its head, and its body.
struct Page {
    status: u16,
    head: String,
    body: String,
}

impl Running {
    async fn start(answer: impl Fn(&Received) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        Self::start_with("console", answer).await
    }

    async fn start_with(
        line: &str,
        answer: impl Fn(&Received) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let cluster = Cluster::answering(answer).await;
        let process = Dev::start(cluster.command(line));
        let line = process.until("open http://");
        let address = line.strip_prefix("open http://").unwrap().split(' ').next().unwrap();
        let (host, token) = address.split_once("/?token=").unwrap();
        let port = host.split_once(':').unwrap().1.parse().unwrap();
        let (host, token) = (host.to_owned(), token.to_owned());
        let mut running = Self { process, host, port, token, cookie: String::new(), cluster };
        let entered = running.ask("GET", &format!("/?token={}", running.token), &[]);
        let cookie = entered.header("set-cookie");
        running.cookie = cookie.split(';').next().unwrap().to_owned();
        running
    }

    /// The answer to a request with these headers and no others.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Page {
        self.ask_host(method, path, &[&[("Host", self.host.as_str())], headers].concat())
    }

    fn ask_host(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Page {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let answer = raw(self.port, &format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Page { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
    }

    /// With its cookie.
    fn get(&self, path: &str) -> Page {
        self.ask("GET", path, &[("Cookie", &self.cookie)])
    }
}

impl Page {
    fn header(&self, name: &str) -> String {
        let found = self.head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }
}

fn namespaces(_: &Received) -> Response<Full<Bytes>> {
    let names = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": [{
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "shop"},
    }]});
    Response::new(names.to_string().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_browser_that_has_the_token_is_answered() {
    let console = Running::start(namespaces).await;
    assert_eq!(console.token.len(), 64);
    let (name, under) = console.host.split_once('.').unwrap();
    assert!(name.len() == 16 && under == format!("localhost:{}", console.port), "{}", console.host);
    let entered = console.ask("GET", &format!("/?token={}", console.token), &[]);
    assert_eq!((entered.status, entered.header("location").as_str()), (303, "/"));
    assert!(entered.header("set-cookie").ends_with("; HttpOnly; SameSite=Strict; Path=/"), "{}", entered.head);
    assert!(!entered.head.contains(&console.token), "the token is not the cookie: {}", entered.head);

    let own = console.get("/");
    assert!(own.status == 200 && own.body.contains("/ns/shop/topics"), "{}", own.body);
    assert_eq!(console.ask("HEAD", "/", &[("Cookie", &console.cookie)]).status, 200);
    let (wrong, other) = (format!("{}x", console.cookie), Running::start(namespaces).await);
    for cookie in [&[][..], &[("Cookie", wrong.as_str())], &[("Cookie", &other.cookie)], &[("Cookie", &console.token)]]
    {
        let refused = console.ask("GET", "/", cookie);
        assert!(refused.status == 401 && !refused.body.contains("shop"), "{cookie:?} {}", refused.body);
    }
    for path in ["/?token=", "/?token=x", &format!("/ns/shop/topics?token={}", console.token), "/?token"] {
        assert_eq!(console.ask("GET", path, &[]).status, 401, "{path}");
    }
    assert_eq!(console.ask("POST", &format!("/?token={}", console.token), &[]).status, 403);
    assert_eq!(console.get("/style.css").header("content-type"), "text/css");
    assert_eq!(console.ask("GET", "/icon.svg", &[]).status, 200, "there is nothing secret in it");
    let asked = console.cluster.server.received().len();
    assert_eq!(asked, 2, "whoever is refused makes no call to the cluster");
    assert!(
        TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), console.port)).is_err(),
        "it listens on 127.0.0.1 and ::1 alone"
    );
}

/// The token is in the command line of a browser, and in logs.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_opens_once() {
    let console = Running::start(namespaces).await;
    let address = format!("/?token={}", console.token);
    assert_eq!(console.ask("GET", &address, &[]).status, 303, "no browser has the cookie yet, as far as is known");
    assert_eq!(console.get("/").status, 200);
    let refused = console.ask("GET", &address, &[]);
    assert!(refused.status == 401 && refused.body.contains("run the command again"), "{}", refused.body);
    assert_eq!(refused.header("set-cookie"), "");
    let again = console.ask("GET", &address, &[("Cookie", &console.cookie)]);
    assert_eq!((again.status, again.header("location"), again.header("set-cookie")), (303, "/".into(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_does_not_find_the_name_can_ask_by_address() {
    let console = Running::start_with("console --by-address", namespaces).await;
    assert_eq!(console.host, format!("127.0.0.1:{}", console.port));
    assert_eq!(console.get("/").status, 200);
    let local = format!("localhost:{}", console.port);
    assert_eq!(console.ask_host("GET", "/", &[("Host", &local), ("Cookie", &console.cookie)]).status, 421);
}

/// A page of another site, whose name was pointed at loopback or which sends its own requests there.
#[tokio::test(flavor = "multi_thread")]
async fn other_pages_of_the_browser_are_not_answered() {
    let console = Running::start(namespaces).await;
    let (own, cookie) = (console.host.clone(), ("Cookie", console.cookie.as_str()));
    let (local, number) = (format!("localhost:{}", console.port), format!("127.0.0.1:{}", console.port));
    assert_eq!(console.ask_host("GET", "/", &[("Host", &own.to_uppercase()), cookie]).status, 200);
    for hosts in [
        &[][..],
        &["evil.example"],
        &[&local],
        &[&number],
        &[&format!("x{own}")],
        &["127.0.0.1"],
        &["127.0.0.1:1"],
        &[&format!("evil.example:{}", console.port)],
        &[&format!("{own}.evil.example")],
        &[own.as_str(), "evil.example"],
    ] {
        let headers: Vec<_> = hosts.iter().map(|host| ("Host", *host)).chain([cookie]).collect();
        let refused = console.ask_host("GET", "/", &headers);
        assert!(refused.status == 421 || refused.status == 400, "{hosts:?} {}", refused.head);
        assert!(!refused.body.contains("shop"), "{hosts:?}");
    }
    let origin = format!("http://{own}");
    assert_eq!(console.ask("GET", "/", &[cookie, ("Origin", &origin)]).status, 200);
    assert_eq!(console.ask("POST", "/", &[cookie, ("Origin", &origin), ("Content-Length", "0")]).status, 405);
    for other in [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "",
        &format!("https://{own}"),
        &format!("http://{local}"),
        &format!("http://{number}"),
    ] {
        for method in ["GET", "POST"] {
            let refused = console.ask(method, "/", &[cookie, ("Origin", other), ("Content-Length", "0")]);
            assert!(refused.status == 403 && !refused.body.contains("shop"), "{method} {other} {}", refused.head);
        }
    }
    assert_eq!(console.ask("POST", "/", &[cookie, ("Content-Length", "0")]).status, 403, "no browser's form");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_says_what_a_browser_may_do_with_it() {
    let console = Running::start(namespaces).await;
    for page in [
        console.get("/"),
        console.get("/nowhere"),
        console.ask("GET", "/", &[]),
        console.ask_host("GET", "/", &[("Host", "a")]),
    ] {
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe") && !policy.contains("script"));
        assert_eq!(page.header("cache-control"), "no-store");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "same-origin");
        assert!(!page.body.contains("<script") && !page.body.contains(" style="), "{}", page.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_well_is_said_on_the_page() {
    let broken = Running::start(|_| Response::new("no JSON".into())).await;
    for path in ["/ns/shop/topics", "/ns/shop/handlers/billing/letters", "/ns/shop/topics/orders/events/1"] {
        let page = broken.get(path);
        assert!(page.status == 502 && page.body.contains("role=\"alert\""), "{path} {} {}", page.status, page.body);
    }
    for (answered, code, heading) in [
        (401, 403, "You may not see this"),
        (403, 403, "You may not see this"),
        (404, 404, "Not found"),
        (409, 409, "Not shown"),
        (410, 410, "Begin again"),
        (503, 503, "The cluster does not answer"),
    ] {
        let refusing = Running::start(move |asked| match asked.path.ends_with("/subresources.tidegate.io") {
            true => Response::new("{}".into()),
            false => refusal(answered, "why it is so"),
        })
        .await;
        for path in ["/ns/shop/topics/orders/events", "/ns/shop/handlers/billing/letters/1"] {
            let page = refusing.get(path);
            assert!(
                page.status == code && page.body.contains("why it is so"),
                "{answered} {}: {}",
                page.status,
                page.body
            );
            assert!(page.body.contains(&format!("<h1>{heading}</h1>")), "{answered}: {}", page.body);
        }
    }
    let away = Running::start(|_| status(503)).await;
    for path in ["/ns/shop/topics", "/ns/shop/handlers/billing/letters"] {
        assert_eq!(away.get(path).status, 503, "{path}");
    }
    assert!(away.get("/").body.contains("name=\"namespace\""), "without a list of namespaces one can be named");
    for (path, code) in [
        ("/ns/Shop/topics", 400),
        ("/ns/%2e%2e/topics", 400),
        ("/ns/shop/topics/a%2Fb", 400),
        ("/ns/shop/topics/orders/events/x", 400),
        ("/ns/shop/topics/orders/events/0", 400),
        ("/?namespace=a%2Fb", 400),
        ("/nowhere", 404),
    ] {
        assert_eq!(away.get(path).status, code, "{path}");
    }
    let asked = away.cluster.server.received();
    assert!(asked.iter().all(|call| !call.path.contains("..") && !call.path.contains("a/b")), "{asked:?}");
    assert!(away.process.terminate(Signal::SIGINT).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_those_that_say_nothing_end() {
    let console = Running::start(namespaces).await;
    let begun = Instant::now();
    let mut idle: Vec<TcpStream> =
        (0..64).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, console.port)).unwrap()).collect();
    assert_eq!(console.get("/").status, 200, "it waits for its turn");
    assert!(begun.elapsed() > Duration::from_secs(5), "there was a turn at once: {:?}", begun.elapsed());
    assert_eq!(idle[0].read(&mut [0; 9]).unwrap_or(0), 0, "it was ended");
    let long = console.ask("GET", &format!("/{}", "a".repeat(32 << 10)), &[("Cookie", &console.cookie)]);
    assert!([414, 431].contains(&long.status), "{}", long.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_starting_is_said() {
    let cluster = Cluster::answering(namespaces).await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (code, told) = cluster.run(&format!("console --port {}", taken.local_addr().unwrap().port())).await;
    assert!(code == Some(1) && told.contains("choose another by --port"), "{told}");
    // A browser would give the token to whoever listens there.
    if let Ok(taken) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        let (code, told) = cluster.run(&format!("console --port {}", taken.local_addr().unwrap().port())).await;
        assert!(code == Some(1) && told.contains("choose another by --port"), "{told}");
    }
    let (code, told) = cluster.run("console --context other").await;
    assert!(code == Some(1) && told.contains("set KUBECONFIG, or correct --context"), "{told}");
}
