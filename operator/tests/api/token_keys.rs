//! The cluster's keys: read with no other rights than every ServiceAccount has, handed to the ingresses, and kept.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::config::AuthInfo;
use kube::{Client, Config};
use serde_json::{Value, json};
use tidegate_broker_client::contract::{TokenTrust, Topics};
use tidegate_crds::EventTopic;
use tidegate_operator::context::Context;
use tidegate_operator::identity::token_keys::{TokenKeys, TokenKeysError};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use tower::util::MapRequestLayer;

use crate::broker::{condition, until_broker};
use crate::support::brokers::{Places, server, topic_on};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually, ingress, rotated_config, server_config};
use crate::topic;

const ISSUER: &str = "https://kubernetes.default.svc";

/// A token of a ServiceAccount of the space, for the audience of a topic.
async fn token(space: &Space, client: &Client, audience: Option<&str>) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &space.name);
    let spec = TokenRequestSpec { audiences: audience.map(str::to_owned).into_iter().collect(), ..Default::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request("checkout", &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token
}

async fn account(space: &Space) {
    space.create::<ServiceAccount>(json!({"metadata": {"name": "checkout"}})).await;
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

fn has(trust: Option<&TokenTrust>, kid: &str) -> bool {
    trust.is_some_and(|trust| trust.keys.keys.iter().any(|key| key.kid.as_deref() == Some(kid)))
}

async fn file(space: &Space) -> Topics {
    ingress::topics(&space.api(), "default-topics").await
}

/// Where connections go, and those that are open.
#[derive(Default)]
struct Target {
    server: Option<String>,
    open: Vec<AbortOnDropHandle<()>>,
}

/// A port whose connections go to the API server that is named last; to none, if none is.
struct Switch {
    address: SocketAddr,
    to: Arc<Mutex<Target>>,
    _task: AbortOnDropHandle<()>,
}

impl Switch {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to: Arc<Mutex<Target>> = Arc::default();
        let shared = to.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let mut shared = shared.lock().unwrap();
                let Some(to) = shared.server.clone() else { continue };
                let copied = async move {
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                };
                shared.open.push(AbortOnDropHandle::new(tokio::spawn(copied)));
            }
        }));
        Self { address, to, _task: task }
    }

    /// Ends all connections, and passes on the next ones to this server.
    fn set(&self, server: Option<&Config>) {
        let to = server.map(|server| server.cluster_url.authority().unwrap().to_string());
        *self.to.lock().unwrap() = Target { server: to, open: Vec::new() };
    }

    fn client(&self) -> Client {
        let mut config = server_config();
        config.cluster_url = format!("https://{}", self.address).parse().unwrap();
        Client::try_from(config).unwrap()
    }
}

/// A client that proves itself by this.
fn client_of(auth_info: AuthInfo) -> Client {
    let mut config = server_config();
    config.auth_info = auth_info;
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn a_service_account_without_any_role_may_read_them() {
    let space = Space::new("issuer").await;
    account(&space).await;
    let own = token(&space, &space.client, None).await;
    let auth_info = AuthInfo { token: Some(own.clone().into()), ..AuthInfo::default() };
    let client = client_of(auth_info);
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(client.clone(), &space.name);
    assert!(pods.get_opt("any").await.unwrap_err().to_string().contains("forbidden"), "it has no rights");
    let keys = TokenKeys::default();
    assert!(keys.refresh(&client).await && !keys.refresh(&client).await, "read, and the same again");
    let known = keys.known();
    assert_eq!((known.failure, known.unusable), (None, Vec::new()));
    let trust = known.trust.unwrap();
    assert_eq!(trust.issuer, ISSUER);
    assert!(has(Some(&trust), &kid(&own)), "{} is not in {trust:?}", kid(&own));
    // Nobody without a token may.
    let nobody = client_of(AuthInfo::default());
    keys.refresh(&nobody).await;
    let known = keys.known();
    assert!(matches!(known.failure, Some(TokenKeysError::NotRead { .. })), "{:?}", known.failure);
    assert_eq!(known.trust, Some(trust), "what was read stays");
}

#[tokio::test]
async fn the_ingresses_have_the_keys_that_tokens_are_signed_with() {
    let _turn = turn().await;
    let space = Space::new("keys").await;
    account(&space).await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    let broker = until_broker(&space, "default", "TokensAccepted", "KeysKnown").await;
    assert_eq!(condition(&broker, "TokensAccepted").unwrap().status, "True");
    let found_topic = topic::until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    let audience = found_topic.status.unwrap().address.unwrap().audience.unwrap();
    let token = token(&space, &space.client, Some(&audience)).await;
    let claims = part(&token, 1);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(ISSUER), &json!([audience])));
    assert_eq!(claims["sub"], json!(format!("system:serviceaccount:{}:checkout", space.name)));
    let tokens = file(&space).await.tokens;
    assert_eq!(tokens.as_ref().map(|tokens| tokens.issuer.as_str()), Some(ISSUER));
    assert!(has(tokens.as_ref(), &kid(&token)));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_are_added_and_nothing_is_forgotten_while_the_api_server_is_away() {
    let _turn = turn().await;
    let (space, switch) = (Space::new("rotated").await, Switch::new().await);
    account(&space).await;
    switch.set(Some(&server_config()));
    space.broker("default", json!({})).await;
    let keys = || TokenKeys::new(Duration::from_millis(300));
    let context = |client| Context::new(client, args("operator-0", "default")).with_token_keys(keys());
    let operator = Operator::run(context(switch.client()));
    until_broker(&space, "default", "TokensAccepted", "KeysKnown").await;
    let before = kid(&token(&space, &space.client, Some("any")).await);
    assert!(has(file(&space).await.tokens.as_ref(), &before));
    // The API server comes back with another key alone.
    switch.set(None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(has(file(&space).await.tokens.as_ref(), &before), "it is away, and the keys are there");
    let rotated = Client::try_from(rotated_config()).unwrap();
    switch.set(Some(&rotated_config()));
    let after = kid(&token(&space, &rotated, Some("any")).await);
    assert_ne!(before, after);
    eventually("the new key is with the ingresses", async || {
        has(file(&space).await.tokens.as_ref(), &after).then_some(())
    })
    .await;
    assert!(has(file(&space).await.tokens.as_ref(), &before), "tokens that it signed are still good");
    operator.stop().await;
    // An operator that cannot read them leaves to the ingresses what they have.
    let operator = Operator::run(context(without_keys()));
    let broker = until_broker(&space, "default", "TokensAccepted", "KeysKept").await;
    let found = condition(&broker, "TokensAccepted").unwrap();
    assert!(found.status == "True" && found.message.contains("GET /openid/v1/jwks: "), "{}", found.message);
    let tokens = file(&space).await.tokens;
    assert!(has(tokens.as_ref(), &before) && has(tokens.as_ref(), &after));
    operator.stop().await;
}

#[tokio::test]
async fn without_keys_a_broker_and_its_topics_say_so() {
    let _turn = turn().await;
    let space = Space::new("no-keys").await;
    let places = Places::default();
    let server = server().await;
    topic_on(&space, &places, &server, "orders").await;
    let context = Context::new(without_keys(), args("operator-0", "default")).with_broker_addresses(places.addresses());
    let operator = Operator::run(context);
    let found_topic = topic::until_reason(&space, "orders", "Addressable", "TokensNotAccepted").await;
    let found = topic::condition(&found_topic, "Addressable").unwrap();
    for said in ["EventBroker orders: ", "/openid/v1/jwks", "system:service-account-issuer-discovery"] {
        assert!(found.message.contains(said), "{}", found.message);
    }
    // Its own publishers need no tokens any more.
    let publishers = json!({"spec": {"publishers": [{"nats": "till"}]}});
    space.merge::<EventTopic>("orders", publishers).await;
    topic::until_reason(&space, "orders", "Addressable", "Served").await;
    operator.stop().await;
}

/// A client to which the API server says that there are no keys.
fn without_keys() -> Client {
    let layer = MapRequestLayer::new(|mut request: http::Request<Body>| {
        if request.uri().path() == "/openid/v1/jwks" {
            *request.uri_mut() = "/openid/v1/none".parse().unwrap();
        }
        request
    });
    ClientBuilder::try_from(server_config()).unwrap().with_layer(&layer).build()
}
