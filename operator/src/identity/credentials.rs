//! The credentials of a handler or a publisher in their Secret, which is read only if they may have to change.
//!
//! The Secret says by annotations what its content was made from, as a digest, and when that ends. While the same is wanted,
//! the end is far away and no one has touched the Secret ([`is_untouched`]), its content is known to be good. What is not
//! read gives no one a right: nothing is signed, no key is taken over, and what was asked for counts as done only if the
//! status says so ([`user_keys::kept`]). A user who forges the metadata so that the operator does not look (an annotation
//! alone does not suffice, the field manager has to be forged too) may edit the content as well, and gains one thing: what
//! they damaged stays damaged until the Secret changes again.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidegate_broker_admin::issuers::needs_renewal;
use tidegate_broker_admin::{Authority, KeyRecord, LeafRequest, UserKey};
use tidegate_broker_client::identity::file;
use tidegate_crds::key::KeyStatus;
use time::OffsetDateTime;

use crate::broker::desired::{child, encoded};
use crate::context::{Context, Owner};
use crate::identity::authority::{self, Data, shown};
use crate::identity::user_keys::{self, PROOF, Place};
use crate::kubernetes::apply::{Child, is_untouched};
use crate::reconcile::error::Error;

/// From what the content was made.
const MADE_FROM: &str = "tidegate.io/made-from";
/// When the first of the credentials ends.
const END: &str = "tidegate.io/credentials-end";
/// Another version may make other content of the same.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// To be raised with each change of what is made of the same: nothing else tells builds of one version apart. A hash of the
/// content would need the key to be read, and one of the program would have all Secrets written by each build.
const CONTENT: u32 = 1;

/// The files of every identity.
const FILES: [&str; 6] = [file::CERTIFICATE, file::KEY, file::CA, file::GENERATION, file::USER_JWT, file::USER_SEED];

/// A Secret with credentials as it is to be, but for its key and all that is signed for that.
pub struct Wanted<'a> {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Signs what is in it.
    pub authority: &'a Authority,
    /// The certificate.
    pub leaf: LeafRequest,
    /// What the user JWT says.
    pub claims: Value,
    /// The files that it has besides those of every identity, with what each is made from.
    pub files: Data,
}

impl<'a> Wanted<'a> {
    fn place(&'a self, owner: &'a Owner) -> Place<'a> {
        Place { authority: self.authority, namespace: &owner.namespace, secret: &self.name }
    }
}

/// What is to be known of a key besides its Secret.
pub struct KeyHistory<'a> {
    /// What the status says of it.
    pub known: Option<&'a KeyStatus>,
    /// What asks for another one.
    pub request: Option<String>,
}

/// Credentials as they were found.
pub enum Credentials {
    /// They stay as they are.
    Kept {
        /// Of their key.
        record: KeyRecord,
        /// Of the first of them.
        end: OffsetDateTime,
    },
    /// Their Secret was read: it may have to be written.
    Read {
        /// The key as it is to be.
        key: UserKey,
        /// The Secret as it is; `None`: there is none.
        present: Option<Box<Secret>>,
    },
}

impl Credentials {
    /// What is to be known of the key.
    pub fn record(&self) -> &KeyRecord {
        match self {
            Self::Kept { record, .. } => record,
            Self::Read { key, .. } => &key.record,
        }
    }

    /// When the first of them ends. `made`: their Secret as it is written.
    pub fn end(&self, made: Option<&Child>) -> Option<OffsetDateTime> {
        match self {
            Self::Kept { end, .. } => Some(*end),
            Self::Read { .. } => made.and_then(Child::secret).and_then(|files| authority::identity_end(&files)),
        }
    }

    /// Of the Secret of `owner`, whose content is read unless it is known to be as it is wanted.
    ///
    /// # Errors
    /// The API server is away.
    pub async fn find(
        context: &Context,
        owner: &Owner,
        wanted: &Wanted<'_>,
        history: &KeyHistory<'_>,
    ) -> Result<Self, Error> {
        let now = OffsetDateTime::now_utc();
        if let Some(kept) = kept(context, owner, wanted, history, now) {
            return Ok(kept);
        }
        let KeyHistory { known, request } = history;
        let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &owner.namespace);
        let present = secrets.get_opt(&wanted.name).await?;
        let handover = context.args.key_handover();
        let place = wanted.place(owner);
        let key = user_keys::wanted(place, present.as_ref(), *known, request.as_deref(), handover, now)?;
        Ok(Self::Read { key, present: present.map(Box::new) })
    }
}

fn kept(
    context: &Context,
    owner: &Owner,
    wanted: &Wanted<'_>,
    history: &KeyHistory<'_>,
    now: OffsetDateTime,
) -> Option<Credentials> {
    let look = |mark: u64, meta: &ObjectMeta| (mark, meta.annotations.clone().unwrap_or_default());
    let (mark, annotations) = context.stores.look_at(("Secret", &owner.namespace, &wanted.name), look)?;
    let handover = context.args.key_handover();
    let (record, end) = unchanged(&annotations, owner, wanted, history, handover, now)?;
    is_untouched(context, owner, &outline(owner, wanted, &record), mark).then_some(Credentials::Kept { record, end })
}

/// The key and the end of the credentials of which a Secret has these annotations, if they are what is wanted (pure).
fn unchanged(
    annotations: &BTreeMap<String, String>,
    owner: &Owner,
    wanted: &Wanted<'_>,
    history: &KeyHistory<'_>,
    handover: Duration,
    now: OffsetDateTime,
) -> Option<(KeyRecord, OffsetDateTime)> {
    let end = user_keys::parse(annotations.get(END)?)?;
    let record = user_keys::kept(annotations, history.known, history.request.as_deref(), handover, now)?;
    let is_same = *annotations.get(MADE_FROM)? == made_from(owner, wanted, &record);
    (is_same && !needs_renewal(end, now)).then_some((record, end))
}

/// All that the content of a Secret depends on but for chance and time, and what its metadata says.
fn made_from(owner: &Owner, wanted: &Wanted<'_>, record: &KeyRecord) -> String {
    // No `..`: what is added and left out here is not noticed to have changed.
    let Wanted { name, labels, authority, leaf, claims, files } = wanted;
    let LeafRequest { name: leaf_name, hosts, usage } = leaf;
    let all = json!([
        [json!(VERSION), json!(CONTENT)],
        owner.metadata(name, labels),
        user_keys::annotations(record, authority),
        authority.issuers.of(*usage).certificate,
        authority.trusted_by(*usage),
        [json!(leaf_name), json!(hosts), json!(format!("{usage:?}"))],
        claims,
        files,
    ]);
    Sha256::digest(all.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Secret without the values that only itself has.
fn outline(owner: &Owner, wanted: &Wanted<'_>, record: &KeyRecord) -> Child {
    let files = FILES.into_iter().chain(wanted.files.keys().map(String::as_str));
    with_files(
        owner,
        wanted,
        record,
        (String::new(), None),
        files.map(|file| (file.to_owned(), String::new())).collect(),
    )
}

/// The Secret with these files.
///
/// # Errors
/// The broker's authority is damaged.
pub fn secret(owner: &Owner, wanted: &Wanted<'_>, record: &KeyRecord, files: Data) -> Result<Child, Error> {
    let seed = files.get(file::USER_SEED).map(|seed| seed.trim()).unwrap_or_default();
    let proof = wanted.place(owner).proof(seed, record)?;
    Ok(with_files(owner, wanted, record, (proof, authority::identity_end(&files)), files))
}

fn with_files(
    owner: &Owner,
    wanted: &Wanted<'_>,
    record: &KeyRecord,
    (proof, end): (String, Option<OffsetDateTime>),
    files: Data,
) -> Child {
    let mut metadata = owner.metadata(&wanted.name, &wanted.labels);
    metadata["annotations"] = user_keys::annotations(record, wanted.authority);
    metadata["annotations"][MADE_FROM] = Value::from(made_from(owner, wanted, record));
    metadata["annotations"][PROOF] = Value::from(proof);
    metadata["annotations"][END] = Value::from(end.map(shown).unwrap_or_default());
    child::<Secret>(&wanted.name, json!({"metadata": metadata, "type": "Opaque", "data": encoded(files)}))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use tidegate_broker_admin::rollover::Cause;

    use super::*;

    const HANDOVER: Duration = Duration::from_secs(180);

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
    }

    fn owner() -> Owner {
        let reference = OwnerReference { name: "billing".into(), uid: "u-1".into(), ..OwnerReference::default() };
        Owner { name: "billing".into(), namespace: "shop".into(), reference }
    }

    fn wanted(authority: &Authority) -> Wanted<'_> {
        Wanted {
            name: "billing-identity".into(),
            labels: BTreeMap::from([("app".into(), "x".into())]),
            authority,
            leaf: LeafRequest::client("handler/shop/billing"),
            claims: json!({"sub": {"allow": ["a"]}}),
            files: Data::from([("message-ids.invoices".into(), "k".into())]),
        }
    }

    /// The annotations of the Secret as it is made.
    fn made(authority: &Authority, record: &KeyRecord, end: OffsetDateTime) -> BTreeMap<String, String> {
        let child = with_files(&owner(), &wanted(authority), record, (String::new(), Some(end)), Data::new());
        serde_json::from_value(child.value["metadata"]["annotations"].clone()).unwrap()
    }

    #[test]
    fn credentials_stay_while_the_same_is_wanted_and_their_end_is_far_away() {
        let authority = Authority::generate("t", at(0)).unwrap();
        let record = UserKey::first(None, Some("made with it"), at(0)).unwrap().record;
        let end = at(90 * 86_400);
        let annotations = made(&authority, &record, end);
        let known = user_keys::status(&record, None, HANDOVER, at(0));
        let history = || KeyHistory { known: Some(&known), request: Some("made with it".into()) };
        let look = |annotations: &BTreeMap<String, String>, wanted: &Wanted<'_>, history: &KeyHistory<'_>, now| {
            unchanged(annotations, &owner(), wanted, history, HANDOVER, now)
        };
        assert_eq!(look(&annotations, &wanted(&authority), &history(), at(9)), Some((record.clone(), end)));
        let near_the_end = at(61 * 86_400);
        assert_eq!(look(&annotations, &wanted(&authority), &history(), near_the_end), None);

        let next = authority.begin("t", &Cause::End, at(1)).unwrap();
        let others = [
            Wanted { authority: &next, ..wanted(&authority) },
            Wanted { claims: json!({"sub": {"allow": ["a", "b"]}}), ..wanted(&authority) },
            Wanted { leaf: LeafRequest::client("handler/shop/other"), ..wanted(&authority) },
            Wanted { labels: BTreeMap::new(), ..wanted(&authority) },
            Wanted { files: Data::from([("message-ids.invoices".into(), "l".into())]), ..wanted(&authority) },
            Wanted { files: Data::new(), ..wanted(&authority) },
        ];
        for other in &others {
            assert_eq!(look(&annotations, other, &history(), at(9)), None);
        }

        let unknown = KeyHistory { known: None, ..history() };
        assert_eq!(look(&annotations, &wanted(&authority), &unknown, at(9)), None);
        let asked_for = KeyHistory { request: Some("leak".into()), ..history() };
        assert_eq!(look(&annotations, &wanted(&authority), &asked_for, at(9)), None);
        // The status knows a later key: somebody put the Secret of before back.
        let later = UserKey::first(Some(&record), None, at(900)).unwrap().record;
        let known = user_keys::status(&later, None, HANDOVER, at(2_000));
        let put_back = KeyHistory { known: Some(&known), ..history() };
        assert_eq!(look(&annotations, &wanted(&authority), &put_back, at(2_000)), None);

        for annotation in [MADE_FROM, END] {
            let mut bare = annotations.clone();
            bare.remove(annotation);
            assert_eq!(look(&bare, &wanted(&authority), &history(), at(9)), None, "{annotation}");
        }
    }

    /// What is refused from a time on is in the Secret, too: it is written when a handover ends.
    #[test]
    fn a_key_whose_handover_has_ended_is_written_down() {
        let authority = Authority::generate("t", at(0)).unwrap();
        let first = UserKey::first(None, None, at(0)).unwrap();
        let second = first.for_request(Some("leak"), "", HANDOVER, at(900)).unwrap().record;
        let annotations = made(&authority, &second, at(90 * 86_400));
        let known = user_keys::status(&second, None, HANDOVER, at(900));
        let history = KeyHistory { known: Some(&known), request: Some("leak".into()) };
        let look = |now| unchanged(&annotations, &owner(), &wanted(&authority), &history, HANDOVER, now);
        assert!(look(at(1_000)).is_some());
        assert!(look(at(1_080)).is_none());
    }
}
