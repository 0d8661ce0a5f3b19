//! `merge-sync-proxy status`: what it prints, and what it says when there is nothing to print.

use std::io::{Read, Write};
use std::net::TcpListener;

use crate::process::{Folder, Running, run, run_unread, told};
use crate::support::{ACME_TOKEN, API_KEY, SYNC_STATUS, Wire, merge, soon};

/// Runs `status` against the admin listener of `wire`, beside the proxy that answers it.
async fn status(wire: &Wire, more: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let arguments: Vec<String> = ["status", "--admin", &format!("http://{}", wire.admin)]
        .into_iter()
        .chain(more.iter().copied())
        .map(str::to_owned)
        .collect();
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let running = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        told(&run(&arguments, &env))
    });
    soon(running).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_prints_accounts_consumers_and_budgets_plainly_in_a_pipe() {
    let wire = Wire::new().await;
    wire.get(SYNC_STATUS).await;
    let (code, out, err) = status(&wire, &[], &[]).await;
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert!(!out.contains('\x1b') && !out.contains(ACME_TOKEN) && !out.contains(API_KEY), "{out}");
    let line = |part: &str| out.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {out}"));
    assert!(out.starts_with("merge-sync-proxy ") && line("ready, up ").contains(env!("CARGO_PKG_VERSION")));
    assert!(line("  ok ").contains("acme") && line("  ok ").contains("ats"), "{out}");
    assert!(line("  idle ").contains("globex"));
    assert!(line("calls may go").starts_with("  us "), "{out}");
    line("  open ");
    let (_, filtered, _) = status(&wire, &["--filter", "glob"], &[]).await;
    assert!(filtered.contains("globex") && !filtered.contains("acme"), "{filtered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_prints_json_and_takes_the_token_from_where_it_is_told() {
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    let (code, out, err) = status(&wire, &["--json"], &[]).await;
    assert_eq!((code, &*out), (1, ""));
    assert!(err.contains("asks for a token") && err.contains("--token-env"), "{err}");
    let (code, out, _) = status(&wire, &["--json", "--token-env", "ADMIN"], &[("ADMIN", "let-me-in")]).await;
    assert_eq!(code, 0);
    let state: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&state["accounts"]["total"], out.lines().count()), (&2.into(), 1));
    let (code, _, err) = status(&wire, &["--token-env", "ADMIN"], &[("ADMIN", "canary-of-a-token")]).await;
    assert!(code == 1 && err.contains("does not accept this token") && !err.contains("canary"), "{err}");
    let (code, _, err) = status(&wire, &["--token-env", "NOTHING"], &[]).await;
    assert!(code == 2 && err.contains("NOTHING is not set"), "{err}");
    let folder = Folder::new("let-me-in\n");
    let (code, _, err) = status(&wire, &["--token-file", folder.file().to_str().expect("UTF-8")], &[]).await;
    assert_eq!((code, &*err), (0, ""));
}

#[test]
fn where_nobody_answers_it_says_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound");
    let (code, out, err) = told(&run(&["status", "--admin", &free.to_string()], &[]));
    assert_eq!((code, &*out), (1, ""));
    assert!(err.contains(&format!("nobody answers at http://{free}")) && err.contains("--admin"), "{err}");
    for wrong in ["https://127.0.0.1:8081", "nowhere", "http://"] {
        let (code, _, err) = told(&run(&["status", "--admin", wrong], &[]));
        assert!(code == 2 && err.contains("HTTP") | err.contains("HOST:PORT"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let wire = Wire::new().await;
    let place = wire.admin.to_string();
    let unread = tokio::task::spawn_blocking(move || {
        [&[][..], &["--json"], &["--watch"]]
            .map(|more| run_unread(&[&["status", "--admin", &place], more].concat(), &[]))
    });
    assert_eq!(soon(unread).await.expect("no panic"), [const { (Some(0), String::new()) }; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_itself_is_told_from_its_admin_listener() {
    let wire = Wire::new().await;
    let place = wire.proxy.to_string();
    let asked = tokio::task::spawn_blocking(move || told(&run(&["status", "--admin", &place], &[])));
    let (code, _, err) = soon(asked).await.expect("no panic");
    assert!(code == 1 && err.contains("answered 404") && err.contains("the admin listener"), "{err}");
}

#[test]
fn what_speaks_something_else_is_not_taken_for_another_version() {
    // Nothing, an alert of TLS, the greeting of SSH.
    for answer in [&b""[..], b"\x15\x03\x03\x00\x02\x02\x0a", b"SSH-2.0-OpenSSH_9.6\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let place = listener.local_addr().expect("it is bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(answer);
        });
        let (code, out, err) = told(&run(&["status", "--admin", &place], &[]));
        assert_eq!((code, &*out), (1, ""));
        let said = format!("http://{place} gives no answer in HTTP (");
        assert!(err.contains(&said) && err.contains("TLS") && !err.contains("another version"), "{err}");
        server.join().expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_goes_on_until_it_is_stopped() {
    let mut wire = Wire::new().await;
    let place = format!("http://{}", wire.admin);
    let watching = Running::start(&["status", "--watch", "--json", "--admin", &place], &[]);
    let (watching, said) = tokio::task::spawn_blocking(move || {
        let said = [watching.line_with("\"accounts\""), watching.line_with("\"accounts\"")];
        (watching, said)
    })
    .await
    .expect("no panic");
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["proxy"]["time"].clone();
    assert_ne!(number(&said[0]), number(&said[1]));
    soon(wire.drained()).await;
    let ended = tokio::task::spawn_blocking(move || {
        watching.line_with("nobody answers");
        watching.terminate();
        watching.end()
    });
    let (status, said) = soon(ended).await.expect("no panic");
    assert_eq!(status.code(), Some(0), "{said}");
}
