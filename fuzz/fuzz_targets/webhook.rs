//! Any webhook is understood or not, and it counts as signed by one key only, with every bit in its place.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::domain::signature::{Signature, SigningKey, X_MERGE_WEBHOOK_SIGNATURE, is_signed};
use merge_sync_proxy::webhook::envelope::{Envelope, News};

static KEYS: LazyLock<[SigningKey; 2]> = LazyLock::new(|| ["secret", "another"].map(SigningKey::new));

fn shown(line: &[u8]) -> Option<Signature> {
    let value = HeaderValue::from_bytes(line).ok()?;
    let headers: HeaderMap = [(X_MERGE_WEBHOOK_SIGNATURE, value)].into_iter().collect();
    Signature::read(&headers).ok()
}

// The first line is a signature, the rest is the body.
fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());

    if let Some(signature) = shown(line) {
        assert!(matches!(line.len(), 43 | 44));
        let again = signature.to_string();
        assert_eq!(shown(again.as_bytes()), Some(signature));
        let known = KEYS.iter().any(|key| key.sign(body) == signature);
        assert_eq!(is_signed(&*KEYS, body, &signature), known);
    }

    let signature = KEYS[1].sign(body);
    assert!(is_signed(&*KEYS, body, &signature) && !is_signed(&KEYS[..1], body, &signature));
    assert!(!is_signed(&*KEYS, &[body, b" "].concat(), &signature));
    assert_eq!(shown(signature.to_string().trim_end_matches('=').as_bytes()), Some(signature));

    if let Some(Envelope { news, linked_account_id }) = Envelope::read(body) {
        // What it is taken for stands in it, in whatever escapes.
        let text = String::from_utf8_lossy(body);
        assert!(news == News::Other || text.contains('\\') || text.contains("hook"));
        assert!(linked_account_id.len() <= body.len());
    }
});
