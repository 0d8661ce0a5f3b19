//! No secret is ever said: not in a log, however much it logs, not in an answer, not to an operator.

use std::fmt::Write;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::merge::Merge;
use sha2::{Digest, Sha256};

use crate::process::{Folder, Running, run, told};
use crate::support::{SYNC_STATUS, soon};

const API_KEY: &str = "canary-api-key-7f3a91c2d4";
const ACME: &str = "canary-token-acme-0b5e82";
const GLOBEX: &str = "canary-token-globex-c41d77";
const RAW: &str = "canary-token-raw-19e6f0ab";
const ADMIN: &str = "canary-admin-token-5d20c8";
const CONSUMER: &str = "canary-consumer-key-8e17b3f6";
const WRONG: &str = "canary-wrong-key-66a0d9e2";
const SECRETS: [&str; 7] = [API_KEY, ACME, GLOBEX, RAW, ADMIN, CONSUMER, WRONG];

/// Asserts that no secret is in `said`, bare or encoded.
#[track_caller]
fn assert_silent(said: &str, place: &str) {
    for secret in SECRETS {
        for text in [secret, &*format!("Bearer {secret}")] {
            let forms = [
                text.to_owned(),
                STANDARD_NO_PAD.encode(text),
                URL_SAFE_NO_PAD.encode(text),
                hex::encode(text),
                format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned(),
            ];
            for form in forms {
                let line = said.lines().find(|line| line.contains(&form));
                assert_eq!(line, None, "{place} says {secret}");
            }
        }
    }
}

fn merge() -> Merge {
    let accounts = [("acme", ACME), ("globex", GLOBEX), ("raw", RAW)];
    let merge = Merge::builder().api_key(API_KEY).unlimited();
    accounts.iter().fold(merge, |merge, (name, token)| merge.account(SimAccount::new(*name, *token).by_hand())).build()
}

/// The file: secrets from variables, from a file beside it, and in plain sight.
fn folder(upstream: &str, more: &str) -> Folder {
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n\
         [admin]\nlisten = '127.0.0.1:0'\ntoken = {{ env = 'ADMIN' }}\n\
         [upstreams.us]\nbase_url = '{upstream}'\napi_key = {{ env = 'KEY' }}\n\
         [upstreams.us.budget]\nerrors = 'unlimited'\n\
         [[accounts]]\nname = 'acme'\ntoken = {{ file = 'acme' }}\n\
         [[accounts]]\nname = 'globex'\ntoken = '{GLOBEX}'\n\
         [[consumers]]\nname = 'team'\nkey_sha256 = '{hash}'\naccounts = ['acme']\nraw_tokens = true\n\
         [telemetry]\nlog = 'json'\nfilter = 'trace'\n{more}",
        hash = hex::encode(Sha256::digest(CONSUMER)),
    ));
    std::fs::write(folder.path().join("acme"), format!("{ACME}\n")).expect("written");
    folder
}

const ENV: [(&str, &str); 2] = [("KEY", API_KEY), ("ADMIN", ADMIN)];

/// A caller that writes down whatever it is told.
struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    heard: String,
}

impl Caller {
    fn new(address: SocketAddr, http2: bool) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        Self { client, address, heard: String::new() }
    }

    async fn ask(&mut self, method: Method, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(format!("http://{}{target}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a valid request");
        let (head, body) = soon(self.client.request(request)).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        // The pages are the upstream's own words.
        let body = if head.status == 200 { "".into() } else { String::from_utf8_lossy(&body) };
        writeln!(self.heard, "{head:?}\n{body}").expect("memory");
        for (name, value) in &head.headers {
            writeln!(self.heard, "{name}: {}", String::from_utf8_lossy(value.as_bytes())).expect("memory");
        }
        head.status.as_u16()
    }

    /// Asks as the consumer whose key this is, for this account.
    async fn get(&mut self, key: &str, account: &str, query: &str) -> u16 {
        let key = format!("Bearer {key}");
        let headers = [("authorization", &*key), ("x-account-token", account)];
        self.ask(Method::GET, &format!("{SYNC_STATUS}{query}"), &headers).await
    }
}

/// Everything that can happen to a request, with a query of its own for each kind of `round`.
async fn go_through_everything(caller: &mut Caller, merge: &Merge, round: &str) {
    let query = |number: usize| format!("?round={round}&number={number}");
    assert_eq!(caller.get(CONSUMER, "acme", &query(0)).await, 200);
    assert_eq!(caller.get(CONSUMER, "acme", &query(0)).await, 200);
    assert_eq!(caller.get(CONSUMER, RAW, &query(0)).await, 200);
    assert_eq!(caller.get(WRONG, "acme", "").await, 401);
    assert_eq!(caller.get("canary, broken", ACME, "").await, 400);
    assert_eq!(caller.get(CONSUMER, "globex", "").await, 403);
    assert_eq!(caller.get(CONSUMER, &format!("{ACME},{GLOBEX}"), "").await, 400);
    assert_eq!(caller.get(CONSUMER, "acme", "?page_size=0").await, 400);
    let token = [("authorization", &*format!("Bearer {CONSUMER}")), ("x-account-token", ACME)];
    assert_eq!(caller.ask(Method::HEAD, SYNC_STATUS, &token).await, 200);
    assert_eq!(caller.ask(Method::DELETE, SYNC_STATUS, &token).await, 405);
    assert_eq!(caller.ask(Method::GET, "/nowhere", &token).await, 404);
    let twice = [token[0], token[1], token[1]];
    assert_eq!(caller.ask(Method::GET, SYNC_STATUS, &twice).await, 400);
    for (number, fault, status) in [
        (1, Fault::ResetBeforeHeaders, 502),
        (2, Fault::TruncateLength, 502),
        (3, Fault::Html, 502),
        (4, Fault::Status(401), 401),
        (5, Fault::Status(500), 500),
        (6, Fault::Status(503), 503),
    ] {
        merge.set(fault);
        assert_eq!(caller.get(CONSUMER, "acme", &query(number)).await, status);
        merge.clear();
    }
    merge.revoke("raw");
    assert_eq!(caller.get(CONSUMER, RAW, &query(7)).await, 401);
    merge.restore("raw");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_the_proxy_says_holds_a_secret() {
    let merge = merge();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = format!("http://{}", listener.local_addr().expect("it is bound"));
    let simulation = tokio::spawn(merge.clone().serve(listener, std::future::pending::<()>()));
    let folder = folder(&upstream, "");
    let (proxy, address, admin) = Running::serve(&folder, &ENV);
    for (http2, round) in [(false, "one"), (true, "two")] {
        let mut caller = Caller::new(address, http2);
        go_through_everything(&mut caller, &merge, round).await;
        assert_silent(&caller.heard, "an answer");
        let mut operator = Caller::new(admin, http2);
        for path in ["/livez", "/readyz", "/metrics", "/api/state", "/", "/api/explain?account=acme&category=ats"] {
            for token in [ADMIN, WRONG] {
                operator.ask(Method::GET, path, &[("authorization", &format!("Bearer {token}"))]).await;
            }
        }
        assert_silent(&operator.heard, "the admin listener");
    }
    proxy.terminate();
    let (status, said) = proxy.end();
    simulation.abort();
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("\"target\":\"access\"") && said.contains("\"TRACE\""), "it did log");
    assert_silent(&said, "the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_for_people_holds_no_secret_either() {
    let folder = folder("http://127.0.0.1:9", "");
    let file = std::fs::read_to_string(folder.file()).expect("there").replace("log = 'json'", "log = 'pretty'");
    std::fs::write(folder.file(), file).expect("written");
    let proxy = Running::start(&["--config", folder.file().to_str().expect("UTF-8")], &ENV);
    let line = proxy.line_with("serving");
    let port = line.split("listen=\"127.0.0.1:").nth(1).expect("an address").split('"').next().expect("a port");
    let mut caller = Caller::new(format!("127.0.0.1:{port}").parse().expect("an address"), false);
    assert_eq!(caller.get(CONSUMER, RAW, "").await, 502);
    proxy.terminate();
    let (_, said) = proxy.end();
    assert_silent(&format!("{said}{}", caller.heard), "the log");
}

#[test]
fn neither_a_good_check_nor_a_bad_one_says_a_secret() {
    let sound = folder("https://api.merge.dev", "");
    let file = std::fs::read_to_string(sound.file()).expect("there");
    let plain = format!("token = '{GLOBEX}'");
    let mut answers = vec![(0, file.clone())];
    for broken in [
        format!("token = '{GLOBEX}"),
        format!("token = {{ envv = '{GLOBEX}' }}"),
        format!("token = ['{GLOBEX}']"),
        format!("token = '{GLOBEX}' '{GLOBEX}'"),
        format!("tokenn = '{GLOBEX}'"),
        format!("token = '{GLOBEX}\\n{GLOBEX}, {GLOBEX}'"),
        format!("token = '{ACME}'"),
        format!("token = '{GLOBEX}'\nlinked_account_id = 5"),
    ] {
        answers.push((2, file.replace(&plain, &broken)));
    }
    for (code, file) in answers {
        std::fs::write(sound.file(), &file).expect("written");
        let (exit, out, err) = told(&run(&["check", "--config", sound.file().to_str().expect("UTF-8")], &ENV));
        assert_eq!(exit, code, "{file}\n{err}");
        assert_silent(&format!("{out}{err}"), "check");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_caller_puts_where_it_is_logged_is_cut_out_of_the_line() {
    const NEWER: &str = "canary-token-acme-renewed-77";
    let key = merge_sync_proxy::door::consumer_key::generate();
    for (format, id, cut_out) in
        [("json", "\"id\":\"[redacted]\"", "/api/[redacted]/v1"), ("pretty", "[redacted]", "/api/[redacted]/v1")]
    {
        let folder = folder("http://127.0.0.1:9", "");
        let file = std::fs::read_to_string(folder.file()).expect("there");
        let file =
            file.replace("log = 'json'", &format!("log = '{format}'")).replace("filter = 'trace'", "filter = 'info'");
        std::fs::write(folder.file(), &file).expect("written");
        let proxy = Running::start(&["--config", folder.file().to_str().expect("UTF-8")], &ENV);
        let line = proxy.line_with("serving");
        let bound = line.split("listen").nth(1).and_then(|rest| rest.split("127.0.0.1:").nth(1)).expect("an address");
        let port = bound.split(|c: char| !c.is_ascii_digit()).next().expect("a port");
        let address: SocketAddr = format!("127.0.0.1:{port}").parse().expect("an address");
        let mut caller = Caller::new(address, false);
        for secret in [API_KEY, ACME, GLOBEX, ADMIN, &key] {
            caller.ask(Method::GET, &format!("/api/{secret}/v1"), &[("x-request-id", secret)]).await;
            let line = proxy.line_with("/v1");
            assert!(line.contains(cut_out) && line.contains(id), "{line}");
        }
        std::fs::write(folder.path().join("acme"), NEWER).expect("written");
        proxy.signal("-HUP");
        proxy.line_with("configuration reloaded");
        for secret in [NEWER, ACME] {
            caller.ask(Method::GET, &format!("/api/{secret}/v1"), &[]).await;
            let line = proxy.line_with("/v1");
            assert!(line.contains(cut_out), "{line}");
        }
        proxy.terminate();
        let (_, said) = proxy.end();
        assert_silent(&said, "the log");
        assert!(!said.contains(&key) && !said.contains(NEWER), "{said}");
    }
}
