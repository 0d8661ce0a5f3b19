//! TLS towards consumers: who is let in, what is spoken, and certificates that change while the proxy runs.

use std::time::Duration;

use http::Version;
use merge_sync_proxy::admin::routes::Operations;
use rcgen::{KeyPair, date_time_ymd};
use rustls::version::TLS12;
use rustls::{ALL_VERSIONS, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::authority::{Authority, Files, HOST, Identity, client, connect, named, over};
use crate::exposition::count;
use crate::process::{Folder, Running};
use crate::support::{SYNC_STATUS, Wire, ask, merge, soon, with};

fn local() -> http::Request<http_body_util::Full<bytes::Bytes>> {
    with(SYNC_STATUS, &[("host", HOST), ("x-account-token", "acme")])
}

/// How many handshakes have succeeded and failed by the metrics.
fn handshakes(wire: &Wire) -> [u64; 2] {
    let told = wire.app.metrics();
    ["success", "failure"]
        .map(|result| count(&told, &format!(r#"merge_sync_proxy_tls_handshakes_total{{result="{result}"}}"#)))
}

#[tokio::test]
async fn the_handshake_chooses_between_http1_and_http2() {
    let authority = Authority::new("operators");
    let files = Files::new(&authority.host());
    let wire = Wire::with(merge(), &files.config("", "")).await;
    for (protocols, chosen, version) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..]), Version::HTTP_2),
        (&["http/1.1"], Some(b"http/1.1"), Version::HTTP_11),
        (&[], None, Version::HTTP_11),
    ] {
        for versions in [ALL_VERSIONS, &[&TLS12]] {
            let stream = soon(connect(&client(&authority, protocols, None, versions), wire.proxy)).await;
            let stream = stream.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
            let request = if version == Version::HTTP_2 { ask(SYNC_STATUS) } else { local() };
            let (spoken, got) = soon(over(stream, request)).await.expect("an answer");
            assert_eq!((spoken, got.status.as_u16()), (version, 200));
        }
    }
    assert_eq!(wire.merge.calls(), 1);
    assert_eq!(handshakes(&wire), [6, 0]);
}

#[tokio::test]
async fn who_speaks_no_tls_or_another_protocol_gets_no_answer() {
    let authority = Authority::new("operators");
    let files = Files::new(&authority.host());
    let wire = Wire::with(merge(), &files.config("", "")).await;
    let mut plain = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n").await.expect("it is open");
    let mut said = Vec::new();
    let _ = soon(plain.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
    let stranger = client(&authority, &["smtp"], None, ALL_VERSIONS);
    assert!(soon(connect(&stranger, wire.proxy)).await.is_err());
    assert_eq!(handshakes(&wire), [0, 2]);
    // The admin listener is as it was.
    assert_eq!(wire.admin("/livez").await.status, 200);
}

#[tokio::test]
async fn with_an_authority_for_clients_only_those_it_vouches_for_come_in() {
    let (operators, teams, others) = (Authority::new("operators"), Authority::new("teams"), Authority::new("others"));
    let files = Files::new(&operators.host());
    let wire = Wire::with(merge(), &files.mutual(&teams)).await;
    let known = teams.vouch(&named("recruiting", &[]));
    let forged = others.vouch(&named("recruiting", &[]));
    let mut expired = named("recruiting", &[]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let expired = teams.vouch(&expired);
    for versions in [ALL_VERSIONS, &[&TLS12]] {
        for (identity, welcome) in
            [(Some(&known), true), (None, false), (Some(&forged), false), (Some(&expired), false)]
        {
            let client = client(&operators, &["http/1.1"], identity, versions);
            // With TLS 1.3 a client learns only when it reads that its certificate was refused.
            let answer = match soon(connect(&client, wire.proxy)).await {
                Ok(stream) => soon(over(stream, local())).await.ok(),
                Err(_) => None,
            };
            assert_eq!(answer.map(|(_, got)| got.status.as_u16()), welcome.then_some(200));
        }
    }
    assert_eq!(handshakes(&wire), [2, 6]);
}

#[tokio::test]
async fn who_has_to_show_a_certificate_shows_it_with_each_connection() {
    let (operators, teams) = (Authority::new("operators"), Authority::new("teams"));
    let files = Files::new(&operators.host());
    let known = teams.vouch(&named("recruiting", &[]));
    for (config, identity, second) in [
        (files.config("", ""), None, HandshakeKind::Resumed),
        (files.mutual(&teams), Some(&known), HandshakeKind::Full),
    ] {
        let wire = Wire::with(merge(), &config).await;
        for versions in [ALL_VERSIONS, &[&TLS12]] {
            let client = client(&operators, &["http/1.1"], identity, versions);
            for kind in [HandshakeKind::Full, second] {
                let stream = soon(connect(&client, wire.proxy)).await.expect("a handshake");
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{versions:?}");
                // Where there are tickets, they come with the answer.
                let (_, got) = soon(over(stream, local())).await.expect("an answer");
                assert_eq!(got.status, 200);
            }
        }
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_ends() {
    let authority = Authority::new("operators");
    let files = Files::new(&authority.host());
    let wire = Wire::with(merge(), &files.config("header_timeout = '10min'", "handshake_timeout = '300ms'")).await;
    let start = Instant::now();
    let mut silent = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
    // The beginning of a handshake whose rest never comes.
    silent.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("it is open");
    let _ = soon(silent.read_to_end(&mut Vec::new())).await;
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(handshakes(&wire), [0, 1]);
}

#[tokio::test]
async fn a_stop_ends_handshakes_and_idle_connections_at_once() {
    let authority = Authority::new("operators");
    let files = Files::new(&authority.host());
    let server = "drain = '10min'\nheader_timeout = '10min'";
    let mut wire = Wire::with(merge(), &files.config(server, "handshake_timeout = '10min'")).await;
    let _silent = TcpStream::connect(wire.proxy).await.expect("the proxy listens");
    let mut idle = Vec::new();
    for protocols in [&["h2"][..], &["http/1.1"]] {
        idle.push(soon(connect(&client(&authority, protocols, None, ALL_VERSIONS), wire.proxy)).await.expect("TLS"));
    }
    let stream = soon(connect(&client(&authority, &[], None, ALL_VERSIONS), wire.proxy)).await.expect("TLS");
    assert_eq!(soon(over(stream, local())).await.expect("an answer").1.status, 200);
    assert_eq!(soon(wire.drained()).await.cut, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_it_runs_and_the_last_good_ones_outlive_bad_ones() {
    let authority = Authority::new("operators");
    let (first, second) = (authority.host(), authority.host());
    let folder = Folder::new(
        "[server]\nlisten = ['127.0.0.1:0']\n[server.tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n\
         [admin]\nlisten = '127.0.0.1:0'\n[upstreams.us]\nbase_url = 'http://127.0.0.1:9'\napi_key = { env = 'KEY' }\n\
         [telemetry]\nlog = 'json'\n",
    );
    first.write(folder.path());
    let (proxy, address, _) = Running::serve(&folder, &[("KEY", "a-key")]);
    let client = client(&authority, &["http/1.1"], None, ALL_VERSIONS);
    let mut open = soon(connect(&client, address)).await.expect("a handshake");
    let shown = async || {
        let stream = soon(connect(&client, address)).await.expect("a handshake");
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
    };
    assert_eq!(shown().await, first.der());

    // A certificate without its key.
    std::fs::write(folder.path().join("cert.pem"), &second.cert).expect("written");
    let line = proxy.line_with("the last good ones stay");
    assert!(line.contains("server.tls.key: is not the key of the first certificate"), "{line}");
    assert_eq!(shown().await, first.der());

    second.write(folder.path());
    proxy.line_with("certificates renewed");
    assert_eq!(shown().await, second.der());

    // What was open has stayed open.
    open.write_all(b"GET /nowhere HTTP/1.1\r\nHost: proxy\r\n\r\n").await.expect("it is open");
    let mut answer = [0; 12];
    soon(open.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 404");
    proxy.terminate();
    assert_eq!(proxy.end().0.code(), Some(0));
}

#[test]
fn check_says_what_is_wrong_with_the_files_and_how_to_cure_it() {
    let authority = Authority::new("operators");
    let (one, other) = (authority.host(), authority.host());
    let mut old = named("the proxy", &[HOST]);
    old.not_after = date_time_ymd(2020, 1, 1);
    let old = authority.vouch(&old);
    let rsa_name = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let identity = |cert: &str, key: &str| Identity { cert: cert.into(), key: key.into() };
    for (written, authorities, told) in [
        (identity(&one.cert, &one.key), &*authority.pem, ""),
        (
            identity(&one.cert, &other.key),
            "",
            "5:7  server.tls.key  'key.pem': is not the key of the first certificate in server.tls.cert: name the key that \
             belongs to it, or put its certificate first\n",
        ),
        (identity("", &one.key), "", "4:8  server.tls.cert  'cert.pem': holds no certificate in PEM form\n"),
        (identity(&one.cert, ""), "", "5:7  server.tls.key  'key.pem': holds no private key in PEM form\n"),
        (
            identity(&one.cert, rsa_name),
            "",
            "5:7  server.tls.key  'key.pem': has a passphrase; take it off with `openssl pkey -in FILE -out FILE.plain`\n",
        ),
        (
            identity(&one.cert, &one.key),
            &*KeyPair::generate().expect("a key").serialize_pem(),
            "6:13  server.tls.client_ca  'clients.pem': holds no certificate in PEM form\n",
        ),
        (identity(&old.cert, &old.key), "", "warning"),
    ] {
        let ca = if authorities.is_empty() { "" } else { "client_ca = 'clients.pem'" };
        let folder = Folder::new(&format!(
            "[server]\nlisten = ['127.0.0.1:0']\n[server.tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n{ca}\n\
             [upstreams.us]\nbase_url = 'http://127.0.0.1:9'\napi_key = {{ env = 'KEY' }}\n",
        ));
        written.write(folder.path());
        std::fs::write(folder.path().join("clients.pem"), authorities).expect("written");
        let file = folder.file();
        let output = crate::process::run(&["check", "--config", file.to_str().expect("UTF-8")], &[("KEY", "a-key")]);
        let (code, out, err) = crate::process::told(&output);
        let err = err.replace(&format!("{}:", file.display()), "");
        assert!(!out.contains("PRIVATE KEY") && !err.contains("PRIVATE KEY"), "{out}{err}");
        if told == "warning" {
            assert_eq!(code, 0);
            assert!(err.contains("4:8  server.tls.cert  'cert.pem': the certificate expired on "), "{err}");
        } else {
            assert_eq!((code, &*err), (if told.is_empty() { 0 } else { 2 }, told));
        }
    }
}
