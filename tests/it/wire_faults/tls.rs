//! The upstream's TLS is not to be trusted, or does not come.

use std::time::Duration;

use super::{DEADLINE, Fault, Told, before, examine, recover};
use crate::raw::certificates::{Flaw, flawed, tls};
use crate::raw::{Speech, Step, Upstream, say};

pub(crate) fn faults() -> Vec<Fault> {
    let greets = |steps: Vec<Step>| Speech::Greeting(steps);
    let plain = say("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    vec![
        case("a certificate of an unknown authority", flawed(Flaw::UnknownAuthority), 1),
        case("a certificate for another name", flawed(Flaw::WrongName), 1),
        case("a certificate that has expired", flawed(Flaw::Expired), 1),
        case(
            "plain text on the port of TLS",
            greets(vec![plain, Step::Pause(Duration::from_millis(100)), Step::Close]),
            1,
        ),
        case("a connection that closes instead of TLS", greets(vec![Step::Close]), 3),
        case("a connection that resets instead of TLS", greets(vec![Step::Reset]), 3),
        Fault::new("TLS that never comes", silent()),
        Fault::new("TLS without HTTP/2", without_http2()),
    ]
}

/// An upstream whose identity is wrong is not tried again; it may only be well again.
fn case(name: &'static str, speech: Speech, connections: usize) -> Fault {
    Fault::new(name, async move {
        let upstream = Upstream::new(speech, vec![], 0).await;
        let front = before(&upstream, &tls(false), "").await;
        examine(&front, Told::Failed).await;
        assert_eq!((upstream.calls(), upstream.connections()), (0, connections));
        upstream.heal(tls(false));
        recover(&front, Told::Failed).await;
    })
}

async fn silent() {
    let upstream = Upstream::new(Speech::Greeting(vec![Step::Freeze]), vec![], 0).await;
    let front = before(&upstream, &tls(false), "tls_timeout = '1s'\nretries = 0").await;
    let start = std::time::Instant::now();
    examine(&front, Told::Failed).await;
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < DEADLINE);
    upstream.heal(tls(false));
    recover(&front, Told::Failed).await;
}

async fn without_http2() {
    let upstream = Upstream::new(tls(true), vec![], 0).await;
    let front = before(&upstream, &tls(true), "http2 = 'off'").await;
    examine(&front, Told::Page).await;
    recover(&front, Told::Page).await;
}
