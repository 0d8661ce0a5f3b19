//! The upstream's HTTP/2 refuses, ends or breaks streams and connections.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{Fault, Told, before, over_http2, recover};
use crate::raw::http2::{
    ENHANCE_YOUR_CALM, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, data, garbage, go_away, head, head_alone, last_data,
    reset_stream,
};
use crate::raw::{PAGE, Step, Upstream, certificates, pause};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const LENGTH: &[(&str, &str)] = &[("content-type", "application/json"), ("content-length", "42")];

pub(crate) fn faults() -> Vec<Fault> {
    let whole = || vec![head("200", JSON), last_data(PAGE)];
    let and = |first: Step, rest: Vec<Step>| [vec![first], rest].concat();
    let half = || vec![head("200", LENGTH), data(&PAGE[..20]), pause()];
    let broken = |end: Step| over_http2([half(), vec![end]].concat(), Told::Failed);
    vec![
        over_http2(whole(), Told::Page).named("HTTP/2"),
        over_http2(and(head("103", &[("link", "</a>")]), whole()), Told::Page).named("103 over HTTP/2"),
        over_http2([reset_stream(REFUSED_STREAM)], Told::Page).calls(2).named("REFUSED_STREAM once"),
        over_http2([reset_stream(REFUSED_STREAM)], Told::Failed).always(3).named("REFUSED_STREAM always"),
        over_http2([go_away(Some(0), NO_ERROR), pause(), Step::Close], Told::Page)
            .calls(2)
            .named("GOAWAY that leaves the call out, once"),
        over_http2([go_away(Some(0), NO_ERROR), pause(), Step::Close], Told::Failed)
            .always(3)
            .named("GOAWAY that leaves the call out, always"),
        over_http2([go_away(Some(0), NO_ERROR), Step::Hold], Told::Page)
            .calls(2)
            .named("GOAWAY that leaves the call out, on a connection that stays"),
        over_http2([go_away(Some(0), ENHANCE_YOUR_CALM), pause(), Step::Close], Told::Page)
            .calls(2)
            .named("GOAWAY for too many calls"),
        over_http2(and(go_away(None, NO_ERROR), whole()), Told::Page).named("GOAWAY before the answer comes"),
        over_http2([half(), vec![go_away(None, NO_ERROR), last_data(&PAGE[20..])]].concat(), Told::Page)
            .named("GOAWAY within a body that goes on"),
        over_http2([half(), vec![go_away(None, INTERNAL_ERROR)]].concat(), Told::Late)
            .set("progress_timeout = '1s'")
            .named("GOAWAY within a body that stops"),
        over_http2([half(), vec![go_away(None, NO_ERROR), pause(), Step::Close]].concat(), Told::Failed)
            .named("GOAWAY within a body, and the connection closes"),
        over_http2([reset_stream(INTERNAL_ERROR)], Told::Page).calls(2).named("RST_STREAM before the answer"),
        over_http2([head("200", JSON), pause(), reset_stream(INTERNAL_ERROR)], Told::Failed)
            .named("RST_STREAM after the head"),
        broken(reset_stream(INTERNAL_ERROR)).named("RST_STREAM within the body"),
        broken(Step::Close).named("HTTP/2 closed within the body"),
        broken(Step::Reset).named("HTTP/2 reset within the body"),
        broken(last_data("")).named("HTTP/2 short of its content-length"),
        over_http2(
            [head("200", LENGTH), last_data("{\"next\":null,\"previous\":null,\"results\":[]} and more")],
            Told::Failed,
        )
        .named("HTTP/2 beyond its content-length"),
        over_http2([head_alone("200", JSON)], Told::Failed).named("HTTP/2 without a body"),
        over_http2([Step::Close], Told::Page).calls(2).named("HTTP/2 closed before the answer"),
        over_http2([Step::Hold], Told::Late).set("headers_timeout = '1s'").named("no answer over HTTP/2"),
        over_http2([Step::Freeze], Told::Late).set("headers_timeout = '1s'").named("an HTTP/2 connection that is dead"),
        over_http2([head("200", LENGTH), Step::Hold], Told::Late)
            .set("progress_timeout = '1s'")
            .named("a head and no body over HTTP/2"),
        over_http2([garbage(), pause(), Step::Close], Told::Failed).named("frames that are none"),
        over_http2([head("200", &[("Content-Type", "a")]), last_data(PAGE)], Told::Failed)
            .named("field names in upper case over HTTP/2"),
        over_http2([head("200", &[("connection", "close")]), last_data(PAGE)], Told::Failed)
            .named("fields of one connection over HTTP/2"),
        over_http2([head("20", JSON), last_data(PAGE)], Told::Failed).named("no status over HTTP/2"),
        over_http2([head_alone("503", JSON)], Told::Page).calls(2).named("503 over HTTP/2"),
        Fault::new("GOAWAY on an idle connection", idle(go_away(None, NO_ERROR))),
        Fault::new("an idle HTTP/2 connection that was closed meanwhile", idle(Step::Close)),
        Fault::new("an idle HTTP/2 connection that was reset meanwhile", idle(Step::Reset)),
        Fault::new("GOAWAY that leaves some of the calls out", some_left_out()),
        Fault::new("a body that is older than its connection may be", outlives_its_pool()),
    ]
}

/// The connection goes after its first answer.
async fn idle(end: Step) {
    let steps = vec![head("200", JSON), last_data(PAGE), pause(), end];
    let upstream = Upstream::new(certificates::tls(true), steps, 1).await;
    let front = before(&upstream, &certificates::tls(true), "").await;
    assert!(Told::Page.matches(&front.page("globex").await));
    sleep(Duration::from_millis(150)).await;
    assert!(Told::Page.matches(&front.page("acme").await));
    assert_eq!((upstream.calls(), upstream.connections()), (2, 2));
    recover(&front, Told::Page).await;
}

/// Four calls share a connection that ends after the first two: those are answered on it, the others on another one.
async fn some_left_out() {
    let slow = vec![Step::Pause(Duration::from_millis(300)), head("200", JSON), last_data(PAGE)];
    let upstream = Upstream::new(certificates::tls(true), vec![], 0).await;
    let front = before(&upstream, &certificates::tls(true), "").await;
    assert!(Told::Page.matches(&front.page("globex").await), "the connection is there");
    let ends = [vec![go_away(Some(5), NO_ERROR)], slow].concat();
    upstream.ail(ends, 1);
    let all = join_all((0..4).map(|number| front.get(number))).await;
    assert!(all.iter().all(|got| Told::Page.matches(got)), "{all:?}");
    // The two that are left out may be on their way already when they are told so.
    assert!((1 + 4..=1 + 4 + 2).contains(&upstream.calls()), "{} calls", upstream.calls());
    // Those that are tried again may connect side by side, as nobody knows yet that one connection would do.
    assert!((2..=3).contains(&upstream.connections()), "{} connections", upstream.connections());
    recover(&front, Told::Failed).await;
}

/// The pool is given up while an answer is on its way: that one comes to its end, and the next call goes out on a new connection.
async fn outlives_its_pool() {
    let slow =
        vec![head("200", LENGTH), data(&PAGE[..20]), Step::Pause(Duration::from_millis(1_500)), last_data(&PAGE[20..])];
    let upstream = Upstream::new(certificates::tls(true), slow, 1).await;
    let front = before(&upstream, &certificates::tls(true), "max_connection_age = '500ms'").await;
    let (slow, next) = tokio::join!(front.get(0), async {
        sleep(Duration::from_millis(700)).await;
        front.get(1).await
    });
    assert!(Told::Page.matches(&slow) && Told::Page.matches(&next), "{slow:?} {next:?}");
    assert_eq!((upstream.calls(), upstream.connections()), (2, 2));
    recover(&front, Told::Failed).await;
}
