//! Whether a client has the page already (RFC 9110 §13.1.2, §13.1.3).

use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};

use super::detached;

/// What a client says that it has.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    if_none_match: Vec<HeaderValue>,
    /// Counts only where there are no tags.
    if_modified_since: Option<HeaderValue>,
}

impl Conditions {
    /// The conditions of a request.
    pub fn read(headers: &HeaderMap) -> Self {
        let if_none_match: Vec<_> = headers.get_all(IF_NONE_MATCH).iter().map(detached::value).collect();
        let dates = if_none_match.is_empty().then(|| headers.get_all(IF_MODIFIED_SINCE).iter());
        // Of several dates none is the one that is meant.
        let if_modified_since =
            dates.and_then(|mut dates| dates.next().filter(|_| dates.next().is_none())).map(detached::value);
        Self { if_none_match, if_modified_since }
    }

    /// Whether the client has what is named `tag` and was `modified` last, where that is known.
    pub fn met(&self, tag: &HeaderValue, modified: Option<&HeaderValue>) -> bool {
        if !self.if_none_match.is_empty() {
            return names(&self.if_none_match, tag);
        }
        let date = |line: &HeaderValue| httpdate::parse_http_date(line.to_str().ok()?).ok();
        match (&self.if_modified_since, modified) {
            (Some(since), Some(modified)) => {
                date(since).zip(date(modified)).is_some_and(|(since, modified)| modified <= since)
            }
            _ => false,
        }
    }
}

/// Whether any of the `If-None-Match` lines names `tag`, by weak comparison: `W/` does not count. `*` names any page.
pub fn names(lines: &[HeaderValue], tag: &HeaderValue) -> bool {
    let tag = opaque(tag.as_bytes());
    lines
        .iter()
        .any(|line| line.as_bytes().trim_ascii() == b"*" || Tags(line.as_bytes()).any(|candidate| candidate == tag))
}

/// The part of a tag between its quotes, quotes included.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The tags of a list. A comma may stand inside the quotes, so it is read tag by tag; what is no tag ends it.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|byte| !b" \t,".contains(byte))?;
        let tag = opaque(&self.0[start..]);
        let inside = tag.strip_prefix(b"\"")?;
        let end = inside.iter().position(|byte| *byte == b'"')? + 2;
        let (tag, rest) = tag.split_at(end);
        self.0 = rest;
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(line: &str) -> bool {
        names(&[HeaderValue::from_str(line).expect("a header value")], &HeaderValue::from_static("\"a,b\""))
    }

    #[test]
    fn lists_weak_tags_and_the_star_are_understood() {
        for line in ["\"a,b\"", "W/\"a,b\"", "\"x\", \"a,b\"", "\"x\",W/\"a,b\",\"y\"", "*", " * ", "\"\",\t\"a,b\""] {
            assert!(named(line), "{line}");
        }
        for line in ["", "a,b", "\"a\"", "\"a\",\"b\"", "w/\"a,b\"", "\"a,b", "\"x\", *", "\"A,B\"", "garbage \"a,b\""]
        {
            assert!(!named(line), "{line}");
        }
    }

    #[test]
    fn a_date_counts_where_there_is_one_on_either_side_and_no_tag() {
        let date = |day: u32| HeaderValue::from_str(&format!("Sun, {day:02} Nov 1994 08:49:37 GMT")).expect("a value");
        let tag = HeaderValue::from_static("\"a\"");
        let met = |lines: &[(http::HeaderName, HeaderValue)], modified: Option<u32>| {
            Conditions::read(&lines.iter().cloned().collect()).met(&tag, modified.map(date).as_ref())
        };
        let since = |day| [(IF_MODIFIED_SINCE, date(day))];
        assert!(met(&since(6), Some(6)) && met(&since(13), Some(6)));
        assert!(!met(&since(6), Some(13)) && !met(&since(6), None) && !met(&[], Some(6)));
        let other = [(IF_NONE_MATCH, HeaderValue::from_static("\"b\"")), (IF_MODIFIED_SINCE, date(6))];
        assert!(!met(&other, Some(6)), "the tag says more than the date");
        let two = [(IF_MODIFIED_SINCE, date(6)), (IF_MODIFIED_SINCE, date(6))];
        assert!(!met(&two, Some(6)), "of two dates none is the one that is meant");
        for bad in ["yesterday", "\u{e9}"] {
            assert!(!met(&[(IF_MODIFIED_SINCE, HeaderValue::from_str(bad).expect("a value"))], Some(6)));
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_to_an_end(line in "[a-b\"W/, *\t]{0,30}") {
            named(&line);
        }

        #[test]
        fn a_tag_is_found_among_any_others(others in proptest::collection::vec("[a-z,]{0,4}", 0..5), weak: bool) {
            let mut tags: Vec<String> = others.iter().map(|tag| format!("\"{tag}\"")).collect();
            tags.push(format!("{}\"a,b\"", if weak { "W/" } else { "" }));
            prop_assert!(named(&tags.join(", ")));
        }
    }
}
