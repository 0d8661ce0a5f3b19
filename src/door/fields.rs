//! What the door reads of a header section, in one look at all of it: that costs less than a search for each field.

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderValue};

use crate::domain::access::X_ACCOUNT_TOKEN;
use crate::domain::follow::PREFER;

/// What HTTP counts for a field beside its name and value (RFC 9113 §6.5.2).
const OVERHEAD: usize = 32;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    /// What the section takes, in bytes.
    pub size: usize,
    /// Whether it may say what is wanted of the cache.
    pub has_wants: bool,
    /// Whether it may say that another coding than none is accepted.
    pub has_codings: bool,
    /// Whether it may say that the request follows a page.
    pub may_follow: bool,
    /// `Authorization`.
    pub authorization: Field<'a>,
    /// `X-Account-Token`.
    pub account: Field<'a>,
}

/// A field that there may be once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Field<'a> {
    /// It is not there.
    #[default]
    Absent,
    /// It is there.
    Once(&'a HeaderValue),
    /// It is there more than once, so it says nothing that can be trusted.
    Repeated,
}

impl<'a> Field<'a> {
    fn and(self, value: &'a HeaderValue) -> Self {
        if self == Self::Absent { Self::Once(value) } else { Self::Repeated }
    }
}

impl<'a> Fields<'a> {
    /// Of this section.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            fields.size += name.as_str().len() + value.len() + OVERHEAD;
            fields.has_wants |= *name == CACHE_CONTROL || *name == PRAGMA;
            fields.has_codings |= *name == ACCEPT_ENCODING;
            fields.may_follow |= *name == PREFER || (*name == ACCEPT && !accepts_a_page(value));
            if *name == AUTHORIZATION {
                fields.authorization = fields.authorization.and(value);
            } else if *name == X_ACCOUNT_TOKEN {
                fields.account = fields.account.and(value);
            }
        }
        fields
    }
}

/// Whether this `Accept` is one of those that nearly all clients send, which speak of no event stream.
fn accepts_a_page(value: &HeaderValue) -> bool {
    matches!(value.as_bytes(), b"*/*" | b"application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_look_finds_what_a_search_for_each_would(
            lines in prop::collection::vec((0_usize..5, "[a-z]{0,9}"), 0..9)
        ) {
            let names = [AUTHORIZATION, X_ACCOUNT_TOKEN, CACHE_CONTROL, PRAGMA, http::header::ACCEPT];
            let mut headers = HeaderMap::new();
            for (name, value) in &lines {
                headers.append(&names[*name], value.parse().expect("letters are a value"));
            }
            let fields = Fields::of(&headers);
            for (name, field) in [(AUTHORIZATION, fields.authorization), (X_ACCOUNT_TOKEN, fields.account)] {
                let values: Vec<_> = headers.get_all(name).iter().collect();
                let expected = match values[..] {
                    [] => Field::Absent,
                    [one] => Field::Once(one),
                    _ => Field::Repeated,
                };
                prop_assert_eq!(field, expected);
            }
            prop_assert_eq!(fields.has_wants, headers.contains_key(CACHE_CONTROL) || headers.contains_key(PRAGMA));
            let size = lines.iter().map(|(name, value)| names[*name].as_str().len() + value.len() + OVERHEAD);
            prop_assert_eq!(fields.size, size.sum::<usize>());
        }
    }
}
