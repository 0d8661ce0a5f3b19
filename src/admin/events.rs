//! The state as a stream of server-sent events (WHATWG HTML §9.2): whole at first, then once a second what has changed.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::observer::{Observer, Snapshot};
use super::view::View;
use crate::domain::body::{self, ReplyBody};

/// How long a client waits before it comes again, in milliseconds.
const RETRY: u32 = 2_000;

/// The parts that say something new every second anyhow.
const ALWAYS: [&str; 2] = ["proxy", "now"];

/// One who listens.
struct Listener<W> {
    /// Whether it still may.
    is_welcome: W,
    observer: Arc<Observer>,
    view: View,
    shown: watch::Receiver<Option<Arc<Snapshot>>>,
    first: Option<Arc<Snapshot>>,
    sent: Sent,
    ended: bool,
}

/// What a listener has been told.
#[derive(Default)]
struct Sent {
    parts: Map<String, Value>,
    samples: Option<u64>,
}

/// The stream for somebody who looks through `view`, for as long as that one `is_welcome`; it begins with `first`.
pub fn stream(
    observer: Arc<Observer>,
    view: View,
    first: Arc<Snapshot>,
    is_welcome: impl Fn() -> bool + Send + 'static,
) -> ReplyBody {
    let mut shown = observer.subscribe();
    shown.mark_unchanged();
    let first = Some(first);
    let listener = Listener { is_welcome, observer, view, shown, first, sent: Sent::default(), ended: false };
    let frames = stream::unfold(listener, |mut listener| async move {
        let text = listener.tell().await?;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(text))), listener))
    });
    ReplyBody::stream(body::stream(StreamBody::new(frames)))
}

impl<W: Fn() -> bool> Listener<W> {
    /// The next event; `None` after the last.
    async fn tell(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let Some(snapshot) = self.next().await else {
            self.ended = true;
            return Some("event: end\ndata: {\"because\":\"the proxy stops\"}\n\n".into());
        };
        // Whoever comes again is asked for the token, and has what it shows compared with that of now.
        if !(self.is_welcome)() {
            return None;
        }
        let is_first = self.sent.samples.is_none();
        let data = self.sent.news(&self.view, &snapshot, &self.observer);
        let id = format!("{}-{}", snapshot.head.proxy.started_at, snapshot.number);
        let retry = if is_first { format!("retry: {RETRY}\n") } else { String::new() };
        Some(format!("{retry}id: {id}\nevent: state\ndata: {data}\n\n"))
    }

    /// What is to be told next; `None` when the proxy stops.
    async fn next(&mut self) -> Option<Arc<Snapshot>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        tokio::select! {
            biased;
            () = self.observer.closed() => None,
            changed = self.shown.changed() => {
                changed.ok()?;
                self.shown.borrow_and_update().clone()
            }
        }
    }
}

impl Sent {
    /// What is new in `snapshot`, as JSON in one line.
    fn news(&mut self, view: &View, snapshot: &Snapshot, observer: &Observer) -> Value {
        let state = serde_json::to_value(view.of(snapshot)).unwrap_or_default();
        let Value::Object(parts) = state else { return Value::Null };
        let mut news = Map::new();
        for (name, part) in parts {
            if ALWAYS.contains(&&*name) {
                news.insert(name, part);
            } else if self.parts.get(&name) != Some(&part) {
                self.parts.insert(name.clone(), part.clone());
                news.insert(name, part);
            }
        }
        let (taken, sample) = snapshot.sample;
        match (self.samples, sample) {
            (Some(told), _) if told == taken => {}
            (Some(told), Some(sample)) if told + 1 == taken => {
                news.insert("sample".into(), json!({ "taken": taken, "values": sample }));
            }
            _ => {
                news.insert("history".into(), json!(observer.history()));
            }
        }
        self.samples = Some(taken);
        Value::Object(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::state::{AccountRow, Condition};
    use crate::admin::view::tests::{account, snapshot};

    #[test]
    fn what_has_not_changed_is_not_sent_again() {
        let (mut sent, view, observer) = (Sent::default(), View::default(), Observer::new());
        let rows = || vec![account("acme", Condition::Ok)];
        let first = sent.news(&view, &snapshot(rows()), &observer);
        for part in ["proxy", "now", "cache", "upstreams", "consumers", "events", "accounts", "history"] {
            assert!(!first[part].is_null(), "{part}");
        }
        let second = sent.news(&view, &snapshot(rows()), &observer);
        let names: Vec<&String> = second.as_object().expect("an object").keys().collect();
        assert_eq!(names, ["now", "proxy"]);
        let changed = vec![AccountRow { fetched_at: Some(2_000), ..account("acme", Condition::Ok) }];
        let third = sent.news(&view, &snapshot(changed), &observer);
        assert_eq!(third["accounts"]["rows"][0]["fetched_at"], 2_000);
        assert_eq!(third["cache"], Value::Null);
    }
}
