//! A cluster that issues tokens, for tests and benchmarks.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tidegate_broker_client::contract::{Jwk, Jwks, TokenTrust};

/// An issuer with one key.
pub struct Issuer {
    /// Its name.
    pub name: String,
    key: SigningKey,
    id: String,
}

enum SigningKey {
    Ec(&'static str, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Issuer {
    /// An issuer of this name, whose key has this name and is for this algorithm: ES256, ES384 or EdDSA.
    ///
    /// # Panics
    /// For another algorithm.
    pub fn new(name: &str, key_id: &str, algorithm: &str) -> Self {
        let random = SystemRandom::new();
        let ec = |name, signing| {
            let key = EcdsaKeyPair::generate_pkcs8(signing, &random).expect("random");
            SigningKey::Ec(name, EcdsaKeyPair::from_pkcs8(signing, key.as_ref(), &random).expect("its own"))
        };
        let key = match algorithm {
            "ES256" => ec("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ec("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).expect("random");
                SigningKey::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("its own"))
            }
            other => panic!("no key for {other}"),
        };
        Self { name: name.to_owned(), key, id: key_id.to_owned() }
    }

    /// What the operator would say of it.
    pub fn trust(&self) -> TokenTrust {
        TokenTrust { issuer: self.name.clone(), keys: Jwks { keys: vec![self.jwk()] } }
    }

    /// Its public key.
    pub fn jwk(&self) -> Jwk {
        let base = |kty: &str, crv: &str, alg: &str| Jwk {
            kty: kty.into(),
            kid: Some(self.id.clone()),
            alg: Some(alg.into()),
            usage: Some("sig".into()),
            crv: Some(crv.into()),
            ..Jwk::default()
        };
        match &self.key {
            SigningKey::Ed25519(key) => {
                Jwk { x: Some(encode(key.public_key().as_ref())), ..base("OKP", "Ed25519", "EdDSA") }
            }
            SigningKey::Ec(algorithm, key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if *algorithm == "ES256" { "P-256" } else { "P-384" };
                Jwk { x: Some(encode(x)), y: Some(encode(y)), ..base("EC", curve, algorithm) }
            }
        }
    }

    /// A token of a ServiceAccount for this audience, issued at `now` (seconds since 1970) for an hour.
    pub fn token(&self, namespace: &str, name: &str, audience: &str, now: u64) -> String {
        self.sign(&self.header(), &self.claims(namespace, name, audience, now))
    }

    /// The header of its tokens.
    pub fn header(&self) -> Value {
        json!({"alg": self.jwk().alg, "kid": self.id})
    }

    /// What such a token says.
    pub fn claims(&self, namespace: &str, name: &str, audience: &str, now: u64) -> Value {
        json!({
            "aud": [audience], "iat": now, "nbf": now, "exp": now + 3600, "iss": self.name, "jti": "7",
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "u"}},
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        })
    }

    /// Signs whatever it is.
    ///
    /// # Panics
    /// Never.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = match &self.key {
            SigningKey::Ed25519(key) => encode(key.sign(message.as_bytes()).as_ref()),
            SigningKey::Ec(_, key) => {
                encode(key.sign(&SystemRandom::new(), message.as_bytes()).expect("signature").as_ref())
            }
        };
        format!("{message}.{signature}")
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
