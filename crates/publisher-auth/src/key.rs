//! A key of the cluster, and what it can verify.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use tidegate_broker_client::contract::Jwk;

/// A public key, for one algorithm. That is the key's own and not a token's to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// By what tokens name it.
    pub id: String,
    /// The one algorithm, as tokens name it.
    pub algorithm: &'static str,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point of P-256, uncompressed.
    P256(Vec<u8>),
    /// A point of P-384, uncompressed.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// From a JWK; `None`: it is not one that verifies tokens of ServiceAccounts, or says of itself too little.
    pub fn from_jwk(jwk: &Jwk) -> Option<Self> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let id = jwk.kid.clone().filter(|id| !id.is_empty())?;
        let kind = (jwk.kty.as_str(), jwk.crv.as_deref(), jwk.alg.as_deref()?);
        let (algorithm, material) = match kind {
            ("RSA", None, "RS256") => ("RS256", Material::Rsa { modulus: bytes(&jwk.n)?, exponent: bytes(&jwk.e)? }),
            ("EC", Some("P-256"), "ES256") => ("ES256", Material::P256(point(jwk, 32)?)),
            ("EC", Some("P-384"), "ES384") => ("ES384", Material::P384(point(jwk, 48)?)),
            ("OKP", Some("Ed25519"), "EdDSA") => ("EdDSA", Material::Ed25519(bytes(&jwk.x).filter(|x| x.len() == 32)?)),
            _ => return None,
        };
        Some(Self { id, algorithm, material })
    }

    /// Whether this is its signature of the message. Takes 30 µs to more than a millisecond.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verify = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match &self.material {
            Material::Rsa { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Material::P256(point) => verify(&ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => verify(&ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => verify(&ED25519, key),
        }
    }
}

fn bytes(text: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_ref()?).ok()
}

/// The point of an EC key (SEC 1, section 2.3.3).
fn point(jwk: &Jwk, length: usize) -> Option<Vec<u8>> {
    let coordinate = |text| bytes(text).filter(|bytes| bytes.len() == length);
    Some([&[4][..], &coordinate(&jwk.x)?, &coordinate(&jwk.y)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_say_what_they_are_for_are_taken() {
        let text = |bytes: usize| Some(URL_SAFE_NO_PAD.encode(vec![7; bytes]));
        let key = |kty: &str, crv: Option<&str>, alg: Option<&str>| Jwk {
            kty: kty.into(),
            kid: Some("k".into()),
            alg: alg.map(Into::into),
            crv: crv.map(Into::into),
            n: text(256),
            e: text(3),
            x: text(32),
            y: text(32),
            ..Jwk::default()
        };
        let rsa = || key("RSA", None, Some("RS256"));
        for good in [
            rsa(),
            Jwk { usage: Some("sig".into()), ..rsa() },
            key("EC", Some("P-256"), Some("ES256")),
            Jwk { x: text(48), y: text(48), ..key("EC", Some("P-384"), Some("ES384")) },
            key("OKP", Some("Ed25519"), Some("EdDSA")),
        ] {
            assert_eq!(Key::from_jwk(&good).unwrap().algorithm, good.alg.unwrap());
        }
        for bad in [
            Jwk { kid: None, ..rsa() },
            Jwk { kid: Some(String::new()), ..rsa() },
            Jwk { usage: Some("enc".into()), ..rsa() },
            Jwk { n: None, ..rsa() },
            Jwk { e: Some("=".into()), ..rsa() },
            key("RSA", None, None),
            key("RSA", None, Some("none")),
            key("RSA", None, Some("HS256")),
            key("RSA", None, Some("RS512")),
            key("RSA", None, Some("PS256")),
            key("oct", None, Some("HS256")),
            key("EC", Some("P-256"), Some("RS256")),
            key("EC", Some("P-384"), Some("ES256")),
            key("EC", Some("P-384"), Some("ES384")),
            key("EC", Some("P-521"), Some("ES512")),
            key("OKP", Some("Ed448"), Some("EdDSA")),
            Jwk { x: text(31), ..key("OKP", Some("Ed25519"), Some("EdDSA")) },
        ] {
            assert_eq!(Key::from_jwk(&bad), None, "{bad:?}");
        }
    }
}
