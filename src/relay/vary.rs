//! `Vary`: which request fields select a response, and whether another request would select the same (RFC 9111 §4.1).

use http::header::{ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderName};

/// The request fields that selected a response, each with its value in normal form; `None` where it was absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(Vec<(HeaderName, Option<Vec<u8>>)>);

impl Selection {
    /// What selected the response with `headers` when `request` was sent; `None` if it was more than its fields.
    pub fn new(headers: &HeaderMap, request: &HeaderMap) -> Option<Self> {
        let mut names: Vec<HeaderName> = Vec::new();
        for line in headers.get_all(VARY) {
            for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                // `*` is no name, and what is no name could mean anything.
                names.push(name.parse().ok().filter(|_| name != "*")?);
            }
        }
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        Some(Self(names.into_iter().map(|name| (name.clone(), normal(request, &name))).collect()))
    }

    /// Whether `request` would select the same.
    pub fn fits(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|(name, value)| normal(request, name) == *value)
    }

    /// The bytes that it takes.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(_, value)| 64 + value.as_ref().map_or(0, Vec::len)).sum()
    }
}

/// The lists of plain words, which have neither case nor order. `Accept` is none of them: its parameters may have case.
const WORDS: [HeaderName; 3] = [ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE];

/// The value of a field such that two that mean the same are equal: lines joined, no blanks around commas outside of quotes.
pub fn normal(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut members: Vec<Vec<u8>> = Vec::new();
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    for line in lines {
        members.extend(split(line.as_bytes()));
    }
    if WORDS.contains(name) {
        for member in &mut members {
            member.make_ascii_lowercase();
        }
        members.sort_unstable();
    }
    Some(members.join(&b','))
}

/// The members of a list, without the blanks around them; a comma in quotes ends none.
fn split(line: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let (mut quoted, mut escaped) = (false, false);
    let members = line.split(move |byte| {
        let ends = *byte == b',' && !quoted;
        quoted ^= *byte == b'"' && !escaped;
        escaped = quoted && *byte == b'\\' && !escaped;
        ends
    });
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a header value"))
        };
        fields.iter().map(field).collect()
    }

    fn fits(vary: &[&str], one: &[(&'static str, &str)], other: &[(&'static str, &str)]) -> bool {
        let vary: Vec<_> = vary.iter().map(|line| ("vary", *line)).collect();
        let selection = Selection::new(&headers(&vary), &headers(one)).expect("it is not everything");
        selection.fits(&headers(other))
    }

    #[test]
    fn all_lines_count_and_absence_is_a_value() {
        let one = [("foo", "1"), ("bar", "2")];
        assert!(fits(&["Foo", "bar, ,FOO"], &one, &[("bar", "2"), ("foo", "1"), ("baz", "3")]));
        assert!(!fits(&["Foo", "bar"], &one, &[("foo", "1"), ("bar", "3")]));
        assert!(!fits(&["foo"], &one, &[]) && !fits(&["foo"], &[], &one));
        assert!(fits(&["foo"], &[], &[("bar", "1")]));
        assert!(!fits(&["foo"], &[("foo", "")], &[]));
    }

    #[test]
    fn everything_is_never_the_same_again() {
        for lines in [&["*"][..], &["foo, *"], &["", "*"], &["*, *"], &["a b"], &["é"]] {
            let vary: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            assert_eq!(Selection::new(&headers(&vary), &HeaderMap::new()), None, "{lines:?}");
        }
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        assert!(fits(&["foo"], &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]));
        assert!(fits(&["foo"], &[("foo", "1,2")], &[("foo", " 1 ,\t2 ")]));
        assert!(!fits(&["foo"], &[("foo", "a, b")], &[("foo", "b, a")]));
        assert!(!fits(&["foo"], &[("foo", "\"a,b\"")], &[("foo", "\"a, b\"")]));
        for name in ["accept-language", "accept-encoding", "accept-charset"] {
            assert!(fits(&[name], &[(name, "en, de")], &[(name, "De,eN")]), "{name}");
        }
        for name in ["accept", "accept-profile", "accept-patch"] {
            assert!(!fits(&[name], &[(name, "a/b;c=\"D\"")], &[(name, "a/b;c=\"d\"")]), "{name}");
            assert!(!fits(&[name], &[(name, "a, b")], &[(name, "b, a")]), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_two_lists_of_words_are_confused(one in proptest::collection::vec("[a-c]{1,2}", 0..4), other in proptest::collection::vec("[a-c]{1,2}", 0..4)) {
            let told = fits(&["foo"], &[("foo", &one.join(", "))], &[("foo", &other.join(" ,"))]);
            prop_assert_eq!(told, one == other);
        }
    }
}
