//! The `Cache-Control` grammar of RFC 9111 §5.2, for requests and responses.

use std::time::Duration;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What a client may ask of a cache (RFC 9111 §5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// No stored page without asking the upstream.
    pub no_cache: bool,
    /// Nothing of this exchange may be stored.
    pub no_store: bool,
    /// Only what is stored.
    pub only_if_cached: bool,
    /// No page that is older.
    pub max_age: Option<Duration>,
    /// A page that has been stale no longer than this is fine.
    pub max_stale: Option<Duration>,
    /// Only a page that stays fresh for this long.
    pub min_fresh: Option<Duration>,
}

impl Wants {
    /// Reads all `Cache-Control` lines, and `Pragma: no-cache` where there are none.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut wants = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            let pragma = headers.get_all(PRAGMA).iter().flat_map(directives);
            wants.no_cache = pragma.into_iter().any(|(name, _)| name.eq_ignore_ascii_case("no-cache"));
            return wants;
        }
        for (name, argument) in headers.get_all(CACHE_CONTROL).iter().flat_map(directives) {
            match name.to_ascii_lowercase().as_str() {
                "no-cache" => wants.no_cache = true,
                "no-store" => wants.no_store = true,
                "only-if-cached" => wants.only_if_cached = true,
                // Of an argument that cannot be read, the stricter meaning is taken.
                "max-age" => wants.max_age = Some(seconds(argument).unwrap_or_default()),
                "min-fresh" => wants.min_fresh = Some(seconds(argument).unwrap_or(FOREVER)),
                "max-stale" => wants.max_stale = if argument.is_none() { Some(FOREVER) } else { seconds(argument) },
                _ => {}
            }
        }
        wants
    }

    /// The same without what makes a cache fetch although it could answer.
    pub fn unforced(self) -> Self {
        Self { no_cache: false, no_store: false, max_age: None, min_fresh: None, ..self }
    }
}

/// As long as anyone can ask for: the 2^31 seconds of RFC 9111 §1.2.2.
pub const FOREVER: Duration = Duration::from_secs(1 << 31);

/// The argument of a directive as delta-seconds (RFC 9111 §1.2.2): digits only; what is larger than 2^31 counts as that.
pub fn seconds(argument: Option<&str>) -> Option<Duration> {
    let digits = argument?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().map_or(FOREVER, Duration::from_secs).min(FOREVER))
}

/// The directives of one field line as (name, argument without its quotes).
pub fn directives(line: &HeaderValue) -> Vec<(&str, Option<&str>)> {
    let Ok(mut rest) = line.to_str() else { return Vec::new() };
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return found;
        }
        let name_end = rest.find(['=', ',']).unwrap_or(rest.len());
        let name = rest[..name_end].trim();
        rest = &rest[name_end..];
        let Some(argument) = rest.strip_prefix('=') else {
            found.push((name, None));
            continue;
        };
        let (argument, after) = match argument.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => argument.split_at(argument.find(',').unwrap_or(argument.len())),
        };
        found.push((name, Some(argument.trim())));
        rest = &after[after.find(',').unwrap_or(after.len())..];
    }
}

/// The members of a field that is a comma-separated list of tokens, over all its lines.
pub fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> + use<'h> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wants(lines: &[&'static str]) -> Wants {
        let lines = lines.iter().map(|line| (CACHE_CONTROL, HeaderValue::from_static(line)));
        Wants::read(&lines.collect())
    }

    #[test]
    fn reads_what_the_rfc_lists() {
        let second = Duration::from_secs;
        let plain = Wants::default();
        for (lines, expected) in [
            (&["no-cache"][..], Wants { no_cache: true, ..plain }),
            (&["No-Store", "ONLY-IF-CACHED"], Wants { no_store: true, only_if_cached: true, ..plain }),
            (&["max-age=5, min-fresh=\"7\""], Wants { max_age: Some(second(5)), min_fresh: Some(second(7)), ..plain }),
            (&["max-stale"], Wants { max_stale: Some(FOREVER), ..plain }),
            (&["max-stale=9,,unknown=\"a, no-cache\""], Wants { max_stale: Some(second(9)), ..plain }),
            (&["max-age=99999999999999999999"], Wants { max_age: Some(FOREVER), ..plain }),
            (&["max-age=-1"], Wants { max_age: Some(second(0)), ..plain }),
            (&["max-stale=x"], plain),
        ] {
            assert_eq!(wants(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        assert!(Wants::read(&headers).no_cache);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3"));
        assert!(!Wants::read(&headers).no_cache);
    }

    proptest! {
        #[test]
        fn any_line_is_read_to_its_end(line in "[a-z=,\" \t-]{0,40}") {
            let line = HeaderValue::from_str(&line).expect("no control characters but tab");
            prop_assert!(directives(&line).len() <= 40);
        }
    }
}
