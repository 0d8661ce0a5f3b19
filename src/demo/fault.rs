//! What can be wrong with an answer.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::answer::{Answer, Fate, Framing};

/// One thing that is different from a good answer. Several go together: they are applied in order, so those that replace the
/// answer come before those that change how it is sent.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The head comes this much later; what it says is from before the delay.
    Delay(Duration),
    /// The body comes in pieces of so many bytes.
    SlowBody {
        /// Bytes in a piece.
        chunk: usize,
        /// The pause between two pieces.
        every: Duration,
    },
    /// This status, with a body as Merge would write it.
    Status(u16),
    /// Exactly this; see [`Fault::answer`].
    StatusWith {
        /// The status.
        status: u16,
        /// All header fields but `Date` and `Content-Length`.
        headers: HeaderMap,
        /// The body.
        body: Bytes,
    },
    /// The connection is reset instead of an answer.
    ResetBeforeHeaders,
    /// `Content-Length` announces the body, and half of it comes before the connection closes.
    TruncateLength,
    /// The same with chunks: the last one is missing.
    TruncateChunked,
    /// A good answer in chunks, without `Content-Length`.
    Chunked,
    /// Gzip, for clients that accept it.
    Gzip,
    /// Gzip, whether it is accepted or not.
    GzipAlways,
    /// 200 and a page of HTML.
    Html,
    /// 200 and no body.
    EmptyOk,
    /// 204.
    NoContent,
    /// 301 to this location.
    Redirect(String),
    /// 304, although nobody asked.
    NotModifiedUnasked,
    /// 200 and JSON that breaks off.
    BadJson,
    /// A byte order mark before the body.
    Bom,
    /// 200 and exactly these bytes, as JSON.
    Body(Bytes),
    /// One more header field, whatever the answer; a name that is there already is there twice.
    Header(HeaderName, HeaderValue),
    /// No `Date`.
    NoDate,
    /// A `Date` so many seconds off: ahead, or behind if negative.
    DateSkew(i64),
    /// 200 and a valid page of so many bytes (at least 64).
    HugeBody(usize),
    /// No answer, ever.
    Hang,
}

impl Fault {
    /// An answer word for word.
    pub fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Self {
        let value = |value: &str| HeaderValue::from_str(value).expect("the test writes a valid field value");
        let headers = headers.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect();
        Self::StatusWith { status, headers, body: body.into() }
    }

    /// Bends the answer.
    pub(crate) fn bend(&self, answer: &mut Answer, request: &HeaderMap) {
        match self {
            Self::Delay(delay) => answer.delay += *delay,
            Self::SlowBody { chunk, every } => answer.drops = Some((*chunk, *every)),
            Self::Status(status) => {
                let status = status_of(*status);
                let detail = status.canonical_reason().unwrap_or("A server error occurred.");
                let body = serde_json::json!({ "detail": detail }).to_string();
                replace(answer, status, "application/json", body.into());
            }
            Self::StatusWith { status, headers, body } => {
                replace(answer, status_of(*status), "application/json", body.clone());
                answer.headers.clone_from(headers);
            }
            Self::ResetBeforeHeaders => answer.fate = Fate::Reset,
            Self::TruncateLength => answer.framing = Framing::ShortLength,
            Self::TruncateChunked => answer.framing = Framing::ShortChunked,
            Self::Chunked => answer.framing = Framing::Chunked,
            Self::Gzip if !accepts_gzip(request) => {}
            Self::Gzip | Self::GzipAlways => {
                answer.body = gzip(&answer.body);
                answer.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            Self::Html => {
                let page = "<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>";
                replace(answer, StatusCode::OK, "text/html; charset=utf-8", page.into());
            }
            Self::EmptyOk => replace(answer, StatusCode::OK, "application/json", Bytes::new()),
            Self::NoContent => bodiless(answer, StatusCode::NO_CONTENT),
            Self::Redirect(location) => {
                replace(answer, StatusCode::MOVED_PERMANENTLY, "text/html; charset=utf-8", Bytes::new());
                let location = HeaderValue::from_str(location).expect("the test writes a valid location");
                answer.headers.insert(LOCATION, location);
            }
            Self::NotModifiedUnasked => bodiless(answer, StatusCode::NOT_MODIFIED),
            Self::BadJson => {
                let body = "{\"next\":null,\"previous\":null,\"results\":[{\"model_name\":\"Candi";
                replace(answer, StatusCode::OK, "application/json", body.into());
            }
            Self::Bom => answer.body = [b"\xef\xbb\xbf", &*answer.body].concat().into(),
            Self::Body(body) => replace(answer, StatusCode::OK, "application/json", body.clone()),
            Self::Header(name, value) => drop(answer.headers.append(name, value.clone())),
            Self::NoDate => answer.date = None,
            Self::DateSkew(seconds) => {
                let skew = Duration::from_secs(seconds.unsigned_abs());
                answer.date = answer.date.map(|date| if *seconds < 0 { date - skew } else { date + skew });
            }
            Self::HugeBody(bytes) => replace(answer, StatusCode::OK, "application/json", huge(*bytes)),
            Self::Hang => answer.fate = Fate::Hang,
        }
    }
}

/// One fault or several.
#[derive(Clone, Debug)]
pub struct Faults(pub(crate) Vec<Fault>);

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl From<Vec<Fault>> for Faults {
    fn from(faults: Vec<Fault>) -> Self {
        Self(faults)
    }
}

impl<const N: usize> From<[Fault; N]> for Faults {
    fn from(faults: [Fault; N]) -> Self {
        Self(faults.into())
    }
}

/// Puts another answer in the place of this one, and keeps how it is sent.
fn replace(answer: &mut Answer, status: StatusCode, content_type: &'static str, body: Bytes) {
    answer.status = status;
    answer.headers.clear();
    answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.body = body;
    if answer.framing == Framing::Bodiless {
        answer.framing = Framing::Length;
    }
}

fn bodiless(answer: &mut Answer, status: StatusCode) {
    answer.status = status;
    answer.headers.clear();
    answer.body = Bytes::new();
    answer.framing = Framing::Bodiless;
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("the test names a valid status")
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let fields = request.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().trim_start_matches("q=").parse::<f32>().unwrap_or_default();
        matches!(name.trim(), "gzip" | "*") && weight > 0.0
    })
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte").into()
}

/// A page of exactly this length, most of it padding.
fn huge(bytes: usize) -> Bytes {
    let (start, end) = ("{\"next\":null,\"previous\":null,\"results\":[],\"padding\":\"", "\"}");
    let padding = bytes.saturating_sub(start.len() + end.len());
    let mut body = Vec::with_capacity(bytes);
    body.extend_from_slice(start.as_bytes());
    body.resize(start.len() + padding, b'x');
    body.extend_from_slice(end.as_bytes());
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_goes_to_who_accepts_it() {
        let accepts = |value: &'static str| {
            accepts_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        let answers = ["gzip", "br, gzip;q=0.5", "*", "gzip;q=0", "br", ""].map(accepts);
        assert_eq!(answers, [true, true, true, false, false, false]);
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_huge_body_is_valid_and_as_long_as_asked() {
        let body = huge(100_000);
        assert_eq!(body.len(), 100_000);
        serde_json::from_slice::<serde_json::Value>(&body).expect("valid JSON");
    }
}
