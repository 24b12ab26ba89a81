//! The ids that servers have among each other.

use sha2::{Digest as _, Sha256};

/// Characters of an id.
const LENGTH: usize = 8;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The id of the server of this name (`getHash`).
pub(super) fn id(name: &str) -> String {
    let digest = Sha256::digest(name);
    digest.iter().take(LENGTH).map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()])).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_id_is_what_nats_server_makes_of_a_name() {
        assert_eq!(super::id("b-0"), "FFna3Zfr");
    }
}
