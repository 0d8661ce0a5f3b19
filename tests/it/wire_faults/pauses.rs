//! 429, with `Retry-After` in every form: that account is left alone for as long, and nobody else.

use super::{Fault, Told, before};
use crate::raw::http1::whole;
use crate::raw::{Speech, Upstream, say};

pub(crate) fn faults() -> Vec<Fault> {
    let now = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let dated = |form: &str| format!("{now}retry-after: {form}\r\n");
    let plain = |form: &str| format!("retry-after: {form}\r\n");
    vec![
        pauses("429 for some seconds", &plain("7"), 7..=7),
        pauses("429 for a second and a bit", &plain("1.5"), 1..=2),
        pauses("429 for no second at all", &plain("0"), 1..=1),
        pauses("429 for longer than anyone would wait", &plain("999999"), 600..=600),
        pauses("429 for more seconds than there are", &plain("99999999999999999999999"), 600..=600),
        pauses("429 until a date", &dated("Sun, 06 Nov 1994 08:50:07 GMT"), 30..=30),
        pauses("429 until a date of RFC 850", &dated("Sunday, 06-Nov-94 08:50:07 GMT"), 30..=30),
        pauses("429 until a date of asctime", &dated("Sun Nov  6 08:50:07 1994"), 30..=30),
        pauses("429 until a date that is over", &dated("Sun, 06 Nov 1994 08:00:00 GMT"), 1..=1),
        pauses("429 by a clock that is fast", &skewed(3600), 30..=30),
        pauses("429 by a clock that is slow", &skewed(-3600), 30..=30),
        pauses("429 without a word", "", 1..=2),
        pauses("429 for a negative time", &plain("-5"), 1..=2),
        pauses("429 for a while", &plain("a while"), 1..=2),
        pauses("429 for seconds in exponent form", &plain("1e3"), 1..=2),
        pauses("429 for nothing", &plain(""), 1..=2),
    ]
}

/// Half a minute by an upstream whose clock is so many seconds off.
fn skewed(seconds: i64) -> String {
    let now = std::time::SystemTime::now();
    let skew = std::time::Duration::from_secs(seconds.unsigned_abs());
    let clock = if seconds < 0 { now - skew } else { now + skew };
    let until = clock + std::time::Duration::from_secs(30);
    format!("date: {}\r\nretry-after: {}\r\n", httpdate::fmt_http_date(clock), httpdate::fmt_http_date(until))
}

fn pauses(name: &'static str, fields: &str, pause: std::ops::RangeInclusive<u64>) -> Fault {
    let steps = vec![say(whole("429 Too Many Requests", fields, "{\"detail\":\"throttled\"}"))];
    Fault::new(name, async move {
        let upstream = Upstream::new(Speech::Plain, steps, 1).await;
        let front = before(&upstream, &Speech::Plain, "").await;
        let got = front.page("acme").await;
        assert!(Told::Status(429).matches(&got) && got.body == "{\"detail\":\"throttled\"}", "{got:?}");
        assert!(pause.contains(&got.number("retry-after")), "{pause:?}: {got:?}");
        if *pause.start() > 2 {
            let again = front.page("acme").await;
            assert_eq!((again.status.as_u16(), &*again.problem()), (429, "budget-exhausted"));
            // Some of it may have gone by.
            assert!((pause.start() - 2..=*pause.end()).contains(&again.number("retry-after")), "{pause:?}: {again:?}");
            assert_eq!(upstream.calls(), 1);
        }
        assert!(Told::Page.matches(&front.page("globex").await), "the other account goes on");
        assert!(front.page("globex").await.cache().starts_with("hit"));
        front.idle().await;
    })
}
