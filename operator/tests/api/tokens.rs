//! Tokens of a real API server, verified by what it says of its keys: the two sides of `tidegate-publisher-auth`.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{TokenTrust, audience};
use tidegate_publisher_auth::{Checked, TokenError, Verifier};

use crate::support::Space;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

async fn get(client: &Client, path: &str) -> Value {
    client.request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

/// What `kubectl create token checkout` asks for.
async fn token(space: &Space, audiences: &[&str], seconds: Option<i64>) -> String {
    let accounts: Api<ServiceAccount> = space.api();
    let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
    let spec = TokenRequestSpec { audiences, expiration_seconds: seconds, ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request("checkout", &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token
}

/// Whose token it is.
fn verify(verifier: &Verifier, token: &str, audience: &str, now: u64) -> Result<String, TokenError> {
    let token = match verifier.check(token, now)? {
        Checked::Known(token) => token,
        Checked::Unproven(token) => verifier.prove(token, now)?,
    };
    token.publisher_for(audience).map(ToString::to_string)
}

#[tokio::test]
async fn tokens_of_the_cluster_are_verified_by_its_keys() {
    let space = Space::new("tokens").await;
    space.create::<ServiceAccount>(json!({"metadata": {"name": "checkout"}})).await;
    let discovery = get(&space.client, "/.well-known/openid-configuration").await;
    let keys = get(&space.client, "/openid/v1/jwks").await;
    let trust: TokenTrust = serde_json::from_value(json!({"issuer": discovery["issuer"], "keys": keys})).unwrap();
    let verifier = Verifier::default();
    verifier.replace(Some(&trust), now());

    let orders = audience(&TopicId::new(&*space.name, "orders").unwrap());
    let of_orders = token(&space, &[&orders], None).await;
    let checkout = format!("system:serviceaccount:{}:checkout", space.name);
    assert_eq!(verify(&verifier, &of_orders, &orders, now()), Ok(checkout.clone()), "as it comes");
    let bills = audience(&TopicId::new(&*space.name, "bills").unwrap());
    assert_eq!(verify(&verifier, &of_orders, &bills, now()), Err(TokenError::Audience));
    let of_both = token(&space, &[&bills, &orders], Some(600)).await;
    assert_eq!(verify(&verifier, &of_both, &orders, now()), Ok(checkout));
    let of_server = token(&space, &[], Some(3600)).await;
    assert_eq!(verify(&verifier, &of_server, &orders, now()), Err(TokenError::Audience), "a pod's ordinary token");
    let of_a_day = token(&space, &[&orders], Some(24 * 3600)).await;
    assert_eq!(verify(&verifier, &of_a_day, &orders, now()), Err(TokenError::TooLongLived));
    assert_eq!(verify(&verifier, &of_orders, &orders, now() + 2 * 3600), Err(TokenError::Expired));
    let (message, signature) = of_both.rsplit_once('.').unwrap();
    let last = if signature.starts_with('A') { "B" } else { "A" };
    let changed = format!("{message}.{last}{}", &signature[1..]);
    assert_eq!(verify(&verifier, &changed, &orders, now()), Err(TokenError::Signature));
}
