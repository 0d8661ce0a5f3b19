//! What operators see and do.

use http::Method;
use hyper_util::rt::{TokioExecutor, TokioIo};
use merge_sync_proxy::demo::fault::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{ACME_TOKEN, Got, SYNC_STATUS, Wire, ask, merge, method, soon, with};

#[tokio::test]
async fn health_is_there_for_everybody() {
    let wire = Wire::new().await;
    assert_eq!(wire.admin("/livez").await.body, "{\"alive\":true}\n");
    assert_eq!(wire.admin("/readyz").await.body, "{\"ready\":true,\"reasons\":[]}\n");
    assert_eq!(wire.admin("/nothing").await.status, 404);
    assert_eq!(wire.admin("/api/cache").await.status, 405);
}

#[tokio::test]
async fn head_is_answered_as_get_is_but_without_a_body() {
    let wire = Wire::new().await;
    let stream = TcpStream::connect(wire.admin).await.expect("it listens");
    let (http2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let over_http2 = async |path: &str| {
        let mut request = method(Method::HEAD, with(path, &[]));
        *request.uri_mut() = format!("http://{}{path}", wire.admin).parse().expect("a path");
        Got::whole(http2.clone().send_request(request).await.expect("an answer")).await
    };
    for path in ["/livez", "/readyz", "/", "/status.js", "/api/state", "/metrics", "/api/events", "/nothing"] {
        let (over_http1, over_http2) = (wire.operate(method(Method::HEAD, with(path, &[]))), over_http2(path));
        for head in [soon(over_http1).await, soon(over_http2).await] {
            assert!(head.body.is_empty(), "{path}");
            if path == "/api/events" {
                assert_eq!((head.status.as_u16(), head.header("content-length")), (200, ""));
                continue;
            }
            let got = wire.admin(path).await;
            assert_eq!((head.status, head.names()), (got.status, got.names()), "{path}");
            // Figures and times have other lengths a moment later.
            let is_steady = !matches!(path, "/api/state" | "/metrics");
            assert!(!is_steady || head.number("content-length") == got.body.len() as u64, "{path}");
        }
    }
}

#[tokio::test]
async fn one_address_gets_its_share_of_connections_so_that_others_can_still_look() {
    let wire = Wire::new().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(wire.admin).await.expect("it listens");
        let mut answer = [0; 12];
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is open");
        soon(stream.read_exact(&mut answer)).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        open.push(stream);
    }
    let mut next = TcpStream::connect(wire.admin).await.expect("it listens");
    assert!(!matches!(soon(next.read(&mut [0])).await, Ok(1..)), "closed at once");
    let other = TcpSocket::new_v4().expect("a socket");
    other.bind("127.0.0.2:0".parse().expect("an address")).expect("another address of this machine");
    let other = soon(other.connect(wire.admin)).await.expect("it listens");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(other)).await.expect("HTTP");
    tokio::spawn(connection);
    let answer = sender.send_request(with("/livez", &[("host", "localhost")]));
    assert_eq!(soon(answer).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_soft_purge_makes_the_next_request_fetch_and_leaves_the_page_for_failures() {
    let wire = Wire::new().await;
    for account in ["acme", "globex"] {
        wire.send(with(SYNC_STATUS, &[("x-account-token", account)])).await;
    }
    let purged = wire.operate(method(Method::DELETE, ask("/api/cache/accounts/acme"))).await;
    assert_eq!(purged.body, "{\"hard\":false,\"purged\":1}\n");
    let other = wire.send(with(SYNC_STATUS, &[("x-account-token", "globex")])).await;
    assert!(other.cache().starts_with("hit"));
    wire.merge.set(merge_sync_proxy::demo::fault::Fault::Status(500));
    assert!(wire.get(SYNC_STATUS).await.cache().ends_with("detail=upstream-error"));
    wire.merge.clear();
    let hard = wire.operate(method(Method::DELETE, ask("/api/cache?hard=true"))).await;
    assert_eq!(hard.body, "{\"hard\":true,\"purged\":2}\n");
    assert!(wire.get(SYNC_STATUS).await.cache().starts_with("fwd=uri-miss"));
    let nobody = wire.operate(method(Method::DELETE, ask("/api/cache/accounts/nobody"))).await;
    assert_eq!(nobody.status, 404);
}

#[tokio::test]
async fn an_explanation_says_what_is_cached_and_what_would_happen() {
    let wire = Wire::new().await;
    let question = "/api/explain?account=acme&category=ats&query=page_size%3D5";
    let explain = async || {
        let answer = wire.admin(question).await;
        assert!(!String::from_utf8_lossy(&answer.body).contains(ACME_TOKEN));
        serde_json::from_slice::<serde_json::Value>(&answer.body).expect("JSON")
    };
    assert_eq!(explain().await["next_request"]["would"], "miss");
    soon(wire.get(&format!("{SYNC_STATUS}?page_size=5"))).await;
    let explained = explain().await;
    assert_eq!((&explained["next_request"]["would"], &explained["stored"]["state"]), (&"hit".into(), &"fresh".into()));
    assert_eq!(explained["key"]["query"], "page_size=5");
    assert_eq!(explained["calls"]["may_go"], true);
    let asked = |query: &str| format!("/api/explain?account=acme&category=ats&query={query}");
    let refused = wire.admin(&asked("page_size%3D1000")).await;
    let refused: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(refused["next_request"]["would"], "refused", "as the door would: {refused}");
    assert!(refused["next_request"]["because"].as_str().expect("a text").contains("from 1 to 100"), "{refused}");
    wire.merge.set(Fault::Status(429));
    soon(wire.get(&format!("{SYNC_STATUS}?page_size=6"))).await;
    let paused = wire.admin(&asked("page_size%3D6")).await;
    let paused: serde_json::Value = serde_json::from_slice(&paused.body).expect("JSON");
    assert_eq!((&paused["next_request"]["would"], &paused["calls"]["may_go"]), (&"miss".into(), &false.into()));
    assert!(paused["calls"]["because"].as_str().expect("a text").contains("a pause"), "{paused}");
    assert_eq!(wire.admin("/api/explain?account=acme").await.status, 400);
    assert_eq!(wire.admin("/api/explain?account=nobody&category=ats").await.status, 404);
    assert_eq!(wire.admin("/api/explain?account=acme&category=nothing").await.status, 404);
}

#[tokio::test]
async fn with_a_token_only_health_is_open() {
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    assert_eq!(wire.admin("/livez").await.status, 200);
    let purge = |line: &str| wire.operate(method(Method::DELETE, with("/api/cache", &[("authorization", line)])));
    for line in ["Bearer let-me-in", "bearer let-me-in", "BEARER  let-me-in"] {
        assert_eq!(purge(line).await.status, 200, "{line}");
    }
    let twice = [("authorization", "Bearer let-me-in"), ("authorization", "Bearer let-me-in")];
    assert_eq!(wire.operate(method(Method::DELETE, with("/api/cache", &twice))).await.status, 401);
    for line in ["Bearer let-me-out", "let-me-in", "Bearer let-me-i", "Bearer "] {
        assert_eq!(purge(line).await.status, 401, "{line}");
    }
    assert_eq!(wire.admin("/api/explain?account=acme&category=ats").await.status, 401);
}

#[tokio::test]
async fn a_token_cannot_be_guessed_and_who_had_it_is_not_locked_out() {
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    let purge = |line: &str| wire.operate(method(Method::DELETE, with("/api/cache", &[("authorization", line)])));
    let mut tries = 0;
    let refused = loop {
        let answer = purge(&format!("Bearer guess-{tries}")).await;
        if answer.status != 401 {
            break answer;
        }
        tries += 1;
        assert!(tries <= 60, "guesses are not limited");
    };
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(
        purge("Bearer let-me-in").await.status,
        429,
        "a guess that is right must not be told from one that is wrong"
    );
    assert_eq!(wire.admin("/livez").await.status, 200);

    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    let purge = |line: &str| wire.operate(method(Method::DELETE, with("/api/cache", &[("authorization", line)])));
    assert_eq!(purge("Bearer let-me-in").await.status, 200);
    while purge("Bearer guess").await.status == 401 {}
    assert_eq!(purge("Bearer let-me-in").await.status, 200, "it has been right before");
}
