//! Comparisons of what nobody may find out by trying.

use subtle::ConstantTimeEq;

/// Whether both are the same, in a time that depends on nothing but their lengths: all words are compared, and then it is told.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (other_words, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let words = words.iter().zip(other_words).map(|(a, b)| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b));
    let rest = rest.iter().zip(other_rest).map(|(a, b)| u64::from(a ^ b));
    let difference = words.chain(rest).fold(0, |all, one| all | one);
    one.len() == other.len() && difference.ct_eq(&0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_only_if_every_byte_is() {
        let key = b"msp_0123456789abcdefghi";
        assert!(is_same(key, key));
        for length in 0..key.len() {
            assert!(!is_same(key, &key[..length]) && !is_same(&key[..length], key));
            let mut other = *key;
            other[length] ^= 1;
            assert!(!is_same(key, &other), "differs at {length}");
        }
    }
}
