//! In the place of a broker's ingress: answers which topics it serves, from the file that the operator really wrote.
//! (What an ingress does with the file is tested where it is made.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::{Authority, LeafRequest};
use tidegate_broker_client::connect;
use tidegate_broker_client::contract::{ServesReply, ServesRequest, TOPICS_FILE, Topics};
use tidegate_broker_client::identity::{Identity, Source, file};
use tidegate_broker_client::layout::ingress::TOPICS_SUBJECT;
use tidegate_operator::kubernetes::names;
use tidegate_test_broker::TestBroker;
use tidegate_wire::nats::{Client, ConnectError, Publish};
use time::OffsetDateTime;

use super::Space;

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);
/// The file is read again when it is asked for after so long: there may be hundreds of topics.
const FRESH: Duration = Duration::from_millis(200);
/// A server answers within this.
const ANSWER: Duration = Duration::from_secs(10);

/// Answers as long as the test lasts.
pub fn serve(space: &Space, server: &TestBroker, broker: &str) {
    serve_in(space, server, broker, 0);
}

/// The same in the pod of this number.
pub fn serve_in(space: &Space, server: &TestBroker, broker: &str, ordinal: usize) {
    let (authority, servers) = (server.authority().clone(), server.servers());
    let (secrets, names) = (space.api::<Secret>(), [names::topics(broker), names::ingress(broker)]);
    let pod = format!("{broker}-broker-{ordinal}");
    tokio::spawn(async move {
        let user = authority.ingress_user(OffsetDateTime::now_utc()).expect("user");
        loop {
            if let Ok(client) = connected(&authority, &servers, &user).await {
                answer(&client, &pod, &secrets, &names).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// Until the connection is given up.
async fn answer(client: &Client, pod: &str, secrets: &Api<Secret>, [name, identity]: &[String; 2]) {
    let mut questions = client.subscribe(TOPICS_SUBJECT, None).expect("subscribed");
    let (mut known, mut read) = (Topics::default(), None::<Instant>);
    while let Some(question) = questions.next().await {
        let asked: ServesRequest = serde_json::from_slice(question.payload()).expect("a question");
        if read.is_none_or(|read| read.elapsed() >= FRESH) {
            (known, read) = (topics(secrets, name).await, Some(Instant::now()));
        }
        let served = known.topics.iter().find(|topic| asked.topic.as_ref() == Some(&topic.id));
        let revision = served.map(|topic| topic.revision.clone());
        // What is asked for all the time is asked for without it.
        let generation = if asked.topic.is_none() { generation(secrets, identity).await } else { None };
        let reply = ServesReply { pod: pod.to_owned(), revision, generation };
        let payload = serde_json::to_vec(&reply).expect("JSON");
        let subject = question.reply().expect("somebody asks");
        let _ = client.publish_connected(&Publish { subject, payload: &payload, ..Publish::default() }).await;
    }
}

/// Of which generation an identity is.
pub async fn generation(secrets: &Api<Secret>, name: &str) -> Option<u64> {
    let data = secrets.get_opt(name).await.ok()??.data?;
    std::str::from_utf8(&data.get(file::GENERATION)?.0).ok()?.parse().ok()
}

/// What the ingress is told; nothing before it was.
pub async fn topics(secrets: &Api<Secret>, name: &str) -> Topics {
    let Ok(Some(secret)) = secrets.get_opt(name).await else { return Topics::default() };
    Topics::parse(&secret.data.expect("data")[TOPICS_FILE].0).expect("a file that an ingress takes")
}

/// The claims of an account that the server has.
pub async fn claims(server: &TestBroker, account: &str) -> Option<String> {
    let user = server.authority().system_user(OffsetDateTime::now_utc()).expect("user");
    let client = connected(server.authority(), &server.servers(), &user).await.expect("connected");
    let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
    let answer = client.request(&Publish { subject: &subject, ..Publish::default() }, ANSWER).await.expect("an answer");
    let text = String::from_utf8(answer.payload().to_vec()).expect("text");
    Some(text).filter(|text| !text.is_empty())
}

async fn connected(authority: &Authority, servers: &[String], user: &User) -> Result<Client, ConnectError> {
    let leaf = authority.leaf(&LeafRequest::client("test"), OffsetDateTime::now_utc()).expect("leaf");
    let identity = Identity {
        ca: authority.trusted_servers(),
        certificate: leaf.certificate,
        key: leaf.key,
        user_jwt: user.jwt.clone(),
        user_seed: user.seed.clone(),
    };
    let source: Source = Arc::new(move || Ok(identity.clone()));
    Client::connect(connect::options("test", servers, source).expect("options")).await
}
