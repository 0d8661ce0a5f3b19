//! The text of `Cache-Status` (RFC 9211) for every way in which an answer can come about.

use std::fmt::{Display, Write};
use std::time::Duration;

use http::HeaderValue;

use super::prepared::Prepared;
use crate::domain::exchange::{Answer, Forward, Served, Why};
use crate::domain::page::Page;
use crate::domain::problem::Row;

/// How this cache calls itself.
const NAME: &str = "merge-sync-proxy";

/// The values of plain hits, by the seconds of a lifetime up to an hour.
static HITS: Prepared<3601> = Prepared::new(|ttl| hit(ttl, ""));

/// The value for a page.
pub fn value(answer: &Answer) -> HeaderValue {
    of(answer.served, ttl(&answer.page, answer), answer.refresh_limited)
}

/// The value for an answer that lives for `ttl` more seconds. There is room for one detail; that a refresh was not granted comes
/// first, as only the client that asked for it is told.
pub fn of(served: Served, ttl: i64, refresh_limited: bool) -> HeaderValue {
    let limited = if refresh_limited { "; detail=refresh-limited" } else { "" };
    let detail = |own: &'static str| if limited.is_empty() { own } else { limited };
    match served {
        Served::Hit => match u64::try_from(ttl) {
            Ok(ttl) if !refresh_limited => HITS.get(ttl),
            _ => parse(hit(ttl, limited)),
        },
        Served::Negative => parse(hit(ttl, detail("; detail=negative"))),
        Served::Stale(Why::Revalidating) => parse(hit(ttl, detail("; detail=revalidating"))),
        Served::Stale(Why::UpstreamError) => parse(hit(ttl, detail("; detail=upstream-error"))),
        Served::Stale(Why::Accepted) => parse(hit(ttl, limited)),
        Served::Fetched { forward, status, stored } => {
            let mut text = format!("{NAME}; fwd={}; fwd-status={}", token(forward), status.as_u16());
            if stored {
                // Writing to a String cannot fail.
                let _ = write!(text, "; stored; ttl={ttl}");
            }
            text.push_str(limited);
            parse(text)
        }
        Served::Collapsed { forward } => parse(format!("{NAME}; fwd={}; collapsed{limited}", token(forward))),
    }
}

/// The value for a request that got no page.
pub fn of_problem(row: &Row) -> HeaderValue {
    parse(format!("{NAME}; detail={}", row.slug))
}

/// The value for a webhook, which is not for a page.
pub fn of_delivery() -> HeaderValue {
    parse(format!("{NAME}; detail=webhook"))
}

/// What is left of the lifetime, in whole seconds: what `Cache-Control` says less what `Age` says, so that the three fields of an
/// answer agree. Negative once the lifetime is over (RFC 9211 §2.4); of a purged page nothing is left.
fn ttl(page: &Page, answer: &Answer) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let left = seconds(page.lifetime.fresh) - seconds(answer.age);
    if page.is_purged(answer.now) { left.min(0) } else { left }
}

fn hit(ttl: impl Display, detail: &str) -> String {
    format!("{NAME}; hit; ttl={ttl}{detail}")
}

fn token(forward: Forward) -> &'static str {
    match forward {
        Forward::UriMiss => "uri-miss",
        Forward::Stale => "stale",
        Forward::Request => "request",
        Forward::VaryMiss => "vary-miss",
        Forward::Method => "method",
        Forward::Bypass => "bypass",
    }
}

fn parse(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("names, digits and punctuation are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::page::tests::page;
    use http::StatusCode;
    use std::sync::Arc;
    use tokio::time::Instant;

    fn text(served: Served, age: u64) -> String {
        let began = Instant::now();
        let page = Arc::new(page("{}", began, [30, 0, 3600]));
        let now = began + Duration::from_secs(age) + Duration::from_millis(1);
        let answer = Answer::new(page, served, now, false);
        value(&answer).to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn every_way_has_its_text() {
        let fetched = |forward, status, stored| Served::Fetched { forward, status, stored };
        for (served, age, expected) in [
            (Served::Hit, 2, "hit; ttl=28"),
            (Served::Hit, 29, "hit; ttl=1"),
            (Served::Negative, 0, "hit; ttl=30; detail=negative"),
            (Served::Stale(Why::Revalidating), 33, "hit; ttl=-3; detail=revalidating"),
            (Served::Stale(Why::UpstreamError), 120, "hit; ttl=-90; detail=upstream-error"),
            (Served::Stale(Why::Accepted), 30, "hit; ttl=0"),
            (fetched(Forward::UriMiss, StatusCode::OK, true), 0, "fwd=uri-miss; fwd-status=200; stored; ttl=30"),
            (fetched(Forward::Stale, StatusCode::NOT_MODIFIED, true), 0, "fwd=stale; fwd-status=304; stored; ttl=30"),
            (fetched(Forward::Request, StatusCode::BAD_GATEWAY, false), 0, "fwd=request; fwd-status=502"),
            (fetched(Forward::VaryMiss, StatusCode::OK, true), 0, "fwd=vary-miss; fwd-status=200; stored; ttl=30"),
            (fetched(Forward::Method, StatusCode::CREATED, false), 0, "fwd=method; fwd-status=201"),
            (fetched(Forward::Bypass, StatusCode::FOUND, false), 0, "fwd=bypass; fwd-status=302"),
            (Served::Collapsed { forward: Forward::UriMiss }, 0, "fwd=uri-miss; collapsed"),
        ] {
            assert_eq!(text(served, age), format!("merge-sync-proxy; {expected}"));
        }
    }

    #[test]
    fn a_refused_refresh_is_told() {
        let now = Instant::now();
        let page = Arc::new(page("{}", now, [30, 0, 0]));
        for served in [Served::Hit, Served::Negative, Served::Stale(Why::Revalidating), Served::Stale(Why::Accepted)] {
            let answer = Answer::new(page.clone(), served, now, true);
            assert_eq!(value(&answer), "merge-sync-proxy; hit; ttl=30; detail=refresh-limited");
        }
    }

    #[test]
    fn of_a_purged_page_nothing_is_left() {
        let now = Instant::now();
        let page = Arc::new(page("{}", now, [30, 0, 3600]));
        page.purge(now);
        let answer = Answer::new(page, Served::Stale(Why::UpstreamError), now, false);
        assert_eq!(value(&answer), "merge-sync-proxy; hit; ttl=0; detail=upstream-error");
    }
}
