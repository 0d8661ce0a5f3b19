//! A canonical query is its own canonical form, does not depend on the order of pairs with different names, and keeps every byte that
//! may mean something.
#![no_main]

use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::domain::key::CanonicalQuery;
use merge_sync_proxy::door::query::check;

fuzz_target!(|raw: &str| {
    let canonical = CanonicalQuery::new(raw);
    let text = canonical.as_str();
    assert_eq!(CanonicalQuery::new(text).as_str(), text);
    assert!(text.len() <= raw.len());
    assert_eq!(decoded(text).len(), decoded(raw).len());
    for kept in ['+', '=', '&'] {
        assert_eq!(text.matches(kept).count(), raw.matches(kept).count());
    }
    let names: Vec<&str> = canonical.pairs().map(|(name, _)| name).collect();
    let once = names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1);
    if once {
        let turned: Vec<&str> = raw.split('&').rev().collect();
        let turned = CanonicalQuery::new(&turned.join("&"));
        assert!(turned.pairs().eq(canonical.pairs()));
    }
    assert_eq!(check(&canonical), check(&CanonicalQuery::new(text)));
});

/// The bytes that a query stands for, with its pairs in any order.
fn decoded(query: &str) -> Vec<u8> {
    let bytes = query.as_bytes();
    let (mut at, mut out) = (0, Vec::new());
    while at < bytes.len() {
        let octet = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let octet = octet.and_then(|hex| std::str::from_utf8(hex).ok()).filter(|hex| !hex.starts_with('+'));
        let octet = octet.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(octet.unwrap_or(bytes[at]));
        at += if octet.is_some() { 3 } else { 1 };
    }
    out.sort_unstable();
    out
}
