//! Heads of HTTP/1 that need no closer look, as nearly all: such a one is recognised at a glance instead of line by line.

use memchr::{memchr, memchr_iter};

use super::scan::{MOST_FIELDS, PREFACE};

/// The length of the head that `bytes` begin with, if it is a whole one of the kind that nearly all are: nothing is wrong with it,
/// and no body follows. Whatever else it is, [`Scan`](super::scan::Scan) finds out.
pub(super) fn plain_head(bytes: &[u8]) -> Option<usize> {
    if is_one_plain_head(bytes) {
        return Some(bytes.len());
    }
    let mut ends = memchr_iter(b'\n', bytes);
    let mut begin = 0;
    let mut line = || {
        let end = ends.next()?;
        let line = bytes[begin..end].strip_suffix(b"\r")?;
        begin = end + 1;
        Some((line, begin))
    };
    let (request_line, _) = line()?;
    if matches!(request_line, [] | [b'\r', ..]) || memchr(b'#', request_line).is_some() || request_line == PREFACE {
        return None;
    }
    for _ in 0..=MOST_FIELDS {
        match line()? {
            ([], end) => return Some(end),
            ([b'\r', ..], _) => return None,
            (field @ [b'c' | b'C' | b't' | b'T', ..], _) if frames_a_body(field) => return None,
            _ => {}
        }
    }
    None
}

/// Whether `bytes` are one head for which [`plain_head`] would find nothing, told without a look at each line. The loop has neither
/// exits nor branches, so it is done in vectors. It says no too often, but never yes where that would say no.
pub(super) fn is_one_plain_head(bytes: &[u8]) -> bool {
    let Some(lines) = bytes.strip_suffix(b"\r\n\r\n") else { return false };
    let short = (2..=SHORT).contains(&lines.len());
    if !short || matches!(lines[0], b'\r' | b'\n' | b'#') || lines.starts_with(b"PRI") {
        return false;
    }
    let all = lines.len() - 1;
    let (before, here, first, fourth) = (&bytes[..all], &bytes[1..=all], &bytes[2..all + 2], &bytes[5..all + 5]);
    let is = |byte: u8, other: u8| u8::from(byte == other);
    let (mut suspicious, mut ends) = (0, 0_u8);
    for at in 0..all {
        // At the end of each line: that it ends well, that the next is not empty and frames no body. Names of fields that do so are told
        // by two letters.
        let ends_here = is(here[at], b'\n');
        let (name, rest) = (first[at] | 0x20, fourth[at] | 0x20);
        let frames = is(name, b'c') & is(rest, b't') | is(name, b't') & is(rest, b'n');
        suspicious |= ends_here & (is(before[at], b'\r') ^ 1 | is(first[at], b'\r') | frames) | is(here[at], b'#');
        ends = ends.wrapping_add(ends_here);
    }
    suspicious == 0 && usize::from(ends) <= MOST_FIELDS
}

/// The longest head that is looked at as one, in bytes; nearly all are shorter. A line has three bytes at least, so it has no more
/// lines than a byte can count.
pub(super) const SHORT: usize = 3 * 255;

/// Whether a field may be one of those that [`Scan`](super::scan::Scan) reads.
fn frames_a_body(field: &[u8]) -> bool {
    let names: [&[u8]; 2] = [b"content-length", b"transfer-encoding"];
    names.iter().any(|name| field.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_head_is_told_at_once_and_no_other_is_taken_for_one() {
        let head = |lines: &str| format!("GET /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        for lines in ["", "Accept: */*\r\nAuthorization: Bearer a\r\n", "x: # is no fragment here\r\n"] {
            assert_eq!(plain_head(head(lines).as_bytes()), Some(head(lines).len()), "{lines:?}");
        }
        assert!(is_one_plain_head(head("Accept: */*\r\n").as_bytes()), "without a look at each line");
        for lines in ["a: b\n", "Content-Length: 1\r\n", "transfer-encoding: chunked\r\n", "\rx: y\r\n"] {
            assert_eq!(plain_head(head(lines).as_bytes()), None, "{lines:?}");
        }
        let most = |fields| format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(fields));
        assert!(
            is_one_plain_head(most(MOST_FIELDS).as_bytes()) && !is_one_plain_head(most(MOST_FIELDS + 1).as_bytes())
        );
    }
}
