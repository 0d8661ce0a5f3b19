//! The upstream breaks off, or says nothing, or too slowly: at every stage of an answer.

use std::time::Duration;

use super::{Case, Fault, Told, before, plain, recover};
use crate::raw::http1::page;
use crate::raw::{Speech, Step, Upstream, pause, say};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 43\r\n\r\n{\"next\":null,";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nd\r\n{\"next\":null,\r\n";

/// Says this, and once it has been read, ends like that.
fn then(said: impl Into<Vec<u8>>, end: Step) -> Vec<Step> {
    vec![say(said), pause(), end]
}

fn slowly(every: u64) -> Step {
    Step::Drip(page().into(), Duration::from_millis(every))
}

pub(crate) fn faults() -> Vec<Fault> {
    let late = |steps: Vec<Step>, settings| plain(steps, Told::Late).set(settings);
    let (headers, progress) = ("headers_timeout = '1s'", "progress_timeout = '1s'");
    vec![
        plain([Step::Close], Told::Page).calls(2).named("closed before an answer, once"),
        plain([Step::Close], Told::Failed).always(3).named("closed before an answer, always"),
        plain([Step::Reset], Told::Page).calls(2).named("reset before an answer, once"),
        plain([Step::Reset], Told::Failed).always(3).named("reset before an answer, always"),
        plain(then("HTTP/1.1 20", Step::Reset), Told::Failed).always(3).named("reset within the status line"),
        plain(then("HTTP/1.1 20", Step::Close), Told::Failed).always(3).named("closed within the status line"),
        plain(then(HEAD, Step::Reset), Told::Failed).always(3).named("reset within the header section"),
        plain(then(HEAD, Step::Close), Told::Page).calls(2).named("closed within the header section, once"),
        plain(then(format!("{HEAD}content-length: 43\r\n\r\n"), Step::Reset), Told::Failed)
            .named("reset after the header section"),
        plain(then(HALF, Step::Reset), Told::Failed).named("reset within the body"),
        plain(then(HALF, Step::Close), Told::Failed).named("cut short of its content-length"),
        plain(then(CHUNKED, Step::Close), Told::Failed).named("cut between two chunks"),
        plain(then(format!("{CHUNKED}ff\r\n\"prev"), Step::Close), Told::Failed).named("cut within a chunk"),
        plain(then(format!("{CHUNKED}1e\r\n\"previous\":null,\"results\":[]}}\r\n"), Step::Close), Told::Failed)
            .named("whole, but for the last chunk"),
        plain(then("HTTP/1.1 200 OK\r\n\r\n{\"next\":null,", Step::Reset), Told::Failed)
            .named("reset in a body that ends with the connection"),
        late(vec![Step::Hold], headers).named("no answer"),
        late(vec![say("HTTP/1.1 200 OK\r\n"), Step::Hold], headers).named("a status line and no more"),
        late(vec![Step::Drip(HEAD.into(), Duration::from_millis(200)), Step::Hold], headers)
            .named("a header section that drips"),
        late(vec![say(format!("{HEAD}content-length: 43\r\n\r\n")), Step::Hold], progress).named("a head and no body"),
        late(vec![say(HALF), Step::Hold], progress).named("half a body and no more"),
        late(vec![say(CHUNKED), Step::Hold], progress).named("a chunk and no more"),
        late(vec![slowly(200)], "timeout = '1s'").named("a steady drip that is longer than the whole call"),
        plain([slowly(5)], Told::Page).named("a steady drip that comes to its end"),
        Fault::new("an idle connection that was closed meanwhile", idle(Step::Close)),
        Fault::new("an idle connection that was reset meanwhile", idle(Step::Reset)),
        Fault::new("several idle connections that are dead", all_dead()),
        failing_each(502).named("502 once"),
        failing_each(503).named("503 once"),
        failing_each(504).named("504 once"),
        plain([say(answer(503))], Told::Status(503)).always(3).named("503 always"),
    ]
}

fn answer(status: u16) -> String {
    format!("HTTP/1.1 {status} Not Now\r\ncontent-length: 2\r\n\r\n{{}}")
}

fn failing_each(status: u16) -> Case {
    plain([say(answer(status))], Told::Page).calls(2)
}

/// The connection goes after its first answer, without a word in it.
async fn idle(end: Step) {
    let upstream = Upstream::new(Speech::Plain, vec![say(page()), pause(), end], 1).await;
    let front = before(&upstream, &Speech::Plain, "").await;
    assert_eq!(front.page("globex").await.status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(Told::Page.matches(&front.page("acme").await));
    assert_eq!((upstream.calls(), upstream.connections()), (2, 2));
    recover(&front, Told::Page).await;
}

/// What keeps four connections forgets them all: one try finds that out, and the next goes out on a new one.
async fn all_dead() {
    let upstream = Upstream::new(Speech::Plain, vec![pause(), pause(), say(page())], 4).await;
    let front = before(&upstream, &Speech::Plain, "retries = 1").await;
    let all = futures_util::future::join_all((0..4).map(|number| front.get(number))).await;
    assert!(all.iter().all(|got| got.status == 200), "{all:?}");
    assert_eq!(upstream.connections(), 4);
    upstream.ail(vec![Step::Reset], 1);
    assert!(Told::Page.matches(&front.page("acme").await));
    assert_eq!((upstream.calls(), upstream.connections()), (6, 5));
    recover(&front, Told::Page).await;
}
