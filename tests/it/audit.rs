//! Audit lines: who was refused, who spent a sync credit, who purged.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::domain::peer::Peer;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::subscriber::DefaultGuard;

use crate::process::{Folder, Running};
use crate::support::{ACME_TOKEN, RESYNC, SYNC_STATUS, World, consumer, merge, method, with};

/// What this thread logs while it lives.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(lines))
    }

    /// The lines of this target so far.
    pub fn of(&self, target: &str) -> Vec<Value> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock())).expect("UTF-8");
        assert!(!text.contains("canary") && !text.contains(ACME_TOKEN), "{text}");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["target"] == target).collect()
    }

    /// The audit lines so far, without their time.
    fn lines(&self) -> Vec<Value> {
        let mut lines = self.of("audit");
        for line in &mut lines {
            let fields = line.as_object_mut().expect("an object");
            for field in ["timestamp", "target", "level"] {
                fields.remove(field).expect("there");
            }
        }
        lines
    }
}

async fn send(world: &World, verb: Method, target: &str, key: &str, account: &str) -> u16 {
    let bearer = format!("Bearer {key}");
    let fields = [("x-account-token", account), ("authorization", &*bearer), ("x-request-id", "an-id")];
    let mut request = method(verb, with(target, &fields));
    let address = "192.0.2.7".parse().expect("an address");
    request.extensions_mut().insert(Arc::new(Peer::Network { address, certificate: Box::default() }));
    world.send(request).await.status.as_u16()
}

#[tokio::test(start_paused = true)]
async fn each_resync_is_told_with_who_spent_it_and_each_refusal_with_who_tried() {
    let may = consumer("may", "accounts = ['acme']\nraw_tokens = true\nresync = true");
    let world = World::with(merge(), &format!("{RESYNC}{may}{}", consumer("may-not", "accounts = ['acme']")));
    let (log, _guard) = Log::begin();
    let resync = format!("{SYNC_STATUS}/resync");
    let done = send(&world, Method::POST, &resync, "may", "acme").await;
    let line = json!({
        "message": "resync", "consumer": "may", "account": "acme", "upstream": "us", "status": done,
        "peer": "192.0.2.7", "id": "an-id"
    });
    assert_eq!(log.lines(), [line]);
    assert_eq!(send(&world, Method::POST, &resync, "may-not", "acme").await, 403);
    assert_eq!(
        log.lines(),
        [json!({
            "message": "resync denied", "consumer": "may-not", "account": "acme", "times": 1,
            "peer": "192.0.2.7", "id": "an-id"
        })]
    );
    send(&world, Method::POST, &resync, "may", "canary-raw-token").await;
    let told = log.lines();
    assert_eq!(told[0]["account"].as_str().map(str::len), Some(8), "a raw token has no name: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_resync_is_told_though_its_answer_is_lost_and_not_if_it_was_never_sent() {
    let may = consumer("may", "accounts = ['acme']\nresync = true");
    let budget = "[upstreams.us.budget]\nper_account = '1/min'\nerrors = 'unlimited'\n";
    let world = World::with(merge(), &format!("{budget}{RESYNC}{may}"));
    let (log, _guard) = Log::begin();
    let resync = format!("{SYNC_STATUS}/resync");
    world.merge.script(Fault::Hang).once();
    assert_eq!(send(&world, Method::POST, &resync, "may", "acme").await, 504);
    let line = json!({
        "message": "resync", "consumer": "may", "account": "acme", "upstream": "us", "peer": "192.0.2.7", "id": "an-id"
    });
    assert_eq!(log.lines(), [line]);
    assert_eq!(send(&world, Method::POST, &resync, "may", "acme").await, 429);
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_same_refusal_is_told_once_a_minute_with_its_count() {
    let world = World::with(merge(), &consumer("team", "accounts = ['acme']"));
    let (log, _guard) = Log::begin();
    for _ in 0..50 {
        assert_eq!(send(&world, Method::GET, SYNC_STATUS, "team", "globex").await, 403);
    }
    let denied = |times: u64| {
        json!({
            "message": "account denied", "consumer": "team", "account": "globex", "times": times,
            "peer": "192.0.2.7", "id": "an-id"
        })
    };
    assert_eq!(log.lines(), [denied(1)]);
    tokio::time::advance(Duration::from_secs(61)).await;
    world.app.ground().house.load().audit.settle(tokio::time::Instant::now());
    assert_eq!(log.lines(), [denied(49)]);
    for (key, reason) in [("", "missing"), ("canary-key", "unknown")] {
        assert_eq!(send(&world, Method::GET, SYNC_STATUS, key, "acme").await, 401);
        let told = log.lines();
        assert_eq!((&told[0]["message"], &told[0]["reason"]), (&json!("key refused"), &json!(reason)), "{told:?}");
        assert_eq!((&told[0]["peer"], &told[0]["id"]), (&json!("192.0.2.7"), &json!("an-id")), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_answered_makes_no_audit_line() {
    let world = World::with(merge(), &consumer("team", "accounts = ['acme']"));
    let (log, _guard) = Log::begin();
    assert_eq!(send(&world, Method::GET, SYNC_STATUS, "team", "acme").await, 200);
    assert_eq!(send(&world, Method::GET, "/nowhere", "nobody", "acme").await, 404);
    assert_eq!(log.lines(), [json!(null); 0]);
}

/// Sends a request on a connection of its own; the whole answer.
fn talk(mut stream: impl Read + Write, request: &str, headers: &str) -> String {
    let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn every_line_says_from_where_and_with_which_request() {
    let folder = Folder::new("");
    let socket = folder.path().join("proxy.sock");
    let config = format!(
        "[server]\nlisten = ['127.0.0.1:0', 'unix:{}']\n[admin]\nlisten = '127.0.0.1:0'\ntoken = 'canary-admin-token'\n\
         [upstreams.us]\nbase_url = 'http://127.0.0.1:9'\napi_key = 'canary-key'\n[telemetry]\nlog = 'json'\n{}",
        socket.display(),
        consumer("team", "raw_tokens = true")
    );
    std::fs::write(folder.file(), config).expect("written");
    let (proxy, _, admin) = Running::serve(&folder, &[]);
    let line = |message: &str| -> (String, String) {
        let line: Value = serde_json::from_str(&proxy.line_with(message)).expect("JSON");
        assert_eq!(line["target"], "audit");
        (line["peer"].as_str().expect("a peer").to_owned(), line["id"].as_str().expect("an id").to_owned())
    };
    let unix = || UnixStream::connect(&socket).expect("it listens");
    let refused = talk(unix(), &format!("GET {SYNC_STATUS}"), "X-Request-Id: one\r\nAuthorization: Bearer wrong\r\n");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let uid = nix::unistd::getuid();
    assert_eq!(line("key refused"), (format!("uid {uid}"), "one".into()));

    let operate = |request: &str, headers: &str| {
        talk(TcpStream::connect(admin).expect("it listens"), request, &format!("{headers}X-Request-Id: two\r\n"))
    };
    let here = || ("127.0.0.1".to_owned(), "two".to_owned());
    for headers in ["", "Authorization: Bearer canary-wrong-token\r\n"] {
        let refused = operate("DELETE /api/cache", headers);
        assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("x-request-id: two\r\n"), "{refused}");
        assert_eq!(line("operator refused"), here());
    }
    let token = "Authorization: Bearer canary-admin-token\r\n";
    assert!(operate("DELETE /api/cache", token).starts_with("HTTP/1.1 200"));
    assert_eq!(line("\"purged\""), here());
    assert!(operate("POST /api/reload", token).starts_with("HTTP/1.1 200"));
    assert_eq!(line("configuration reloaded"), here());
    std::fs::write(folder.file(), "[server]\nlisten = 5\n").expect("written");
    assert!(operate("POST /api/reload", token).starts_with("HTTP/1.1 422"));
    assert_eq!(line("reload refused"), here());
    proxy.terminate();
    let (_, said) = proxy.end();
    assert!(!said.contains("canary"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_merge_has_not_signed_is_told_without_what_it_says() {
    let world = World::with(merge(), "[webhook]\nsecret = 'canary-secret'\n");
    let (log, _guard) = Log::begin();
    let mut forged = world.merge.webhook("acme", "canary.event", "canary-guess", "/webhooks/merge");
    forged.headers_mut().insert("x-request-id", HeaderValue::from_static("an-id"));
    for _ in 0..3 {
        assert_eq!(world.send(forged.clone()).await.status, 403);
    }
    let line = |reason: &str| json!({ "message": "webhook refused", "reason": reason, "times": 1, "id": "an-id" });
    assert_eq!(log.lines(), [line("wrong")]);
    let unsigned = method(Method::POST, with("/webhooks/merge", &[("x-request-id", "an-id")]));
    assert_eq!(world.send(unsigned).await.status, 403);
    assert_eq!(log.lines(), [line("missing")]);
    let right = world.merge.webhook("acme", "Job.synced", "canary-secret", "/webhooks/merge");
    assert_eq!(world.send(right).await.status, 200);
    assert_eq!(log.lines(), [json!(null); 0]);
}
