//! One key is whole and lets its consumer in; no other line does.
#![no_main]

use std::sync::LazyLock;
use std::time::Instant;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::domain::access::{Consumer, KeyHash};
use merge_sync_proxy::door::consumer_key::{generate, hash, is_whole};
use merge_sync_proxy::door::fields::Fields;
use merge_sync_proxy::door::identify::Consumers;
use merge_sync_proxy::door::strangers::Strangers;

static KEY: LazyLock<String> = LazyLock::new(generate);

static CONSUMERS: LazyLock<Consumers> = LazyLock::new(|| {
    let mut sha256 = [0; 32];
    for (byte, digits) in sha256.iter_mut().zip(hash(&KEY).as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).expect("hex"), 16).expect("hex");
    }
    let key = KeyHash { sha256, expires: None, disabled: false };
    let consumer = Consumer { name: "team".into(), keys: vec![key], ..Consumer::open() };
    Consumers::new(&[consumer], None, Instant::now().into())
});

static STRANGERS: LazyLock<Strangers> = LazyLock::new(|| Strangers::new(None, None, Instant::now().into()));

fuzz_target!(|line: &[u8]| {
    let text = String::from_utf8_lossy(line);
    assert!(!is_whole(&text) || text.len() == KEY.len());
    // Where the input says KEY, the key is put in.
    let line = text.replace("KEY", &KEY);
    let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) else { return };
    let headers: HeaderMap = [(AUTHORIZATION, value)].into_iter().collect();
    // White space around the key is none of it (RFC 9110 §5.5).
    let shown = line
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("bearer "))
        .map(|_| line[7..].trim_matches([' ', '\t']));
    let identified = CONSUMERS.identify(Fields::of(&headers).authorization, None, &STRANGERS, Instant::now().into());
    assert_eq!(identified.is_ok(), shown == Some(&**KEY));
});
