//! The head of an answer as HTTP/1.1 has it on the wire (RFC 9112 §4).

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::response::Parts;
use tokio::time::Instant;

use crate::domain::clock::since_epoch;

/// Room for the head of a hit, in bytes.
const ROOM: usize = 640;

/// The head of an answer at `at` that has a whole body of `length` bytes: it says that length where the body belongs to the answer, and
/// the date, as an origin does (RFC 9110 §6.6.1, §8.6).
pub(super) fn head(parts: &Parts, length: usize, at: Instant) -> Vec<u8> {
    let mut head = Vec::with_capacity(ROOM);
    if parts.status == StatusCode::OK {
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        let reason = parts.status.canonical_reason().unwrap_or_default();
        for piece in ["HTTP/1.1 ", parts.status.as_str(), " ", reason, "\r\n"] {
            head.extend_from_slice(piece.as_bytes());
        }
    }
    for (name, value) in &parts.headers {
        field(&mut head, name.as_str(), value.as_bytes());
    }
    if !matches!(parts.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT) {
        field(&mut head, "content-length", itoa::Buffer::new().format(length).as_bytes());
    }
    field(&mut head, "date", &date(since_epoch(at).as_secs()));
    head.extend_from_slice(b"\r\n");
    head
}

fn field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// A date as HTTP writes it (RFC 9110 §5.6.7).
type Date = [u8; 29];

thread_local!(static LAST: Cell<(u64, Date)> = const { Cell::new((u64::MAX, [0; 29])) });

/// So many seconds after the Unix epoch. It is the same for all answers of a second.
fn date(seconds: u64) -> Date {
    let (then, date) = LAST.get();
    if then == seconds {
        return date;
    }
    let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let date = Date::try_from(text.as_bytes()).expect("a date of HTTP has 29 characters");
    LAST.set((seconds, date));
    date
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue, Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::runtime::Builder;

    fn response(status: u16, fields: &[(String, String)], body: &str) -> Response<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            response = response.header(name, HeaderValue::from_str(value).expect("a value"));
        }
        response.body(Bytes::copy_from_slice(body.as_bytes())).expect("a response")
    }

    /// What hyper puts on the wire.
    async fn by_hyper(response: Response<Bytes>) -> Vec<u8> {
        let (near, mut far) = duplex(1 << 20);
        let service = service_fn(move |_: Request<Incoming>| {
            let response = response.clone().map(Full::new);
            async move { Ok::<_, Infallible>(response) }
        });
        let serving = tokio::spawn(
            hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(near), service),
        );
        far.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("there is room");
        far.shutdown().await.expect("it is open");
        let mut written = Vec::new();
        far.read_to_end(&mut written).await.expect("it can be read");
        let _ = serving.await;
        written
    }

    /// All lines but the date, whose name stays.
    fn lines(written: &[u8]) -> Vec<String> {
        let text = String::from_utf8(written.to_vec()).expect("text");
        let undated = |line: &str| if line.starts_with("date: ") { "date: ".to_owned() } else { line.to_owned() };
        text.split("\r\n").map(undated).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_what_hyper_would_write(
            status in prop::sample::select(vec![200_u16, 304, 401, 404, 429, 500, 503]),
            fields in prop::collection::vec(("x-[a-z]{1,9}", "[!-~]{0,40}"), 0..30),
            body in "[a-z]{0,40}",
        ) {
            let response = response(status, &fields, if status == 304 { "" } else { &body });
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let expected = runtime.block_on(by_hyper(response.clone()));
            let (parts, body) = response.into_parts();
            let mut written = head(&parts, body.len(), Instant::now());
            written.extend_from_slice(&body);
            prop_assert_eq!(lines(&written), lines(&expected));
        }
    }

    #[test]
    fn the_date_is_that_of_the_answer() {
        for seconds in [0, 784_111_777, 784_111_777, 784_111_778] {
            let expected = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(date(seconds), expected.as_bytes());
        }
        assert_eq!(&date(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
