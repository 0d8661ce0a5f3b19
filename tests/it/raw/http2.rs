//! HTTP/2 by hand (RFC 9113): frames with whatever is in them.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{After, Linger, PAGE, State, Step, Stream, play};

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Frames of one request, by the number of its stream.
pub(crate) fn frames(make: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Step {
    Step::Say(Arc::new(make))
}

/// A head with these fields, whose names must be lower case unless the test wants otherwise.
pub(crate) fn head(status: &'static str, fields: &'static [(&str, &str)]) -> Step {
    frames(move |id| frame(HEADERS, END_HEADERS, id, &block(status, fields)))
}

/// The same, and nothing after it.
pub(crate) fn head_alone(status: &'static str, fields: &'static [(&str, &str)]) -> Step {
    frames(move |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &block(status, fields)))
}

pub(crate) fn data(body: &'static str) -> Step {
    frames(move |id| frame(DATA, 0, id, body.as_bytes()))
}

pub(crate) fn last_data(body: &'static str) -> Step {
    frames(move |id| frame(DATA, END_STREAM, id, body.as_bytes()))
}

pub(crate) fn reset_stream(code: u32) -> Step {
    frames(move |id| frame(RST_STREAM, 0, id, &code.to_be_bytes()))
}

/// Says that the connection ends, and that no stream above `last` was begun; `None` is the one at hand.
pub(crate) fn go_away(last: Option<u32>, code: u32) -> Step {
    frames(move |id| frame(GOAWAY, 0, 0, &[last.unwrap_or(id).to_be_bytes(), code.to_be_bytes()].concat()))
}

/// Bytes that are no frame.
pub(crate) fn garbage() -> Step {
    frames(|id| frame(DATA, 0xff, id, &[0xff; 3]))
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// A field block in which nothing is compressed (RFC 7541 §6.2.2).
fn block(status: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let literal = |(name, value): (&str, &str)| {
        let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    };
    [(":status", status)].into_iter().chain(fields.iter().copied()).flat_map(literal).collect()
}

/// Answers requests as they come until the steps end the connection.
pub(super) async fn serve(mut stream: impl Stream, state: &State, socket: &Linger) {
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).await.is_err() || stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.is_err() {
        return;
    }
    let _ = stream.flush().await;
    while let Some((kind, flags, id, payload)) = read(&mut stream).await {
        let reply = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            HEADERS => {
                let steps = state.arrive().unwrap_or_else(page);
                if play(&mut stream, &steps, id, socket).await == After::Ends {
                    return;
                }
                continue;
            }
            _ => continue,
        };
        if stream.write_all(&reply).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn page() -> Vec<Step> {
    vec![head("200", &[("content-type", "application/json")]), last_data(PAGE)]
}

async fn read(stream: &mut impl Stream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}
