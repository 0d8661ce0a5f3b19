//! Why calls to Merge fail, told in words: a warning for each upstream and cause, once a minute with how many there have been, so that
//! an outage is plain to see and fills no disk. All others are told at the level `debug`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::access::Name;
use crate::domain::exchange::Target;
use crate::domain::problem::Problem;

/// A call that brought nothing of use.
#[derive(Debug)]
pub struct Failed {
    /// What its caller is told.
    pub problem: Problem,
    /// What the log is told; nothing if it is the caller's own fault.
    pub why: Option<Why>,
}

impl Failed {
    /// One that comes to `problem`, for this reason.
    pub fn new(problem: Problem, kind: &'static str, detail: Option<String>) -> Self {
        Self { problem, why: Some(Why { kind, detail }) }
    }
}

impl From<Problem> for Failed {
    /// One of which no more is known.
    fn from(problem: Problem) -> Self {
        let why = match &problem {
            Problem::UpstreamTimeout => Some(("no answer in time", None)),
            Problem::UpstreamFailed(cause) => Some(("no answer of use", Some(cause.to_string()))),
            _ => None,
        };
        Self { problem, why: why.map(|(kind, detail)| Why { kind, detail }) }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// One of a closed list.
    kind: &'static str,
    /// What else is known.
    detail: Option<String>,
}

impl Why {
    /// Of this kind.
    pub fn new(kind: &'static str, detail: Option<String>) -> Self {
        Self { kind, detail }
    }

    /// It in words.
    pub fn text(&self) -> String {
        self.detail.as_ref().map_or_else(|| self.kind.to_owned(), |detail| format!("{}: {detail}", self.kind))
    }
}

/// What an answer of this status says of the upstream, if that is nothing good. What else is refused may be the caller's own fault.
pub fn of_status(status: StatusCode) -> Option<Why> {
    let kind = match status.as_u16() {
        401 => "status 401: it does not accept the API key or the account's token",
        403 => "status 403: it does not allow this API key or account",
        429 => "status 429: more calls than it allows",
        500 => "status 500",
        502 => "status 502",
        503 => "status 503",
        504 => "status 504",
        505.. | 501 => "a status of failure",
        _ => return None,
    };
    Some(Why::new(kind, (kind == "a status of failure").then(|| status.as_u16().to_string())))
}

/// How long nothing more is said of the same cause.
const QUIET: Duration = Duration::from_secs(60);

/// What has been told. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Troubles(Arc<Mutex<ByCause>>);

/// By upstream and kind of cause: there are few of both.
type ByCause = HashMap<(Name, &'static str), Told, RandomState>;

struct Told {
    at: Instant,
    /// How many calls have failed like this since then.
    since: u64,
}

impl Troubles {
    /// Tells why a call for `target` failed.
    pub fn tell(&self, target: &Target, why: &Why) {
        let upstream = &target.upstream.name;
        let (account, cause) = (target.account.audit_label(), why.text());
        if let Some(times) = self.due(upstream, why.kind, Instant::now()) {
            tracing::warn!(%upstream, account, cause, times, "a call to upstream {upstream} failed: {cause}");
        } else {
            tracing::debug!(%upstream, account, cause, "a call to upstream {upstream} failed: {cause}");
        }
    }

    /// How many calls have failed like this since it was told, if it is to be told again.
    fn due(&self, upstream: &Name, kind: &'static str, now: Instant) -> Option<u64> {
        let mut all = self.0.lock();
        let Some(told) = all.get_mut(&(upstream.clone(), kind)) else {
            all.insert((upstream.clone(), kind), Told { at: now, since: 0 });
            return Some(1);
        };
        told.since += 1;
        if now < told.at + QUIET {
            return None;
        }
        told.at = now;
        Some(std::mem::take(&mut told.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_upstream_and_cause_is_told_at_once_and_then_once_a_minute_with_how_many() {
        let (troubles, now) = (Troubles::default(), Instant::now());
        let [us, eu]: [Name; 2] = ["us".into(), "eu".into()];
        assert_eq!(troubles.due(&us, "one", now), Some(1));
        assert_eq!(troubles.due(&us, "other", now), Some(1));
        assert_eq!(troubles.due(&eu, "one", now), Some(1));
        for second in 1..60 {
            assert_eq!(troubles.due(&us, "one", now + Duration::from_secs(second)), None);
        }
        assert_eq!(troubles.due(&us, "one", now + QUIET), Some(60));
        assert_eq!(troubles.due(&us, "one", now + QUIET), None);
        assert_eq!(troubles.due(&us, "one", now + QUIET * 2), Some(2));
    }

    #[test]
    fn only_statuses_that_somebody_has_to_see_to_are_told() {
        let text = |status: u16| of_status(StatusCode::from_u16(status).expect("a status")).map(|why| why.text());
        assert!([200, 304, 400, 404, 422].into_iter().all(|status| text(status).is_none()));
        assert_eq!(text(500).as_deref(), Some("status 500"));
        assert_eq!(text(599).as_deref(), Some("a status of failure: 599"));
        assert!([401, 403, 429].into_iter().all(|status| text(status).is_some()));
    }
}
