//! The upstream's HTTP/1.1 is not as it should be.

use super::{Fault, Told, before, plain};
use crate::raw::http1::{page, whole};
use crate::raw::{PAGE, Speech, Step, Upstream, say};

const JSON: &str = "content-type: application/json\r\n";

/// A head with these fields, and the page in it.
fn with(fields: &str, body: &str) -> Vec<Step> {
    vec![say(format!("HTTP/1.1 200 OK\r\n{JSON}{fields}\r\n{body}"))]
}

fn chunked(body: &str) -> Vec<Step> {
    with("transfer-encoding: chunked\r\n", body)
}

pub(crate) fn faults() -> Vec<Fault> {
    let length = PAGE.len();
    let failed = |steps: Vec<Step>| plain(steps, Told::Failed);
    let fine = |steps: Vec<Step>| plain(steps, Told::Page);
    let ended = |mut steps: Vec<Step>| {
        steps.push(Step::Close);
        steps
    };
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let many = "x-many: a\r\n".repeat(150);
    let long = format!("x-long: {}\r\n", "a".repeat(1 << 20));
    vec![
        fine(vec![say(format!("{hints}{}", page()))]).named("103 before the answer"),
        fine(vec![say("HTTP/1.1 100 Continue\r\n\r\n"), say(page())]).named("100 that nobody waits for"),
        fine(vec![say(hints.repeat(3)), say(page())]).named("three interim answers"),
        failed(vec![say(hints), Step::Close]).always(3).named("103 and no more"),
        plain([Step::Say(std::sync::Arc::new(move |_| hints.repeat(10).into())), Step::Hold], Told::Late)
            .set("headers_timeout = '1s'")
            .named("interim answers and no answer"),
        failed(ended(with(&format!("content-length: {}\r\n", length + 9), PAGE)))
            .named("a content-length that is too long"),
        failed(with(&format!("content-length: {}\r\n", length - 9), PAGE)).named("a content-length that is too short"),
        failed(with("content-length: 7\r\ncontent-length: 9\r\n", PAGE)).named("two content-lengths that differ"),
        fine(with(&format!("content-length: {length}\r\ncontent-length: {length}\r\n"), PAGE))
            .named("the same content-length twice"),
        failed(with("content-length: -1\r\n", PAGE)).named("a negative content-length"),
        failed(with("content-length: 99999999999999999999999\r\n", PAGE)).named("a content-length that is no number"),
        fine(chunked(&format!("{length:x}\r\n{PAGE}\r\n0\r\n\r\n"))).named("chunks"),
        fine(chunked(&format!("{length:x};a=b\r\n{PAGE}\r\n0\r\nx-trailer: 1\r\n\r\n"))).named("chunks with a trailer"),
        fine(ended(with(
            "content-length: 3\r\ntransfer-encoding: chunked\r\n",
            &format!("{length:x}\r\n{PAGE}\r\n0\r\n\r\n"),
        )))
        .named("a content-length beside chunks"),
        failed(chunked("xyz\r\n{}\r\n0\r\n\r\n")).named("a chunk size that is no number"),
        failed(chunked("fffffffffffffffff\r\n{}\r\n0\r\n\r\n")).named("a chunk size that overflows"),
        failed(chunked("2\r\n{}garbage\r\n0\r\n\r\n")).named("a chunk that is longer than its size"),
        failed(chunked(&format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(1 << 16))))
            .named("a chunk extension without end"),
        failed(ended(with("transfer-encoding: gzip\r\n", "\u{1f}not for us")))
            .named("a transfer coding that nobody asked for"),
        failed(vec![say("SSH-2.0-OpenSSH_9.6\r\n"), Step::Close]).named("another protocol"),
        failed(vec![say(PAGE), Step::Close]).named("a body without a head"),
        failed(vec![say("HTTP/9.9 200 OK\r\n\r\n"), Step::Close]).named("a version of HTTP that is not"),
        failed(vec![say("HTTP/1.1 20 OK\r\n\r\n"), Step::Close]).named("a status of two digits"),
        failed(vec![say(format!("HTTP/1.1 200 OK\r\na\0b: c\r\n{JSON}\r\n"))]).named("a field name with a zero byte"),
        failed(with(&many, PAGE)).named("more fields than anyone sends"),
        failed(with(&long, PAGE)).named("a header section of a mebibyte"),
        fine(ended(vec![say(format!("HTTP/1.0 200 OK\r\n{JSON}\r\n{PAGE}"))])).named("HTTP/1.0"),
        failed(vec![say(format!("HTTP/1.0 200 OK\r\n{JSON}\r\n{}", &PAGE[..20])), Step::Close])
            .named("HTTP/1.0 that is cut"),
        failed(vec![say(whole("101 Switching Protocols", "upgrade: h2c\r\nconnection: upgrade\r\n", ""))])
            .named("an upgrade that nobody asked for"),
        Fault::new("an answer that nobody asked for", smuggled()),
    ]
}

/// What follows an answer is not the answer to the next request.
async fn smuggled() {
    let evil = whole("200 OK", JSON, "{\"results\":[\"evil\"]}");
    let upstream = Upstream::new(Speech::Plain, vec![say(format!("{}{evil}", page()))], 1).await;
    let front = before(&upstream, &Speech::Plain, "").await;
    for account in ["acme", "globex"] {
        let got = front.page(account).await;
        assert!(Told::Page.matches(&got), "{account}: {got:?}");
    }
    assert_eq!(upstream.connections(), 2);
    front.idle().await;
}
