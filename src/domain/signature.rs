//! Signatures of webhooks: `X-Merge-Webhook-Signature` is the HMAC-SHA-256 of the body, in the URL-safe alphabet of base64.

use std::fmt;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// The header that holds it.
pub const X_MERGE_WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("x-merge-webhook-signature");

/// Merge's documentation shows signatures with padding and some of its code leaves it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The length of a signature, in bytes.
const LENGTH: usize = 32;

/// The signature that a request claims to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signature([u8; LENGTH]);

/// Why a request does not count as signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unsigned {
    /// There is no signature.
    Missing,
    /// There are several, or one that no key makes.
    Malformed,
    /// It does not fit the body.
    Wrong,
}

impl Unsigned {
    /// What audit lines call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Wrong => "wrong",
        }
    }
}

impl Signature {
    /// The signature that `headers` show.
    ///
    /// # Errors
    /// If there is not exactly one of the right form.
    pub fn read(headers: &HeaderMap) -> Result<Self, Unsigned> {
        let mut lines = headers.get_all(X_MERGE_WEBHOOK_SIGNATURE).iter();
        let line = lines.next().ok_or(Unsigned::Missing)?;
        // One byte more than a signature has, so that a longer one does not pass for its beginning.
        let mut bytes = [0; LENGTH + 1];
        match BASE64.decode_slice(line.as_bytes(), &mut bytes) {
            Ok(LENGTH) if lines.next().is_none() => {}
            _ => return Err(Unsigned::Malformed),
        }
        Ok(Self(*bytes.first_chunk().expect("it is one byte longer")))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

/// A key that signatures are checked with. It has no text form.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// The key whose bytes `secret` is.
    pub fn new(secret: &str) -> Self {
        Self(Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length"))
    }

    /// The signature of `body`.
    pub fn sign(&self, body: &[u8]) -> Signature {
        let mut mac = self.0.clone();
        mac.update(body);
        Signature(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// Whether any of `keys` has signed `body`; how long it takes does not depend on which, nor on how much of `shown` is right.
pub fn is_signed(keys: &[SigningKey], body: &[u8], shown: &Signature) -> bool {
    let fits = |known: Choice, key: &SigningKey| known | key.sign(body).0.ct_eq(&shown.0);
    keys.iter().fold(Choice::from(0), fits).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Result<Signature, Unsigned> {
        let value = |line: &&str| (X_MERGE_WEBHOOK_SIGNATURE, HeaderValue::from_str(line).expect("a header value"));
        Signature::read(&lines.iter().map(value).collect())
    }

    #[test]
    fn the_signature_is_the_one_that_others_compute() {
        // printf '{"hook":{}}' | openssl dgst -sha256 -hmac secret -binary | basenc --base64url
        let padded = "ssl_JtMAkhwFwT4xPWQOffWIWL2vhD1T8k3SHB9k3Fs=";
        let signature = read(&[padded]).expect("well-formed");
        assert_eq!(read(&[padded.trim_end_matches('=')]), Ok(signature));
        let keys = ["other", "secret"].map(SigningKey::new);
        assert!(is_signed(&keys, br#"{"hook":{}}"#, &signature));
        assert!(!is_signed(&keys[..1], br#"{"hook":{}}"#, &signature));
        assert!(!is_signed(&keys, br#"{"hook":{} }"#, &signature));
        assert!(!is_signed(&[], br#"{"hook":{}}"#, &signature));
        assert!(!format!("{keys:?}").contains("secret"));
    }

    #[test]
    fn what_no_key_makes_is_no_signature() {
        assert_eq!(read(&[]), Err(Unsigned::Missing));
        let whole = "A".repeat(43);
        assert!(read(&[&whole]).is_ok());
        let (short, long, end) = ("A".repeat(42), "A".repeat(44), format!("{}B", "A".repeat(42)));
        let (huge, classic) = ("A".repeat(8_000), "+/".repeat(21) + "8");
        for bad in
            ["", "=", "nonsense", &short, &long, &end, &huge, &classic, &format!("{whole}=="), &format!(" {whole}")]
        {
            assert_eq!(read(&[bad]), Err(Unsigned::Malformed), "{bad}");
        }
        assert_eq!(read(&[&whole, &whole]), Err(Unsigned::Malformed));
    }

    proptest! {
        #[test]
        fn one_bit_more_or_less_and_it_does_not_fit(mut body in proptest::collection::vec(any::<u8>(), 1..200), place: usize, bit in 0..8) {
            let key = SigningKey::new("secret");
            let signature = key.sign(&body);
            let keys = [key];
            prop_assert!(is_signed(&keys, &body, &signature));
            let mut other = signature;
            other.0[place % LENGTH] ^= 1_u8 << bit;
            prop_assert!(!is_signed(&keys, &body, &other));
            let place = place % body.len();
            body[place] ^= 1_u8 << bit;
            prop_assert!(!is_signed(&keys, &body, &signature));
        }
    }
}
