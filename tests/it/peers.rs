//! What is known of a peer before it has said anything: how often it may fail, and who it is.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use merge_sync_proxy::domain::peer::Peer;
use merge_sync_proxy::door::consumer_key;
use nix::unistd::{Gid, Group, Uid};
use rustls::ALL_VERSIONS;
use tokio::net::UnixStream;

use crate::authority::{Authority, Files, client, connect, named, over};
use crate::support::{Got, SYNC_STATUS, Wire, World, consumer, merge, soon, with};

/// A request that came from this address.
fn from(address: &str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let peer = Peer::Network { address: address.parse().expect("an address"), certificate: Box::default() };
    request.extensions_mut().insert(Arc::new(peer));
    request
}

fn keyed(key: &str) -> Request<Full<Bytes>> {
    with(SYNC_STATUS, &[("x-account-token", "acme"), ("authorization", &format!("Bearer {key}"))])
}

fn keyless() -> Request<Full<Bytes>> {
    with(SYNC_STATUS, &[("x-account-token", "acme")])
}

/// A world in which each address may fail twice at once, with a consumer for each of these keys.
fn guarded(keys: &[&str]) -> World {
    let consumers: String = keys
        .iter()
        .enumerate()
        .map(|(at, key)| {
            consumer(key, "accounts = ['*']").replace(&format!("name = '{key}'"), &format!("name = 'n{at}'"))
        })
        .collect();
    let server = "[server]\nlisten = ['127.0.0.1:0']\nfailed_keys = '10/min'\n";
    World::with(merge(), &format!("{server}{consumers}"))
}

#[tokio::test(start_paused = true)]
async fn an_address_that_fails_too_often_is_refused_unheard_until_it_is_told_to_come_back() {
    let world = guarded(&["team"]);
    for request in [keyless(), keyed("guess")] {
        let got = world.send(from("192.0.2.1", request)).await;
        assert_eq!((got.status.as_u16(), &*got.problem()), (401, "unknown-consumer"));
    }
    // One of these guesses is right, and is refused like the others.
    for request in [keyless(), keyed("other"), keyed("team")] {
        let got = world.send(from("192.0.2.1", request)).await;
        assert_eq!((got.status.as_u16(), &*got.problem()), (429, "quota-exceeded"));
        assert_eq!((got.number("retry-after"), got.header("www-authenticate")), (7, ""));
    }
    assert_eq!(world.send(from("192.0.2.2", keyed("guess"))).await.status, 401, "another address");
    assert_eq!(world.send(from("192.0.2.2", keyed("team"))).await.status, 200);
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(world.send(from("192.0.2.1", keyed("guess"))).await.status, 401);
    assert_eq!(world.merge.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_shares_an_address_with_one_that_fails_is_not_locked_out() {
    let fresh = consumer_key::generate();
    let world = guarded(&["old-key", &fresh]);
    let here = |request| world.send(from("192.0.2.1", request));
    assert_eq!(here(keyed("old-key")).await.status, 200);
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(here(keyed("guess")).await.status.as_u16());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 18);
    for _ in 0..20 {
        assert_eq!(here(keyed("old-key")).await.status, 200, "it has been right before");
        assert_eq!(here(keyed(&fresh)).await.status, 200, "it cannot be a guess");
    }
    let unknown = consumer_key::generate();
    assert_eq!(here(keyed(&unknown)).await.status, 429, "it looks like one of ours and is none");
}

#[tokio::test(start_paused = true)]
async fn a_network_of_ipv6_is_one_address_and_headers_are_none() {
    let world = guarded(&["team"]);
    for (at, expected) in [401, 401, 429].into_iter().enumerate() {
        let mut request = keyless();
        let forged = format!("203.0.113.{at}").parse().expect("a header value");
        request.headers_mut().insert("x-forwarded-for", forged);
        let got = world.send(from(&format!("2001:db8::{at}"), request)).await;
        assert_eq!(got.status.as_u16(), expected);
    }
}

#[tokio::test]
async fn failures_are_counted_for_the_address_of_the_connection() {
    let server = "[server]\nlisten = ['127.0.0.1:0']\nfailed_keys = '10/h'\n";
    let wire = Wire::with(merge(), &format!("{server}{}", consumer("team", "accounts = ['*']"))).await;
    assert_eq!(wire.send(keyed("team")).await.status, 200);
    for expected in [401, 401, 429, 429] {
        assert_eq!(wire.send(keyed("guess")).await.status.as_u16(), expected);
    }
    assert_eq!(wire.send(keyed("team")).await.status, 200);
}

/// One answer over a Unix socket.
async fn local(socket: &std::path::Path, mut request: Request<Full<Bytes>>) -> Got {
    request.headers_mut().insert("host", "proxy".parse().expect("a header value"));
    let stream = UnixStream::connect(socket).await.expect("the proxy listens");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    Got::whole(soon(sender.send_request(request)).await.expect("an answer")).await
}

#[tokio::test]
async fn a_user_of_this_machine_is_known_over_a_unix_socket_and_only_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, other) = (folder.path().join("one.sock"), folder.path().join("other.sock"));
    let me = Uid::current().as_raw();
    let consumers = |socket: &std::path::Path, uid: u32| {
        let listen = format!("listen = ['127.0.0.1:0', 'unix:{}']", socket.display());
        let server = format!("[server]\n{listen}\nfailed_keys = '10/h'\n");
        let user = format!("[[consumers]]\nname = 'user'\nunix_uid = {uid}\naccounts = ['acme']\n");
        format!("{server}{user}{}", consumer("team", "accounts = ['globex']"))
    };
    let wire = Wire::with(merge(), &consumers(&socket, me)).await;
    assert_eq!(local(&socket, keyless()).await.status, 200);
    assert_eq!(
        local(&socket, with(SYNC_STATUS, &[("x-account-token", "globex")])).await.problem(),
        "account-not-allowed"
    );
    // A key wins over the connection, and a wrong one is not forgiven.
    assert_eq!(local(&socket, keyed("team")).await.problem(), "account-not-allowed");
    assert_eq!(local(&socket, keyed("guess")).await.problem(), "unknown-consumer");
    assert_eq!(wire.send(keyless()).await.problem(), "unknown-consumer", "TCP tells no user");

    let wire = Wire::with(merge(), &consumers(&other, me + 1)).await;
    for expected in [401, 401, 429] {
        assert_eq!(
            local(&other, keyless()).await.status.as_u16(),
            expected,
            "another user, and failures of users count"
        );
    }
    assert_eq!(wire.merge.calls(), 0);
}

#[tokio::test]
async fn with_mutual_tls_a_certificate_names_its_consumer() {
    let (operators, teams) = (Authority::new("operators"), Authority::new("teams"));
    let files = Files::new(&operators.host());
    let consumers = "[[consumers]]\nname = 'one'\nclient_cert = 'recruiting'\naccounts = ['acme']\n\
                     [[consumers]]\nname = 'two'\nclient_cert = ['payroll.test', 'old-payroll']\naccounts = ['globex']\n";
    let keyed_team = consumer("team", "accounts = ['*']");
    let wire = Wire::with(merge(), &format!("{}{consumers}{keyed_team}", files.mutual(&teams))).await;
    for (common, others, protocol, acme, globex) in [
        ("recruiting", &[][..], "h2", 200, 403),
        ("recruiting", &["recruiting.test"], "http/1.1", 200, 403),
        ("", &["payroll.test"], "h2", 403, 200),
        ("old-payroll", &["payroll.test"], "http/1.1", 403, 200),
        ("recruiting", &["payroll.test"], "h2", 401, 401),
        ("Recruiting", &[], "h2", 401, 401),
    ] {
        let identity = teams.vouch(&named(common, others));
        let client = client(&operators, &[protocol], Some(&identity), ALL_VERSIONS);
        for (account, expected) in [("acme", acme), ("globex", globex)] {
            let stream = soon(connect(&client, wire.proxy)).await.expect("it is vouched for");
            let mut request = with(SYNC_STATUS, &[("x-account-token", account), ("x-client-cert", "recruiting")]);
            if protocol == "http/1.1" {
                request.headers_mut().insert("host", "proxy.test".parse().expect("a header value"));
            }
            let (_, got) = soon(over(stream, request)).await.expect("an answer");
            assert_eq!(got.status.as_u16(), expected, "{common} {others:?} for {account}");
        }
    }
    let identity = teams.vouch(&named("recruiting", &[]));
    let client = client(&operators, &["h2"], Some(&identity), ALL_VERSIONS);
    for (key, expected) in [("team", 200), ("guess", 401)] {
        let stream = soon(connect(&client, wire.proxy)).await.expect("it is vouched for");
        let request = with(SYNC_STATUS, &[("x-account-token", "globex"), ("authorization", &format!("Bearer {key}"))]);
        assert_eq!(soon(over(stream, request)).await.expect("an answer").1.status.as_u16(), expected, "{key}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner_or_for_the_group_that_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    // Only root can give a file to a group that it is not in itself.
    let group = if Uid::current().is_root() { Gid::from_raw(1) } else { Gid::current() };
    let name = Group::from_gid(group).expect("a list of groups").expect("a group of this number").name;
    for (file, access, mode, owner) in [
        ("one.sock", String::new(), 0o600, Gid::current()),
        ("other.sock", format!("[server.unix]\nmode = '0660'\ngroup = '{name}'\n"), 0o660, group),
    ] {
        let socket = folder.path().join(file);
        let server = format!("[server]\nlisten = ['127.0.0.1:0', 'unix:{}']\n{access}", socket.display());
        let _wire = Wire::with(merge(), &server).await;
        let metadata = std::fs::metadata(&socket).expect("it is there");
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (mode, owner.as_raw()));
        assert_eq!(local(&socket, keyless()).await.status, 200);
    }
}
