//! Who says word for word what has been said before, over whichever connection, is not read again, and must get what it would have
//! got anyway.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::config::effective::Config;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::{Got, SYNC_STATUS, Wire, consumer, merge, soon, text};

/// A connection that is kept, and a configuration that can be written anew.
struct Line {
    wire: Wire,
    file: Arc<Mutex<String>>,
    sender: Sender,
}

/// A connection of either version.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

fn teams(team: &str) -> String {
    let server = "[server]\nlisten = ['127.0.0.1:0']\nfailed_keys = 'unlimited'\n";
    format!("{server}{}{}", consumer("team", team), consumer("other", "accounts = ['globex']"))
}

impl Line {
    async fn open(team: &str) -> Self {
        Self::open_as(Version::HTTP_11, team).await
    }

    async fn open_as(version: Version, team: &str) -> Self {
        let wire = Wire::with(merge(), &teams(team)).await;
        let file = Arc::new(Mutex::new(String::new()));
        let read = file.clone();
        let parse = move |text: &str, hasher: &_| Config::parse(text, Path::new("test.toml"), &|_| None, hasher);
        wire.app.reads(Box::new(move |hasher| parse(&read.lock(), hasher)));
        let sender = Self::connect(&wire, version).await;
        Self { wire, file, sender }
    }

    async fn connect(wire: &Wire, version: Version) -> Sender {
        let socket = TokioIo::new(TcpStream::connect(wire.proxy).await.expect("the proxy listens"));
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.expect("a connection");
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(socket).await.expect("a connection");
            tokio::spawn(connection);
            Sender::Http1(sender)
        }
    }

    async fn ask(&mut self, key: &str, account: &str, more: &[(&str, &str)]) -> Got {
        let mut request = match self.sender {
            Sender::Http1(_) => Request::get(SYNC_STATUS).header("host", "proxy"),
            Sender::Http2(_) => Request::get(format!("http://proxy{SYNC_STATUS}")),
        };
        request = request.header("x-account-token", account);
        request = request.header("authorization", format!("Bearer {key}"));
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                soon(sender.ready()).await.expect("the connection is kept");
                soon(sender.send_request(request)).await
            }
            Sender::Http2(sender) => soon(sender.send_request(request)).await,
        };
        Got::whole(response.expect("an answer")).await
    }

    fn reload(&self, team: &str) {
        let base_url = self.wire.app.config().default_upstream.authority.to_string();
        *self.file.lock() = text(&format!("http://{base_url}"), "", &teams(team));
        self.wire.app.reload(Cause::Signal).unwrap_or_else(|faults| panic!("{faults}"));
    }
}

#[tokio::test]
async fn whatever_is_repeated_gets_what_it_is_for() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        repeat_whatever_is_allowed_or_not(version).await;
    }
}

async fn repeat_whatever_is_allowed_or_not(version: Version) {
    let mut line = Line::open_as(version, "accounts = ['acme', 'globex']").await;
    let acme = line.ask("team", "acme", &[]).await;
    let globex = line.ask("team", "globex", &[]).await;
    assert_ne!(acme.body, globex.body, "or nothing could be told apart");
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..300 {
        let key = random.choice(["team", "other", "nobody"]).expect("one of them");
        let account = random.choice(["acme", "globex", "unknown"]).expect("one of them");
        for turn in 0..random.u32(1..5) {
            if random.u32(0..4) == 0 {
                line.sender = Line::connect(&line.wire, version).await;
            }
            let got = line.ask(key, account, &[]).await;
            let expected = match (key, account) {
                ("team", "acme") => Ok(&acme),
                ("team" | "other", "globex") => Ok(&globex),
                ("nobody", _) => Err(StatusCode::UNAUTHORIZED),
                _ => Err(StatusCode::FORBIDDEN),
            };
            let what = format!("round {round}, turn {turn}: {key} asks for {account}");
            match expected {
                Ok(page) => assert_eq!((got.status, &got.body), (StatusCode::OK, &page.body), "{what}"),
                Err(status) => assert_eq!(got.status, status, "{what}"),
            }
        }
    }
    assert_eq!(line.wire.merge.calls(), 2);
}

#[tokio::test]
async fn a_reload_counts_from_the_next_repetition_on() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        reload_while_it_is_repeated(version).await;
    }
}

async fn reload_while_it_is_repeated(version: Version) {
    let mut line = Line::open_as(version, "accounts = ['acme']").await;
    for (team, expected) in [
        ("accounts = ['acme']", StatusCode::OK),
        ("accounts = ['globex']", StatusCode::FORBIDDEN),
        ("accounts = ['*']", StatusCode::OK),
        ("accounts = ['*']\ndisabled = true", StatusCode::UNAUTHORIZED),
        ("accounts = ['*']", StatusCode::OK),
    ] {
        line.reload(team);
        for turn in 0..4 {
            assert_eq!(line.ask("team", "acme", &[]).await.status, expected, "{team}, turn {turn}");
        }
    }
}

#[tokio::test]
async fn a_purge_counts_from_the_next_repetition_on() {
    let mut line = Line::open("accounts = ['acme']").await;
    for round in 1..=6 {
        for turn in 0..4 {
            let got = line.ask("team", "acme", &[]).await;
            assert_eq!(
                (got.status, turn == 0),
                (StatusCode::OK, !got.header("cache-status").contains("; hit")),
                "{turn}"
            );
        }
        assert_eq!(line.wire.merge.calls(), round);
        line.wire.app.ground().store.purge_all(round % 2 == 0, Instant::now());
    }
}

#[tokio::test]
async fn each_repetition_is_counted_named_and_paid_for() {
    let mut line = Line::open("accounts = ['acme']\nquota = '50/h'").await;
    let (mut ids, mut left) = (HashSet::new(), Vec::new());
    let refused = loop {
        let got = line.ask("team", "acme", &[]).await;
        assert!(ids.insert(got.header("x-request-id").to_owned()), "a name of its own");
        if got.status != StatusCode::OK {
            break got;
        }
        left.push(got.header("ratelimit").to_owned());
    };
    assert_eq!((refused.status, &*refused.problem()), (StatusCode::TOO_MANY_REQUESTS, "quota-exceeded"));
    assert!(left.len() > 3 && left.len() <= 50, "{left:?}");
    let different: HashSet<_> = left.iter().collect();
    assert_eq!(different.len(), left.len(), "each has one less: {left:?}");
    assert_eq!(line.wire.app.ground().metrics.totals().counts.requests, ids.len() as u64);
}

#[tokio::test]
async fn what_a_client_asks_of_the_cache_is_read_each_time() {
    let mut line = Line::open("accounts = ['acme']\nforced_refreshes = '100/min'").await;
    for _ in 0..3 {
        line.ask("team", "acme", &[]).await;
    }
    let calls = line.wire.merge.calls();
    for turn in 1..=3 {
        let got = line.ask("team", "acme", &[("cache-control", "no-cache")]).await;
        assert!(got.cache().contains("fwd=request"), "turn {turn}: {}", got.cache());
        assert_eq!(line.wire.merge.calls(), calls + turn);
    }
    let tag = line.ask("team", "acme", &[]).await.header("etag").to_owned();
    for _ in 0..3 {
        assert_eq!(line.ask("team", "acme", &[("if-none-match", &tag)]).await.status, StatusCode::NOT_MODIFIED);
    }
}
