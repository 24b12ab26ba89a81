use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_broker_client::contract::{Jwk, Jwks};

use super::*;
use crate::issuer::Issuer;

const NOW: u64 = 1_800_000_000;
const AUDIENCE: &str = "tidegate.io/eventtopic/shop/orders";
/// Public key and token of a key pair that was made for this, and thrown away.
const RSA_MODULUS: &str = concat!(
    "yiDpGqInj6GIbuCJAeE5h_4ZtFO7Mjp-W0ceiqlWxDOqaMx3QPDkQot-qwzsdqmYVm4WsO8ih9kqD0BTsNXVH_y64fjQ_3m_MLmB-MgTQMoF1D",
    "4kO0fxHL06C3RJvH8cF_B7UbeuMkI3sDlzNYhWRmThqGjqnNYpwsh9kOySzC15Vuz1pYUb3GaZ708TPlmAISQ_L2nXBpJMoJKfcCTYmC00BVzw",
    "Z1oDXZ8NScaUgqEfMI5JGumV8PGoe2zrl8aDMks5o9TyoSK_oLtAh3MAvQuAejJUqAf9hKpJqE2A24IVnidkwwLcLltIwx2ldUXpLj0xFbCZcf",
    "Ce-037xmiUGQ",
);
const RSA_TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJhdWQiOlsidGlkZWdhdGUuaW8vZXZlbnR0b3BpYy9zaG9wL29yZGVycyJdLCJleHAiOjE4M",
    "DAwMDM1OTAsImlhdCI6MTc5OTk5OTk5MCwiaXNzIjoiaHR0cHM6Ly9jbHVzdGVyIiwibmJmIjoxNzk5OTk5OTkwLCJzdWIiOiJzeXN0ZW06c2V",
    "ydmljZWFjY291bnQ6d2ViOmNoZWNrb3V0In0.NKhTJOn9TkdN056mzhSwV8TgAyXOCQSl3hx4fOGqtL76fp2VyfQBjNXYGuXl5o8i2Q1a1hkLU",
    "hCEL0l3Xw7taHoTQoqL6mbqGD3mvx7skY-KzKRN8FstqP-DcSh7npyhhRBtHr77-bALSuEpqB0l800iBIgRHFrTPHtH_hQMBfZgxNmmkvuJoCY",
    "CErqQtkiho46BVINpRwQDahKO-zcoIbvWv9-aTMAOIP8tL-pPSQUI95NeqDPlYmkQaNpKNRwcvUX1lCwtMMb3PcidrVjnCp-yj3s5K_AlCIFfx",
    "c1I-3pAxzLvUxkKb364AjBeBFnKRuaWSYdK9k7cY2_zbZcEKQ",
);

fn issuer(key_id: &str, algorithm: &str) -> Issuer {
    Issuer::new("https://cluster", key_id, algorithm)
}

fn verifier(issuer: &Issuer) -> Verifier {
    let verifier = Verifier::default();
    verifier.replace(Some(&issuer.trust()), NOW);
    verifier
}

/// Whose token it is, and whether it was known.
fn verify(verifier: &Verifier, token: &str, now: u64) -> Result<(String, bool), TokenError> {
    let (token, is_known) = match verifier.check(token, now)? {
        Checked::Known(token) => (token, true),
        Checked::Unproven(token) => (verifier.prove(token, now)?, false),
    };
    Ok((token.publisher_for(AUDIENCE)?.to_string(), is_known))
}

fn refused(verifier: &Verifier, token: &str) -> TokenError {
    verify(verifier, token, NOW).unwrap_err()
}

const CHECKOUT: &str = "system:serviceaccount:web:checkout";

#[test]
fn a_token_of_each_algorithm_is_verified_once() {
    for algorithm in ["ES256", "ES384", "EdDSA"] {
        let issuer = issuer("k", algorithm);
        let (verifier, token) = (verifier(&issuer), issuer.token("web", "checkout", AUDIENCE, NOW));
        assert_eq!(verify(&verifier, &token, NOW), Ok((CHECKOUT.to_owned(), false)), "{algorithm}");
        assert_eq!(verify(&verifier, &token, NOW), Ok((CHECKOUT.to_owned(), true)), "{algorithm}");
        let over = NOW + 3600 + LEEWAY_SECONDS;
        assert_eq!(verify(&verifier, &token, over), Err(TokenError::Expired), "what is remembered ends, too");
    }
    let key = Jwk {
        kty: "RSA".into(),
        kid: Some("rsa".into()),
        alg: Some("RS256".into()),
        n: Some(RSA_MODULUS.into()),
        e: Some("AQAB".into()),
        ..Jwk::default()
    };
    let verifier = Verifier::default();
    let trust = TokenTrust { issuer: "https://cluster".into(), keys: Jwks { keys: vec![key] } };
    verifier.replace(Some(&trust), NOW);
    assert_eq!(verify(&verifier, RSA_TOKEN, NOW), Ok((CHECKOUT.to_owned(), false)));
}

#[test]
fn a_token_for_somebody_else_proves_nothing_here() {
    let issuer = issuer("k", "ES256");
    let verifier = verifier(&issuer);
    for audience in ["tidegate.io/eventtopic/shop/order", "tidegate.io/eventtopic/shop/orders2", "https://cluster", ""]
    {
        let token = issuer.token("web", "checkout", audience, NOW);
        assert_eq!(refused(&verifier, &token), TokenError::Audience, "{audience}");
        assert_eq!(refused(&verifier, &token), TokenError::Audience, "{audience}, remembered");
    }
}

#[test]
fn a_forged_token_is_refused() {
    let issuer = issuer("k", "ES256");
    let verifier = verifier(&issuer);
    let claims = issuer.claims("web", "checkout", AUDIENCE, NOW);
    let good = issuer.sign(&issuer.header(), &claims);
    let [header, payload, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let with_header = |header: Value| format!("{}.{payload}.{signature}", encode(&header));
    let other = Issuer::new("https://cluster", "k", "ES256");
    let mut admin = claims.clone();
    admin["sub"] = json!("system:serviceaccount:web:admin");
    let hmac = {
        let message = format!("{}.{payload}", encode(&json!({"alg": "HS256", "kid": "k"})));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, issuer.jwk().x.unwrap().as_bytes());
        let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()));
        format!("{message}.{tag}")
    };
    let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
    for (token, expected) in [
        (format!("{}.{payload}.", encode(&json!({"alg": "none"}))), TokenError::UnknownKey),
        (format!("{}.{payload}.", encode(&json!({"alg": "none", "kid": "k"}))), TokenError::Algorithm),
        (with_header(json!({"alg": "NONE", "kid": "k"})), TokenError::Algorithm),
        (hmac, TokenError::Algorithm),
        (with_header(json!({"alg": "ES384", "kid": "k"})), TokenError::Algorithm),
        (with_header(json!({"alg": "ES256", "kid": "other"})), TokenError::UnknownKey),
        (with_header(json!({"alg": "ES256"})), TokenError::UnknownKey),
        (with_header(json!({"alg": "ES256", "kid": ["k"]})), TokenError::Malformed),
        (with_header(json!({"alg": "ES256", "kid": "k", "crit": ["b64"], "b64": false})), TokenError::Malformed),
        (with_header(json!({"alg": "ES256", "kid": "k", "typ": "JWT"})), TokenError::Signature),
        (format!("{header}.{}.{signature}", encode(&admin)), TokenError::Signature),
        (other.sign(&issuer.header(), &claims), TokenError::Signature),
        (format!("{header}.{payload}.{zeros}"), TokenError::Signature),
        (format!("{header}.{payload}."), TokenError::Signature),
        (format!("{header}.{payload}.{}", &signature[..80]), TokenError::Signature),
        (format!("{good}="), TokenError::Malformed),
        (format!("{good}."), TokenError::Malformed),
        (format!("{good} "), TokenError::Malformed),
        (format!("{header}.{payload}"), TokenError::Malformed),
        (format!("{header}..{signature}"), TokenError::Malformed),
        (format!("Bearer {good}"), TokenError::Malformed),
        (String::new(), TokenError::Malformed),
        ("..".to_owned(), TokenError::Malformed),
        ("ä.ä.ä".to_owned(), TokenError::Malformed),
        (Issuer::new("https://other", "k", "ES256").token("web", "checkout", AUDIENCE, NOW), TokenError::Issuer),
        (issuer.token("web", "checkout", AUDIENCE, NOW - 3631), TokenError::Expired),
        (issuer.token("web", "checkout", AUDIENCE, NOW + 31), TokenError::NotYetValid),
        ("x".repeat(MAX_TOKEN + 1), TokenError::TooLong),
        (format!("{good}{}", "x".repeat(64 * 1024)), TokenError::TooLong),
    ] {
        assert_eq!(refused(&verifier, &token), expected, "{}", token.chars().take(200).collect::<String>());
    }
    assert!(verify(&verifier, &good, NOW).is_ok());
    let mut long = claims;
    long["exp"] = json!(NOW + 24 * 3600);
    let error = refused(&verifier, &issuer.sign(&issuer.header(), &long));
    assert!(error.to_string().contains("kubectl create token --duration=1h"), "{error}");
}

#[test]
fn claims_that_are_there_twice_are_refused() {
    let issuer = issuer("k", "EdDSA");
    let claims = issuer.claims("web", "checkout", AUDIENCE, NOW).to_string();
    let twice = claims.replacen('{', r#"{"sub":"system:serviceaccount:web:admin","#, 1);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(issuer.header().to_string()), URL_SAFE_NO_PAD.encode(twice));
    assert_eq!(refused(&verifier(&issuer), &format!("{message}.AAAA")), TokenError::Malformed);
}

#[test]
fn without_keys_no_token_is_good() {
    let issuer = issuer("k", "ES256");
    let token = issuer.token("web", "checkout", AUDIENCE, NOW);
    assert_eq!(refused(&Verifier::default(), &token), TokenError::NoKeys);
    let verifier = verifier(&issuer);
    assert!(verify(&verifier, &token, NOW).is_ok());
    verifier.replace(None, NOW);
    assert_eq!(refused(&verifier, &token), TokenError::NoKeys);
    verifier.replace(Some(&TokenTrust::default()), NOW);
    assert_eq!(refused(&verifier, &token), TokenError::NoKeys, "an empty issuer is none");
}

#[test]
fn a_key_that_is_gone_counts_until_its_tokens_have_ended() {
    let (old, new) = (issuer("old", "ES256"), issuer("new", "EdDSA"));
    let (old_token, verifier) = (old.token("web", "checkout", AUDIENCE, NOW), verifier(&old));
    verifier.replace(Some(&new.trust()), NOW);
    assert!(verify(&verifier, &old_token, NOW + 3600).is_ok());
    assert!(verify(&verifier, &new.token("web", "checkout", AUDIENCE, NOW), NOW).is_ok());
    let last = NOW + MAX_LIFETIME_SECONDS + LEEWAY_SECONDS;
    let late = old.token("web", "checkout", AUDIENCE, last - 1);
    // Another change of the keys does not make it younger.
    let mut more = new.trust();
    more.keys.keys.push(issuer("third", "EdDSA").jwk());
    verifier.replace(Some(&more), last - 1);
    assert!(verify(&verifier, &late, last - 1).is_ok());
    let too_late = old.token("web", "checkout", AUDIENCE, last);
    assert_eq!(verify(&verifier, &too_late, last), Err(TokenError::UnknownKey));
    // What is the same is no change: what was verified is known.
    verifier.replace(Some(&more), last);
    assert!(verify(&verifier, &late, last).unwrap().1);
}

#[test]
fn another_issuer_takes_the_keys_of_the_first_with_it() {
    let (old, new) = (issuer("old", "ES256"), Issuer::new("https://new", "new", "ES256"));
    let (token, verifier) = (old.token("web", "checkout", AUDIENCE, NOW), verifier(&old));
    assert!(verify(&verifier, &token, NOW).is_ok());
    verifier.replace(Some(&new.trust()), NOW);
    assert_eq!(refused(&verifier, &token), TokenError::UnknownKey, "nor is it remembered");
}

#[test]
fn a_key_of_another_kind_with_a_known_name_takes_its_place() {
    let (old, new) = (issuer("k", "ES256"), issuer("k", "EdDSA"));
    let verifier = verifier(&old);
    verifier.replace(Some(&new.trust()), NOW);
    assert_eq!(refused(&verifier, &old.token("web", "checkout", AUDIENCE, NOW)), TokenError::Algorithm);
    assert!(verify(&verifier, &new.token("web", "checkout", AUDIENCE, NOW), NOW).is_ok());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut remembered = HashMap::new();
    let verified = |expires| {
        let issuer = issuer("k", "EdDSA");
        let token = issuer.token("web", "checkout", AUDIENCE, expires - 3600);
        let verifier = verifier(&issuer);
        match verifier.check(&token, expires - 3600).unwrap() {
            Checked::Unproven(token) => verifier.prove(token, expires - 3600).unwrap(),
            Checked::Known(token) => token,
        }
    };
    let (over, good) = (verified(NOW - LEEWAY_SECONDS), verified(NOW));
    let name = |number: usize| digest_of(&number.to_string());
    remembered.extend((0..MAX_REMEMBERED).map(|number| (name(number), Arc::clone(&good))));
    forget_some(&mut remembered, NOW);
    assert_eq!(remembered.len(), MAX_REMEMBERED / 2);
    remembered.extend((0..MAX_REMEMBERED).map(|number| (name(number), Arc::clone(&over))));
    remembered.insert(name(MAX_REMEMBERED), good);
    forget_some(&mut remembered, NOW);
    assert_eq!(remembered.len(), 1, "what has ended goes first");
}

proptest! {
    #[test]
    fn no_other_text_is_a_token(text in "\\PC{0,400}|[A-Za-z0-9_-]{0,200}\\.[A-Za-z0-9_-]{0,200}\\.[A-Za-z0-9_-]{0,200}") {
        prop_assert!(verifier(&issuer("k", "EdDSA")).check(&text, NOW).is_err());
    }

    #[test]
    fn a_token_with_one_other_byte_is_refused(at in any::<prop::sample::Index>(), byte in b'!'..=b'~') {
        let issuer = issuer("k", "EdDSA");
        let mut token = issuer.token("web", "checkout", AUDIENCE, NOW).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != byte);
        token[at] = byte;
        let token = String::from_utf8(token).unwrap();
        prop_assert!(verify(&verifier(&issuer), &token, NOW).is_err());
    }
}
