//! The heads of one HTTP/1 connection, read along byte by byte: where each begins and ends, and what is wrong with it.

use memchr::memchr;

use super::plain::plain_head;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not as RFC 9112 has it; the text says what would be right.
    Malformed(&'static str),
    /// It has more than [`MOST_FIELDS`].
    TooManyFields,
}

/// How many header fields a request may have. It is as many as hyper parses without an allocation.
pub(super) const MOST_FIELDS: usize = 100;

/// What is kept of a line: as much as the longest that must be understood, `Transfer-Encoding: chunked` or a long `Content-Length`.
const PREFIX: usize = 48;

/// Up to this size, in bytes, fields above [`MOST_FIELDS`] are left out; a larger head ends at hyper's own limit.
const LARGEST_TO_CUT: usize = 64 << 10;

/// What the first line of an HTTP/2 connection says.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0";

const BARE: Fault = Fault::Malformed("End lines with CR and LF.");
const FRAGMENT: Fault = Fault::Malformed("The request target must have no fragment.");
const TWO_FRAMINGS: Fault = Fault::Malformed("Send one 'Content-Length' or one 'Transfer-Encoding', not several.");
const FRAMING: Fault =
    Fault::Malformed("'Content-Length' must be a number, and 'Transfer-Encoding' must be 'chunked'.");

/// Where in the connection the next byte belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before a request line: empty lines are allowed.
    #[default]
    Before,
    RequestLine,
    Fields,
    /// So many bytes of a body are to come.
    Body(u64),
    /// Nothing is read any more: it is HTTP/2, or the last request of the connection has come.
    Over,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scan {
    place: Place,
    /// How many heads have ended.
    heads: u64,
    /// How many bytes and fields the present head has so far.
    bytes: usize,
    fields: usize,
    /// How the body of the present head is framed.
    length: Option<u64>,
    chunked: bool,
    line: Line,
    fault: Option<(u64, Fault)>,
    /// The number of the head that was read last, if it was a plain one and came by itself.
    alone: Option<u64>,
}

/// The line that is coming in.
#[derive(Debug)]
struct Line {
    prefix: [u8; PREFIX],
    length: usize,
    last: u8,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            place: Place::Before,
            heads: 0,
            bytes: 0,
            fields: 0,
            length: None,
            chunked: false,
            line: Line { prefix: [0; PREFIX], length: 0, last: 0 },
            fault: None,
            alone: None,
        }
    }
}

impl Scan {
    /// How many heads have ended.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// The first head that is at fault, and what is wrong.
    pub(super) fn fault(&self) -> Option<(u64, Fault)> {
        self.fault
    }

    /// Whether the next byte begins a head, so that one which is known from elsewhere may be [passed over](Self::pass).
    pub(super) fn is_between(&self) -> bool {
        self.place == Place::Before && self.line.length == 0 && self.fault.is_none()
    }

    /// Passes over a whole head with which nothing is wrong and that has no body; returns its number.
    pub(super) fn pass(&mut self) -> u64 {
        (self.bytes, self.fields) = (0, 0);
        self.heads += 1;
        self.heads - 1
    }

    /// The number of the head that was read last, if that read brought a plain one and nothing else.
    pub(super) fn alone(&self) -> Option<u64> {
        self.alone
    }

    /// Reads the next bytes. Fields that are too many are taken out; returns how many bytes are left, from the front.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut kept) = (0, 0);
        self.alone = None;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let place = self.place;
            let (taken, keep) = match place {
                Place::Before if let Some(head) = self.plain_head(rest) => {
                    let number = self.pass();
                    self.alone = (head == bytes.len()).then_some(number);
                    (head, true)
                }
                Place::Over => (rest.len(), true),
                Place::Body(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - taken as u64;
                    self.place = if left == 0 { Place::Before } else { Place::Body(left) };
                    (taken, true)
                }
                Place::Before | Place::RequestLine | Place::Fields => {
                    let end = memchr(b'\n', rest);
                    let taken = end.map_or(rest.len(), |end| end + 1);
                    (taken, self.line(&rest[..taken], end.is_some()))
                }
            };
            if keep {
                if kept < at {
                    bytes.copy_within(at..at + taken, kept);
                }
                kept += taken;
            }
            at += taken;
        }
        kept
    }

    /// The length of a whole head, if one begins here that needs no closer look.
    fn plain_head(&self, bytes: &[u8]) -> Option<usize> {
        self.is_between().then(|| plain_head(bytes)).flatten()
    }

    /// Reads a part of a line, `whole` if it is the last; returns whether it is to be kept.
    fn line(&mut self, part: &[u8], whole: bool) -> bool {
        self.bytes += part.len();
        let begins = self.line.length == 0;
        self.line.add(part);
        if self.place == Place::Before && !matches!(self.line.prefix[0], b'\r' | b'\n') {
            self.place = Place::RequestLine;
        }
        if self.place == Place::RequestLine && part.contains(&b'#') {
            self.object(FRAGMENT);
        }
        let is_empty = matches!(self.line.prefix[0], b'\r' | b'\n');
        if self.place == Place::Fields && begins && !is_empty {
            self.fields += 1;
        }
        let too_many = self.fields > MOST_FIELDS && self.bytes <= LARGEST_TO_CUT;
        if too_many {
            self.object(Fault::TooManyFields);
        }
        if whole {
            self.line_ends();
            self.line.length = 0;
        }
        !too_many || is_empty
    }

    fn line_ends(&mut self) {
        let Some(text) = self.line.text() else {
            // hyper ends a line there; so does this, but does not let it pass.
            self.object(BARE);
            if self.line.length == 1 && self.place == Place::Fields {
                self.head_ends();
            } else if self.place == Place::RequestLine {
                self.place = Place::Fields;
            }
            return;
        };
        match self.place {
            Place::RequestLine if self.heads == 0 && text == PREFACE => self.place = Place::Over,
            Place::RequestLine => self.place = Place::Fields,
            Place::Fields if text.is_empty() => self.head_ends(),
            Place::Fields => self.field(),
            Place::Before | Place::Body(_) | Place::Over => {}
        }
    }

    /// Notes what a field says of the body.
    fn field(&mut self) {
        let Some(text) = self.line.text() else { return };
        let Some(colon) = text.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        if !is_length && !name.eq_ignore_ascii_case(b"transfer-encoding") {
            return;
        }
        if self.length.is_some() || self.chunked {
            return self.object(TWO_FRAMINGS);
        }
        let is_whole = self.line.is_in_prefix();
        let digits = Some(value).filter(|value| is_length && is_whole && value.iter().all(u8::is_ascii_digit));
        self.length = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        self.chunked = !is_length && is_whole && value.eq_ignore_ascii_case(b"chunked");
        if self.length.is_none() && !self.chunked {
            self.object(FRAMING);
        }
    }

    fn head_ends(&mut self) {
        self.place = match self.length.take() {
            _ if self.chunked || self.fault.is_some() => Place::Over,
            None | Some(0) => Place::Before,
            Some(length) => Place::Body(length),
        };
        self.heads += 1;
        (self.bytes, self.fields) = (0, 0);
    }

    fn object(&mut self, fault: Fault) {
        self.fault.get_or_insert((self.heads, fault));
    }
}

impl Line {
    fn add(&mut self, part: &[u8]) {
        if let Some(room) = self.prefix.get_mut(self.length..) {
            let taken = part.len().min(room.len());
            room[..taken].copy_from_slice(&part[..taken]);
        }
        let before = part.len().checked_sub(2).map(|at| part[at]);
        // The byte before the line feed, for a part that has one.
        if part.last() == Some(&b'\n') {
            self.last = before.unwrap_or(self.last);
        } else {
            self.last = *part.last().unwrap_or(&self.last);
        }
        self.length += part.len();
    }

    fn is_in_prefix(&self) -> bool {
        self.length <= PREFIX
    }

    /// What a whole line says, as far as it is kept, without its end; `None` if that is a bare line feed.
    fn text(&self) -> Option<&[u8]> {
        if self.length < 2 || self.last != b'\r' {
            return None;
        }
        Some(&self.prefix[..PREFIX.min(self.length - 2)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::plain::is_one_plain_head;
    use proptest::prelude::*;

    const GOOD: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// What is left of `text` when it comes in pieces of `size`, and the fault.
    fn scan(text: &str, size: usize) -> (String, Option<(u64, Fault)>) {
        let mut scan = Scan::default();
        let mut left = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            let mut piece = piece.to_vec();
            let kept = scan.read(&mut piece);
            left.extend_from_slice(&piece[..kept]);
        }
        (String::from_utf8(left).expect("text"), scan.fault())
    }

    fn fault(text: &str) -> Option<(u64, Fault)> {
        let (left, fault) = scan(text, text.len());
        assert_eq!(left, text, "nothing is taken out");
        for size in [1, 2, 3, 7, 50] {
            assert_eq!(scan(text, size), (left.clone(), fault), "{text:?} in pieces of {size}");
        }
        fault
    }

    #[test]
    fn whatever_can_be_read_in_two_ways_is_at_fault() {
        let head = |lines: &str| format!("POST /a HTTP/1.1\r\n{lines}\r\n");
        for (text, expected) in [
            (GOOD.to_owned(), None),
            (format!("\r\n\r\n{GOOD}{GOOD}"), None),
            (format!("{}hello{GOOD}", head("Content-Length: 5\r\n")), None),
            (head("content-length:0\r\n"), None),
            (head("Transfer-Encoding: Chunked\r\n") + "0\n\n#", None),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n#\n".to_owned(), None),
            (format!("{}Host: b\n\n", "GET / HTTP/1.1\r\n"), Some((0, BARE))),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), Some((0, BARE))),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), Some((0, BARE))),
            (format!("{GOOD}\n{GOOD}"), Some((1, BARE))),
            ("GET /#a HTTP/1.1\r\n\r\n".to_owned(), Some((0, FRAGMENT))),
            (format!("{GOOD}GET /?#a HTTP/1.1\r\n\r\n"), Some((1, FRAGMENT))),
            (head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), Some((0, TWO_FRAMINGS))),
            (head("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), Some((0, TWO_FRAMINGS))),
            (head("Content-Length: 5\r\nContent-Length: 5\r\n"), Some((0, TWO_FRAMINGS))),
            (head("Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n"), Some((0, TWO_FRAMINGS))),
            (head("Content-Length: +5\r\n"), Some((0, FRAMING))),
            (head("Content-Length:\r\n"), Some((0, FRAMING))),
            (head(&format!("Content-Length: {}5\r\n", "0".repeat(60))), Some((0, FRAMING))),
            (head("Transfer-Encoding: gzip, chunked\r\n"), Some((0, FRAMING))),
            (head(&format!("Transfer-Encoding: {}chunked\r\n", " ".repeat(60))), Some((0, FRAMING))),
        ] {
            assert_eq!(fault(&text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_told_at_once_is_what_a_look_at_each_line_says(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1", "\r\n", "\r\n", "\n", "\r", "#", "Host: a", "Content-Length: 1", "tr: b", "co", "x: y",
                "PRI * HTTP/2.0", "transfer-encoding: chunked", "\r\n\r\n",
            ]), 0..12)
        ) {
            let text = pieces.concat() + "\r\n\r\n";
            if is_one_plain_head(text.as_bytes()) {
                // In pieces of one byte nothing can be told at once.
                let mut scan = Scan::default();
                for byte in text.bytes() {
                    prop_assert_eq!(scan.read(&mut [byte]), 1);
                }
                prop_assert_eq!(scan.fault(), None);
                prop_assert_eq!((scan.heads, scan.place), (1, Place::Before));
            }
        }
    }

    #[test]
    fn fields_that_are_too_many_are_taken_out_and_objected_to() {
        let head = |fields: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(fields));
        for size in [1, 2, 5, 64, 4096] {
            assert_eq!(scan(&head(MOST_FIELDS), size), (head(MOST_FIELDS), None));
            let (left, fault) = scan(&head(9_000), size);
            assert_eq!((left, fault), (head(MOST_FIELDS), Some((0, Fault::TooManyFields))), "in pieces of {size}");
        }
        assert!(scan(&head(20_000), 4096).0.len() > 30_000, "hyper is to find it too large");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "(GET /#? HTTP/1.1\r?\n|[ac]:b?\r?\n|content-length: ?[0-9]?\r?\n|\r?\n|[\r\n:#a]){0,12}", size in 1_usize..9) {
            prop_assert_eq!(scan(&text, size), scan(&text, 1_000));
        }
    }
}
