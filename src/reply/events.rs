//! Pages as server-sent events (the HTML standard's `text/event-stream`).

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::timeout;

use crate::domain::body::{self, ReplyBody};
use crate::domain::follow::Updates;
use crate::domain::page::Page;

/// How long a stream is silent. By then something is said, so that what lies between keeps the connection, and a client that has
/// gone is noticed.
const SILENCE: Duration = Duration::from_secs(15);

/// The body that tells of each of `updates`.
pub fn body(updates: Updates) -> ReplyBody {
    let frames = stream::unfold(updates, async |mut updates: Updates| {
        let text = match timeout(SILENCE, updates.next()).await {
            Ok(page) => event(&*page?),
            Err(_silent) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok::<_, Infallible>(Frame::data(text)), updates))
    });
    ReplyBody::stream(body::stream(StreamBody::new(Box::pin(frames))))
}

/// One event: its id is the page's tag, its data the page's bytes, line by line.
fn event(page: &Page) -> Bytes {
    let mut text = b"event: page\nid: ".to_vec();
    text.extend_from_slice(page.etag.as_bytes());
    for line in lines(&page.body) {
        text.extend_from_slice(b"\ndata: ");
        text.extend_from_slice(line);
    }
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// The lines of a text, ended by CRLF, LF or CR, as the standard reads them.
fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut over = false;
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            over = true;
            return Some(text);
        };
        let (line, rest) = text.split_at(end);
        text = rest.strip_prefix(b"\r\n").unwrap_or(&rest[1..]);
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        let of = |text: &'static str| lines(text.as_bytes()).map(String::from_utf8_lossy).collect::<Vec<_>>();
        assert_eq!(of("{}"), ["{}"]);
        assert_eq!(of("a\nb\r\nc\rd"), ["a", "b", "c", "d"]);
        assert_eq!(of("\n\r\n\r"), ["", "", "", ""]);
        assert_eq!(of(""), [""]);
    }
}
