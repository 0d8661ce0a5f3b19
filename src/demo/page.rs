//! Pages of sync-status: the query that asks for one, the opaque cursor, the JSON.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use super::models::{ModelState, written};

/// How many entries a page has if nobody says.
const DEFAULT_SIZE: usize = 50;

/// A cursor's first bytes: they read `+/++` in base64, so that whoever decodes or re-encodes a cursor on the way breaks it.
const MARK: [u8; 3] = [0xfb, 0xff, 0xbe];

/// Which part of the list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageQuery {
    offset: usize,
    size: usize,
}

/// The page as written.
#[derive(Serialize)]
struct Page<'a> {
    next: Option<String>,
    previous: Option<String>,
    results: &'a [ModelState],
}

impl PageQuery {
    /// Reads a query as Django does; the error is for `non_field_errors`. A cursor is good for the account that got it.
    pub(crate) fn read(query: Option<&str>, account: &str) -> Result<Self, &'static str> {
        let mut page = Self { offset: 0, size: DEFAULT_SIZE };
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match &*unescape(name) {
                b"page_size" => {
                    let size = String::from_utf8(unescape(value)).ok().and_then(|size| size.parse().ok());
                    page.size = size
                        .filter(|size| (1..=100).contains(size))
                        .ok_or("page_size must be an integer between 1 and 100.")?;
                }
                b"cursor" if !value.is_empty() => {
                    page.offset = offset(&unescape(value), account).ok_or("Invalid cursor.")?;
                }
                _ => {}
            }
        }
        Ok(page)
    }

    /// The body of that page.
    pub(crate) fn write(self, all: &[ModelState], account: &str) -> Bytes {
        let start = self.offset.min(all.len());
        let end = (start + self.size).min(all.len());
        let page = Page {
            next: (end < all.len()).then(|| cursor(end, account)),
            previous: (start > 0).then(|| cursor(start.saturating_sub(self.size), account)),
            results: &all[start..end],
        };
        serde_json::to_vec(&page).expect("a page is plain JSON").into()
    }
}

/// The cursor for the page that starts there.
fn cursor(offset: usize, account: &str) -> String {
    let offset = u16::try_from(offset).unwrap_or(u16::MAX).to_be_bytes();
    STANDARD.encode([&MARK[..], &offset, &owner(account)].concat())
}

fn offset(cursor: &[u8], account: &str) -> Option<usize> {
    let bytes = STANDARD.decode(cursor).ok()?;
    let (start, rest) = bytes.strip_prefix(&MARK)?.split_first_chunk::<2>()?;
    (rest == owner(account)).then(|| usize::from(u16::from_be_bytes(*start)))
}

fn owner(account: &str) -> [u8; 2] {
    let [.., a, b] = super::dice::seed(account.as_bytes()).to_be_bytes();
    [a, b]
}

/// Undoes `application/x-www-form-urlencoded`; a stray `%` stands for itself.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().iter();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = bytes.as_slice().get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
                match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
                    Some(decoded) => {
                        bytes.nth(1);
                        decoded
                    }
                    None => b'%',
                }
            }
            byte => *byte,
        });
    }
    out
}

/// A cursor as it has to be written in a query: bare, its `+` would arrive as a blank.
pub fn escape(cursor: &str) -> String {
    cursor.replace('%', "%25").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

/// A page for tests, of models with these ids, statuses (any text) and next starts.
pub fn sync_page(models: &[(&str, &str, Option<SystemTime>)]) -> Bytes {
    let results: Vec<_> = models
        .iter()
        .map(|(id, status, next)| {
            json!({
                "model_name": id.rsplit('.').next(),
                "model_id": id,
                "last_sync_start": null,
                "next_sync_start": next.map(written),
                "last_sync_result": null,
                "last_sync_finished": null,
                "status": status,
                "is_initial_sync": false,
            })
        })
        .collect();
    json!({ "next": null, "previous": null, "results": results }).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_hold_every_character_that_is_easily_broken() {
        let cursor = cursor(5, "acme");
        assert!(["+", "/", "="].iter().all(|character| cursor.contains(character)), "{cursor}");
        assert_eq!(offset(cursor.as_bytes(), "acme"), Some(5));
        assert_eq!(offset(cursor.as_bytes(), "globex"), None);
        let query = |cursor: &str| PageQuery::read(Some(&format!("cursor={cursor}")), "acme");
        assert_eq!(query(&escape(&cursor)), Ok(PageQuery { offset: 5, size: DEFAULT_SIZE }));
        assert_eq!(query(&cursor), Err("Invalid cursor."), "a bare plus is a blank");
        assert_eq!(query(""), Ok(PageQuery { offset: 0, size: DEFAULT_SIZE }));
    }

    #[test]
    fn a_page_size_is_an_integer_from_1_to_100() {
        let size = |size: &str| PageQuery::read(Some(&format!("a=b&page_size={size}")), "acme").map(|page| page.size);
        assert_eq!([size("1"), size("100"), size("%31")], [Ok(1), Ok(100), Ok(1)]);
        for bad in ["0", "101", "", "ten", "-1", "1.5"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn escapes_are_undone_as_in_forms() {
        assert_eq!(unescape("a%2Bb+c%3d%zz%2"), b"a+b c=%zz%2");
    }
}
