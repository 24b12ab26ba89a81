//! The pages of `tidegate console`, on an API server with the aggregated API, for users with and without rights.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use serde_json::json;
use tidegate_cli::console::Console;
use tidegate_cli::stored::Location;
use tidegate_cloudevents::Event;
use tokio_util::task::AbortOnDropHandle;

use crate::subresources::{ANN, BOB, Data, event};
use crate::support::{eventually, server_config};

/// May read nothing.
const EVE: &str = "eve";
/// What an event's publisher may have written.
const HOSTILE: &str = "<script>alert(1)</script>\u{202e}\u{1b}[2J";

/// Asks a console as a browser does.
struct Browser {
    host: String,
    port: u16,
    cookie: String,
    _serving: AbortOnDropHandle<()>,
}

struct Page {
    status: u16,
    head: String,
    body: String,
}

/// A console of a user, and its address.
pub async fn serve(data: &Data, user: &str) -> (String, AbortOnDropHandle<()>) {
    let mut config = server_config();
    config.default_retry = false;
    config.auth_info.impersonate = (user != "admin").then(|| user.to_owned());
    let location = Location { namespace: data.space.name.clone(), context: None };
    let console = Console::bind(0, Client::try_from(config).unwrap(), location).await.unwrap();
    (console.url(), AbortOnDropHandle::new(tokio::spawn(console.serve())))
}

impl Browser {
    async fn open(data: &Data, user: &str) -> Self {
        let (url, serving) = serve(data, user).await;
        let (host, query) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let port = host.split_once(':').unwrap().1.parse().unwrap();
        let mut browser = Self { host: host.to_owned(), port, cookie: String::new(), _serving: serving };
        let entered = browser.ask("GET", &format!("/{query}"), "", "").await;
        let cookie = entered.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        browser.cookie = cookie.split(';').next().unwrap().to_owned();
        browser
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Page {
        let (host, port, cookie, length) = (&self.host, self.port, &self.cookie, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = answer.await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Page { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Page {
        let page = self.ask("GET", path, "", "").await;
        assert!(!page.body.contains("<script") && !page.body.contains(['\u{202e}', '\u{1b}']), "{path}: {}", page.body);
        page
    }

    /// A page that is shown, and has all of these.
    async fn shown(&self, path: &str, parts: &[&str]) -> String {
        let page = self.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        for part in parts {
            assert!(page.body.contains(part), "{path}: no {part}: {}", page.body);
        }
        page.body
    }

    /// A page that is refused with this status and these words.
    async fn refused(&self, path: &str, status: u16, words: &str) {
        let page = self.get(path).await;
        assert!(page.status == status && page.body.contains(words), "{path}: {} {}", page.status, page.body);
    }
}

/// Ann may look at topics and handlers too.
pub async fn start(purpose: &str) -> Data {
    let data = Data::start(purpose).await;
    let rules = json!([{"apiGroups": ["tidegate.io"], "resources": ["*"], "verbs": ["get", "list"]}]);
    data.space.create::<Role>(json!({"metadata": {"name": "viewer"}, "rules": rules})).await;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "metadata": {"name": "viewer"}, "roleRef": {"apiGroup": group, "kind": "Role", "name": "viewer"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": ANN}],
    });
    data.space.create::<RoleBinding>(binding).await;
    let ann = Browser::open(&data, ANN).await;
    let topics = format!("/ns/{}/topics", data.space.name);
    eventually("a right", async || (ann.get(&topics).await.status == 200).then_some(())).await;
    data
}

#[tokio::test]
async fn pages_lead_from_namespaces_to_a_stored_event() {
    let data = start("console-events").await;
    for number in 1..=12 {
        data.store(&event(&number.to_string(), format!("apples {number}").as_bytes())).await;
    }
    let hostile = Event::builder("<script>alert(1)</script>\u{202e}", "/shop", "order.new")
        .attribute("datacontenttype", "text/plain");
    data.store(&hostile.data(HOSTILE.to_owned() + "\n<b>").build().unwrap()).await;
    let space = &data.space.name;
    let (topic, admin) = (format!("/ns/{space}/topics/orders"), Browser::open(&data, "admin").await);
    admin.shown("/", &[&format!("href=\"/ns/{space}/topics\"")]).await;

    let ann = Browser::open(&data, ANN).await;
    ann.shown("/", &["name=\"namespace\"", "User &quot;ann&quot; cannot list", &format!("value=\"{space}\"")]).await;
    let chosen = ann.get(&format!("/?namespace={space}")).await;
    assert!(chosen.status == 303 && chosen.head.contains(&format!("location: /ns/{space}/topics")), "{}", chosen.head);
    ann.shown(
        &format!("/ns/{space}/topics"),
        &[&format!("href=\"{topic}\""), ">ready<", &format!("every ServiceAccount of {space}")],
    )
    .await;
    let shown = ann
        .shown(
            &topic,
            &[
                "<dt>Published in the last minute</dt><dd>13</dd>",
                &format!("/ns/{space}/handlers/billing"),
                &format!("{topic}/events/13"),
                "&lt;script&gt;alert(1)&lt;/script&gt;",
                "<caption>Checks, from broker to handler</caption>",
            ],
        )
        .await;
    assert!(!shown.contains(&format!("{topic}/events/3\"")), "the latest ten: {shown}");

    let listed = ann.shown(&format!("{topic}/events"), &["apples 1<", "apples 12<"]).await;
    assert!(!listed.contains("Earlier events") && !listed.contains("Next page"), "{listed}");
    ann.shown(&format!("{topic}/events?continue=12"), &["/events/12\"", "Earlier events"]).await;
    let found = ann.get(&format!("{topic}/events?sequence=12")).await;
    assert!(found.status == 303 && found.head.contains(&format!("location: {topic}/events/12")), "{}", found.head);
    ann.shown(&format!("{topic}/events/12"), &["apples 12", "order.new", "Data: 9 bytes"]).await;
    ann.shown(&format!("{topic}/events/13"), &["3c 73 63 72 69 70 74", "not text"]).await;
    ann.refused(&format!("{topic}/events/14"), 404, "has no event with sequence 14").await;
    ann.refused(&format!("/ns/{space}/topics/other"), 404, "correct the name").await;
    ann.refused(&format!("/ns/{space}/topics?continue=x"), 410, "begin with its first page").await;
}

#[tokio::test]
async fn pages_lead_from_handlers_to_a_dead_letter() {
    let data = start("console-letters").await;
    let history = r#"[{"time":"2026-01-01T00:00:00Z","status":503,"error":"busy <script>"}]"#;
    let why = [
        ("Tidegate-Reason", "attempts-used-up"),
        ("Tidegate-Last-Status", "503"),
        ("Tidegate-Attempt-History", history),
    ];
    data.dead_letter(&event("a", b"pears"), &why).await;
    for number in 2..=130 {
        data.dead_letter(&event(&number.to_string(), b"x"), &[("Tidegate-Reason", "too-old")]).await;
    }
    let (space, ann) = (&data.space.name, Browser::open(&data, ANN).await);
    let handler = format!("/ns/{space}/handlers/billing");
    ann.shown(
        &format!("/ns/{space}/handlers"),
        &[&format!("href=\"{handler}\""), &format!("/ns/{space}/topics/orders")],
    )
    .await;
    // No one makes pods here.
    ann.shown(&handler, &["class=\"state red\">red<", "Pods ready", &format!("{handler}/letters/10\"")]).await;

    let letters = format!("{handler}/letters");
    let first = ann.shown(&letters, &[&format!("{letters}/100\""), "attempts-used-up"]).await;
    let next = first.split_once("rel=\"next\" href=\"").unwrap().1.split_once('"').unwrap().0.replace("&amp;", "&");
    let second = ann.shown(&next, &[&format!("{letters}/101\""), &format!("{letters}/130\"")]).await;
    assert!(!second.contains("Next page") && !first.contains(&format!("{letters}/101\"")), "{second}");
    let found =
        ann.shown(&format!("{letters}?reason=attempts-used-up&type=order.new&text=pears"), &["value=\"pears\""]).await;
    assert!(found.contains(&format!("{letters}/1\"")) && !found.contains(&format!("{letters}/2\"")), "{found}");
    ann.shown(&format!("{letters}/1"), &["attempts-used-up", "2026-01-01T00:00:00Z", "busy &lt;script&gt;", "pears"])
        .await;
    ann.refused(&format!("{letters}/999"), 404, "no such stored event").await;
}

#[tokio::test]
async fn each_user_sees_what_the_cluster_lets_that_user_see() {
    let mut data = start("console-rights").await;
    data.store(&event("1", b"secret apples")).await;
    data.dead_letter(&event("a", b"secret pears"), &[]).await;
    let space = data.space.name.clone();
    let (topic, handler) = (format!("/ns/{space}/topics/orders"), format!("/ns/{space}/handlers/billing"));
    let (bob, eve) = (Browser::open(&data, BOB).await, Browser::open(&data, EVE).await);
    for path in [&topic, &handler] {
        let shown = bob.shown(path, &["ClusterRole tidegate-data-reader", "Checks, from broker to handler"]).await;
        assert!(!shown.contains("secret"), "{shown}");
        eve.refused(path, 403, "ask for that right").await;
    }
    for path in [
        format!("{topic}/events"),
        format!("{topic}/events/1"),
        format!("{handler}/letters"),
        format!("{handler}/letters/1"),
    ] {
        bob.refused(&path, 403, "ClusterRole tidegate-data-reader").await;
        eve.refused(&path, 403, "ClusterRole tidegate-data-reader").await;
    }
    eve.refused(&format!("/ns/{space}/topics"), 403, "User &quot;eve&quot; cannot list").await;

    // What can be shown is shown while the rest is away.
    let ann = Browser::open(&data, ANN).await;
    ann.shown(&topic, &["secret apples"]).await;
    data.end_operator().await;
    eventually("the API server does not reach an operator", async || {
        let page = ann.get(&format!("{topic}/events")).await;
        (page.status == 503 && page.body.contains("no operator answers")).then_some(())
    })
    .await;
    ann.shown(&topic, &["no operator answers", "Published in the last minute"]).await;
}
