//! Consumer keys: how they are made, and how to tell that one was mistyped.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::domain::access::KEY_PREFIX;

/// The random part: 256 bits.
const RANDOM: usize = 32;

/// The checksum: the first bytes of the SHA-256 of prefix and random part.
const CHECKSUM: usize = 3;

/// A fresh key: prefix, random part and checksum, 51 characters that need no quoting anywhere.
///
/// # Panics
/// If the operating system has no random numbers.
pub fn generate() -> String {
    let mut bytes = [0; RANDOM + CHECKSUM];
    getrandom::fill(&mut bytes[..RANDOM]).expect("the operating system has random numbers");
    let checksum = checksum(&bytes[..RANDOM]);
    bytes[RANDOM..].copy_from_slice(&checksum);
    format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What stands for a key in the configuration: its SHA-256 in lower-case hex.
pub fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

/// Whether `key` is whole: it has the prefix, the length and the right checksum.
pub fn is_whole(key: &str) -> bool {
    let Some(bytes) = key.strip_prefix(KEY_PREFIX).and_then(|rest| URL_SAFE_NO_PAD.decode(rest).ok()) else {
        return false;
    };
    bytes.len() == RANDOM + CHECKSUM && bytes[RANDOM..] == checksum(&bytes[..RANDOM])
}

fn checksum(random: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new().chain_update(KEY_PREFIX).chain_update(random).finalize();
    *digest.first_chunk().expect("a digest holds three bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fresh_whole_and_need_no_quoting() {
        let (one, other) = (generate(), generate());
        assert_ne!(one, other);
        assert_eq!(one.len(), 51);
        assert!(is_whole(&one));
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    }

    #[test]
    fn any_slip_shows() {
        let key = generate();
        for at in 0..key.len() {
            let mut slip = key.clone().into_bytes();
            slip[at] = if slip[at] == b'A' { b'B' } else { b'A' };
            assert!(!is_whole(std::str::from_utf8(&slip).expect("ASCII")), "at {at}");
        }
        assert!(!is_whole(&key[..50]));
        assert!(!is_whole(&format!("{key}A")));
    }
}
