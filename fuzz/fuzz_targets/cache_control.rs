//! Header fields that say how long and by whom something may be used are read to an end, whatever they say; one line more never makes
//! a client's wish or an upstream's rule weaker where it must not.
#![no_main]

use std::time::{Duration, SystemTime};

use http::header::{AGE, CACHE_CONTROL, DATE, EXPIRES, IF_NONE_MATCH, PRAGMA, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::domain::cache_control::{FOREVER, Wants};
use merge_sync_proxy::domain::condition;
use merge_sync_proxy::relay::directives::Directives;
use merge_sync_proxy::relay::policy::{Clocks, may_store, terms};
use merge_sync_proxy::reply::accept_encoding;

const NAMES: [HeaderName; 8] =
    [CACHE_CONTROL, AGE, DATE, EXPIRES, IF_NONE_MATCH, PRAGMA, VARY, http::header::ACCEPT_ENCODING];

fuzz_target!(|input: (u32, u32, Vec<(u8, Vec<u8>)>)| {
    let (wall, delay, fields) = input;
    let fields = fields.iter().filter_map(|(name, value)| {
        Some((NAMES[usize::from(*name) % NAMES.len()].clone(), HeaderValue::from_bytes(value).ok()?))
    });
    let mut headers: HeaderMap = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, value);
    }
    let wants = Wants::read(&headers);
    for limit in [wants.max_age, wants.max_stale, wants.min_fresh].into_iter().flatten() {
        assert!(limit <= FOREVER);
    }
    let directives = Directives::read(&headers);
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(wall.into());
    let terms = terms(&headers, &directives, Clocks { delay: Duration::from_millis(delay.into()), wall });
    assert!(terms.lifetime <= FOREVER || headers.contains_key(EXPIRES));
    assert!(
        !may_store(StatusCode::OK, &headers, &directives, &terms) || directives.must_understand || !directives.no_store
    );
    let lines: Vec<HeaderValue> = headers.get_all(IF_NONE_MATCH).iter().cloned().collect();
    condition::names(&lines, &HeaderValue::from_static("\"tag\""));
    accept_encoding::choose(&headers);
    // A line more can only add to what is forbidden.
    headers.append(CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache"));
    let stricter = Directives::read(&headers);
    assert!(stricter.no_store && stricter.no_cache);
    let stricter = Wants::read(&headers);
    assert!(stricter.no_store && stricter.no_cache);
});
