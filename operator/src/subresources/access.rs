//! Who asks, and whether that one may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Extensions, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use axum_server::tls::TlsInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::timeout;

use super::GROUP;
use super::answer::Refusal;
use crate::https::front_proxy::{FrontProxy, User};

/// How long the API server may take to say whether a user may do something.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// What a call is about.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub namespace: String,
    /// `eventtopics` or `eventhandlers`.
    pub resource: &'static str,
    pub name: String,
    pub subresource: &'static str,
}

/// Lets the front proxy's requests pass, with the user that they are for.
pub(super) async fn authenticate(
    State(front_proxy): State<watch::Receiver<Option<Arc<FrontProxy>>>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let known = front_proxy.borrow().clone();
    let Some(user) = known.and_then(|proxy| user(&proxy, &request)) else {
        return Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "only the API server's front proxy is answered here: use kubectl get --raw; where that says this, the API server has no --requestheader-client-ca-file, or the operator may not read ConfigMap kube-system/extension-apiserver-authentication",
        ));
    };
    request.extensions_mut().insert(user);
    Ok(next.run(request).await)
}

fn user(proxy: &FrontProxy, request: &Request) -> Option<User> {
    let certificate = peer_certificate(request.extensions())?;
    if proxy.is(certificate) { proxy.user(request.headers()) } else { None }
}

/// The client's certificate, which TLS has verified.
fn peer_certificate(extensions: &Extensions) -> Option<&[u8]> {
    extensions.get::<Arc<TlsInfo>>()?.peer_certificates.first().map(Vec::as_slice)
}

/// Asks the API server for the rights of users. Nothing is remembered: a right that is withdrawn is gone.
#[derive(Clone)]
pub(super) struct Access(Api<SubjectAccessReview>);

impl Access {
    pub(super) fn new(client: Client) -> Self {
        Self(Api::all(client))
    }

    /// Whether the user may do this.
    pub(super) async fn check(&self, user: &User, verb: &str, target: &Target) -> Result<(), Refusal> {
        let review = review(user, verb, target);
        let params = PostParams::default();
        let answer = match timeout(REVIEW_TIMEOUT, self.0.create(&params, &review)).await {
            Ok(Ok(answer)) => answer.status.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API server did not say what a user may do with stored events");
                return Err(Refusal::unavailable("the API server did not say whether you may do this: try again"));
            }
            Err(_) => {
                return Err(Refusal::unavailable(
                    "the API server did not say in time whether you may do this: try again",
                ));
            }
        };
        if answer.allowed {
            return Ok(());
        }
        let Target { namespace, resource, name, subresource } = target;
        Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!(
                "{resource}.{GROUP} {name:?} is forbidden: you may not {verb} {resource}/{subresource} in namespace {namespace:?}. Event data has a role of its own: ask for a RoleBinding to ClusterRole tidegate-data-reader (to read) or tidegate-data-editor (to drop and redrive)"
            ),
        ))
    }
}

fn review(user: &User, verb: &str, target: &Target) -> SubjectAccessReview {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in &user.extra {
        extra.entry(key.clone()).or_default().push(value.clone());
    }
    let attributes = ResourceAttributes {
        group: Some(GROUP.to_owned()),
        version: Some(super::VERSION.to_owned()),
        namespace: Some(target.namespace.clone()),
        resource: Some(target.resource.to_owned()),
        subresource: Some(target.subresource.to_owned()),
        name: Some(target.name.clone()),
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        groups: Some(user.groups.clone()),
        extra: Some(extra),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}
