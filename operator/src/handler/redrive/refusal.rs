//! What the broker will never take: a dead letter that was stored while the topic took larger events. Pure.

use tidegate_broker_admin::api::{ApiError, ErrorCode, Refusal};

/// Whether the broker would refuse this message again, however often it is repeated: it is too large.
pub fn is_final(error: &ApiError) -> bool {
    *error == ApiError::TooLarge || error.refusal().is_some_and(is_too_large)
}

/// What the store refuses has one code and differs in its text.
fn is_too_large(refusal: &Refusal) -> bool {
    match refusal.error_code {
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => true,
        ErrorCode::STREAM_STORE_FAILED => refusal.description.starts_with("message too large"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_large_is_refused_for_ever() {
        let table = [
            (10054, "message size exceeds maximum allowed", true),
            (10097, "header size exceeds maximum allowed of 64k", true),
            (10077, "message too large", true),
            (10077, "maximum bytes exceeded", false),
            (10077, "no space left on device", false),
            (10023, "insufficient resources", false),
            (10060, "expected stream does not match", false),
        ];
        for (code, description, is_final) in table {
            let refusal = format!(r#"{{"code":503,"err_code":{code},"description":"{description}"}}"#);
            let refusal: Refusal = serde_json::from_str(&refusal).unwrap();
            assert_eq!(super::is_final(&refusal.into()), is_final, "{code} {description}");
        }
    }
}
