//! Whether a client has the page already (RFC 9110 §13.1.2).

use http::HeaderValue;

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
