//! The command line: what it prints, and what its exit codes say.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sha2::{Digest, Sha256};

use crate::process::{Folder, Running, command, run, run_unread, told};
use crate::support::{SYNC_STATUS, merge, soon};

/// A sound file for a proxy of `upstream`, with `server` in its first table.
fn file(server: &str, upstream: &str) -> String {
    format!(
        "[server]\n{server}\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = '{upstream}'\napi_key = {{ env = 'KEY' }}\n\
         [[accounts]]\nname = 'acme'\ntoken = {{ env = 'TOKEN' }}\n[telemetry]\nlog = 'json'\n"
    )
}

const SECRETS: [(&str, &str); 2] = [("KEY", "test-api-key"), ("TOKEN", "token-of-acme")];
const ANY_PORT: &str = "listen = ['127.0.0.1:0']";
const NOWHERE: &str = "http://127.0.0.1:9";

fn check(config: &str, env: &[(&str, &str)]) -> (i32, String, String) {
    let folder = Folder::new(config);
    let (code, out, err) = told(&run(&["check", "--config", folder.file().to_str().expect("UTF-8")], env));
    assert!(!out.contains('\x1b') && !err.contains('\x1b'), "no colours in a pipe");
    let place = format!("{}/", folder.path().display());
    (code, out.replace(&place, ""), err.replace(&place, ""))
}

#[test]
fn the_committed_file_is_sound() {
    let committed = include_str!("../../proxy.toml");
    let (code, out, err) = check(committed, &[("MERGE_API_KEY", "a-key")]);
    assert_eq!((code, &*err), (0, ""));
    assert!(out.starts_with("listeners\n  proxy  127.0.0.1:8080") && !out.contains("a-key"), "{out}");
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let (code, out, err) = check(&file("listen = ['nowhere']\ndrainn = '2s'", NOWHERE), &SECRETS);
    assert_eq!((code, &*out), (2, ""));
    assert!(err.contains("proxy.toml:2:11  server.listen[0]  'nowhere': "), "{err}");
    assert!(err.contains("proxy.toml:3:1  server.drainn: ") && err.contains("drain"), "{err}");
}

#[test]
fn a_warning_is_told_once_and_apart_from_what_was_understood() {
    let (code, out, err) = check(&file(ANY_PORT, NOWHERE).replace("{ env = 'KEY' }", "'canary-key'"), &SECRETS);
    let warning = "proxy.toml:7:11  upstreams.us.api_key: a secret stands in the file; use { env } or { file }";
    assert_eq!((code, &*err), (0, &*format!("warning: {warning}\n")));
    assert!(!out.contains("warning") && !out.contains("canary"), "{out}");
}

#[test]
fn a_forward_proxy_that_cannot_be_used_is_a_mistake_to_a_check_and_to_a_start() {
    let env = |proxy| [SECRETS[0], SECRETS[1], ("HTTPS_PROXY", proxy), ("NO_PROXY", "")];
    let config = file(ANY_PORT, "https://merge.test");
    let folder = Folder::new(&config);
    for proxy in ["https://me:canary@proxy.test:3128", "foo bar", "me:canary @proxy"] {
        let (code, out, err) = check(&config, &env(proxy));
        assert_eq!((code, &*out), (2, ""));
        let said =
            "proxy.toml:5:12  upstreams.us.proxy: is not given, and HTTPS_PROXY in the environment must be a URL";
        assert!(err.starts_with(said) && !err.contains("canary"), "{err}");
        let (code, _, err) = told(&run(&["--config", folder.file().to_str().expect("UTF-8")], &env(proxy)));
        assert_eq!((code, err.contains(said), err.contains("canary")), (2, true, false), "{err}");
    }
    let (code, out, _) = check(&config, &env("http://me:canary@proxy.test:3128"));
    assert_eq!((code, out.contains("through proxy.test:3128, from env HTTPS_PROXY")), (0, true), "{out}");
    assert!(!out.contains("canary"), "{out}");
}

#[test]
fn a_variable_that_is_missing_is_named() {
    let (code, _, err) = check(&file(ANY_PORT, NOWHERE), &[("TOKEN", "a-token")]);
    assert_eq!(code, 2);
    assert_eq!(err, "proxy.toml:7:11  upstreams.us.api_key: environment variable KEY is not set\n");
    let folder = Folder::new(&file(ANY_PORT, NOWHERE));
    let (code, _, err) = told(&run(&["--config", folder.file().to_str().expect("UTF-8")], &[]));
    assert_eq!((code, err.contains("KEY") && err.contains("TOKEN")), (2, true), "a start says the same: {err}");
}

#[test]
fn a_variable_that_is_no_text_is_not_taken_for_unset() {
    let folder = Folder::new(&file(ANY_PORT, "https://merge.test"));
    for (name, said) in [
        ("HTTPS_PROXY", "upstreams.us.proxy: is not given, and HTTPS_PROXY in the environment is not UTF-8 text\n"),
        ("KEY", "upstreams.us.api_key: environment variable KEY is not UTF-8 text\n"),
    ] {
        let mut check = command(&["check", "--config", folder.file().to_str().expect("UTF-8")], &SECRETS);
        let (code, out, err) =
            told(&check.env(name, OsStr::from_bytes(b"http://me:canary@\xff")).output().expect("it ran"));
        assert_eq!((code, &*out, err.ends_with(said)), (2, "", true), "{err}");
    }
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let unknown = [&["frobnicate"][..], &["--frobnicate"], &["key"], &["demo", "--requests", "many"]];
    let of_another_command = [&["demo", "--replace"][..], &["check", "--replace"], &["--config", "F", "check"]];
    for arguments in unknown.iter().chain(&of_another_command) {
        let (code, _, err) = told(&run(arguments, &[]));
        assert_eq!(code, 2, "{err}");
    }
    let everywhere = [("MERGE_SYNC_PROXY_REPLACE", "true"), ("MERGE_SYNC_PROXY_CONFIG", "/nowhere/proxy.toml")];
    assert_eq!(told(&run(&["key", "new", "team"], &everywhere)).0, 0, "variables count for those that they are for");
    for arguments in [&["check"][..], &["serve"], &[]] {
        let (code, _, err) = told(&run(arguments, &everywhere));
        assert_eq!((code, err.contains("/nowhere/proxy.toml: there is no such file")), (2, true), "{err}");
    }
    let (code, _, err) = told(&run(&["--config", "/nowhere/proxy.toml"], &[]));
    assert_eq!((code, err.contains("/nowhere/proxy.toml: there is no such file")), (2, true), "{err}");
    let (code, out, _) = told(&run(&["--version"], &[]));
    assert_eq!((code, out), (0, format!("merge-sync-proxy {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, out, _) = told(&run(&["--help"], &[]));
    assert!(code == 0 && out.contains("Examples:") && !out.contains('\x1b'), "{out}");
}

#[test]
fn a_file_without_its_option_is_told_the_option() {
    for arguments in [&["p.toml"][..], &["check", "p.toml"], &["serve", "p.toml"], &["--replace", "p.toml"]] {
        let (code, out, err) = told(&run(arguments, &[]));
        assert_eq!((code, &*out), (2, ""), "{err}");
        assert!(err.contains("tip: a file is given as --config p.toml") && !err.contains('\x1b'), "{err}");
    }
    for arguments in [&["demo", "p.toml"][..], &["key", "p.toml"], &["status", "p.toml"], &["frobnicate"]] {
        let (code, _, err) = told(&run(arguments, &[]));
        assert!(code == 2 && !err.contains("--config p"), "{err}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = Folder::new(&file(ANY_PORT, NOWHERE));
    let path = folder.file();
    let path = path.to_str().expect("UTF-8");
    let demo = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    for arguments in
        [&["check", "--config", path][..], &["key", "new", "team"], &demo, &["demo", "--requests", "9"], &["--help"]]
    {
        assert_eq!(run_unread(arguments, &SECRETS), (Some(0), String::new()), "{arguments:?}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut wrong = command(&["check", "--config", path], &[]);
    let status = wrong.stderr(writer).status().expect("the binary starts");
    assert_eq!(status.code(), Some(2), "what is wrong stays wrong when nobody reads it");
}

#[test]
fn a_new_key_fits_its_stanza_and_the_stanza_a_file() {
    let (code, out, err) = told(&run(&["key", "new", "recruiting-sync"], &[]));
    assert_eq!((code, &*err), (0, ""));
    let key = out.lines().map(str::trim).find(|line| line.starts_with("msp_")).expect("a key");
    assert_eq!(out.matches(key).count(), 1, "it is shown once");
    let hash = hex::encode(Sha256::digest(key));
    let stanza = out.split_once("[[consumers]]").expect("a stanza").1;
    assert!(stanza.contains(&format!("key_sha256 = \"{hash}\"")), "{out}");
    let config = format!("{}[[consumers]]{stanza}", file(ANY_PORT, NOWHERE));
    let (code, out, err) = check(&config, &SECRETS);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("recruiting-sync  1 key"), "{out}");
    for name in ["", "a b", "é", "a\"b", "raw", "-", &"x".repeat(65)] {
        assert_eq!(told(&run(&["key", "new", name], &[])).0, 2, "{name:?}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let folder = Folder::new(&file(&format!("listen = ['{address}']"), NOWHERE));
    let (code, _, err) = told_of(&folder, &[]);
    assert_eq!(code, 1);
    let said = format!("cannot listen on {address} (server.listen): Address already in use");
    assert!(err.contains(&said) && err.contains("start with --replace"), "{err}");
    let (code, _, err) = told_of(&folder, &["--replace"]);
    assert!(code == 1 && err.contains("--replace works only where a merge-sync-proxy"), "{err}");
    let config =
        file(ANY_PORT, NOWHERE).replace("[admin]\nlisten = '127.0.0.1:0'", &format!("[admin]\nlisten = '{address}'"));
    let (code, _, err) = told_of(&Folder::new(&config), &[]);
    assert!(code == 1 && err.contains(&format!("cannot listen on {address} (admin.listen): ")), "{err}");
}

/// A start with the file in `folder`, which must fail.
fn told_of(folder: &Folder, more: &[&str]) -> (i32, String, String) {
    told(&run(&[&["--config", folder.file().to_str().expect("UTF-8")], more].concat(), &SECRETS))
}

#[test]
fn the_demo_says_how_to_give_it_other_addresses() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for (option, other) in [("--listen", "--admin"), ("--admin", "--listen")] {
        let (code, out, err) = told(&run(&["demo", option, &address, other, "127.0.0.1:0"], &[]));
        assert_eq!((code, &*out), (1, ""));
        let said =
            format!("cannot listen on {address}: Address already in use (os error 98); choose another with {option}\n");
        assert!(err.ends_with(&said), "{err}");
    }
    for (written, said) in [
        ("8080", "write host:port, as in 127.0.0.1:8080"),
        ("http://localhost:8080", "write host:port without http://"),
        ("0.0.0.0:8080", "for this machine alone: localhost, "),
        ("unix:/p.sock", "write host:port, as in 127.0.0.1:8080"),
        ("127.0.0.1:8081", "--listen and --admin are both 127.0.0.1:8081; give one of them another port"),
    ] {
        let (code, out, err) = told(&run(&["demo", "--listen", written], &[]));
        assert_eq!((code, &*out, err.contains(said)), (2, "", true), "{err}");
    }
}

#[test]
fn the_tour_tells_where_answers_came_from() {
    let (code, out, err) = told(&run(&["demo", "--requests", "500"], &[]));
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert!(out.starts_with("500 answers in ") && !out.contains('\x1b'), "{out}");
    let hits = out.lines().find(|line| line.ends_with("%  200 hit")).expect("hits");
    let hits: u64 = hits.split_whitespace().next().expect("a count").parse().expect("a number");
    assert!((1..500).contains(&hits), "{out}");
}

/// One answer: its header fields by name, as text.
async fn get(url: &str, account: &str) -> impl Fn(&str) -> String {
    let request = Request::get(url).header("x-account-token", account).body(Empty::<Bytes>::new());
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = soon(client.request(request.expect("a request"))).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    answer.into_body().collect().await.expect("a whole body");
    move |name| headers.get(name).map_or("", |value| value.to_str().expect("ASCII")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_that_the_demo_prints_works() {
    let demo = Running::start(&["demo", "--listen", "localhost:0", "--admin", "127.0.0.1:0"], &[]);
    let line = demo.line_with("curl ");
    let account = line.split("X-Account-Token: ").nth(1).expect("a header").split('\'').next().expect("a name");
    let url = line.split_whitespace().last().expect("a URL");
    let first = get(url, account).await;
    assert!(first("cache-status").starts_with("merge-sync-proxy; fwd=uri-miss; fwd-status=200; stored; ttl="));
    let second = get(url, account).await;
    let cache = second("cache-status");
    assert!(cache.starts_with("merge-sync-proxy; hit; ttl="), "{cache}");
    second("age").parse::<u32>().expect("a whole number of seconds");
    demo.terminate();
    let (status, said) = demo.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// `serve` in front of a Merge that keeps one request waiting; what it says and how it ends after SIGTERM.
async fn stopped_while_busy(drain: &str, answer_in_time: bool) -> (Option<i32>, String) {
    let merge = merge().build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = format!("http://{}", listener.local_addr().expect("it is bound"));
    let simulation = tokio::spawn(merge.clone().serve(listener, std::future::pending::<()>()));
    let held = merge.hold();
    let folder = Folder::new(&file(&format!("{ANY_PORT}\ndrain = '{drain}'"), &upstream));
    let (proxy, address, _) = Running::serve(&folder, &SECRETS);
    let url = format!("http://{address}{SYNC_STATUS}");
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::get(url).header("x-account-token", "acme").body(Empty::<Bytes>::new());
    let asked = tokio::spawn(client.request(request.expect("a request")));
    soon(merge.arrived(1)).await;
    proxy.terminate();
    if answer_in_time {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        held.release();
        assert_eq!(soon(asked).await.expect("no panic").expect("an answer").status(), 200);
    }
    let (status, said) = proxy.end();
    simulation.abort();
    (status.code(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_everything_finished_is_0_and_with_something_cut_1() {
    let (code, said) = stopped_while_busy("10min", true).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("drained: everything finished") && !said.contains('\x1b'), "{said}");
    let (code, said) = stopped_while_busy("100ms", false).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("\"cut\":1"), "{said}");
}
