//! What the cache holds for one question, and what the next request for it would get.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::alarms::failure;
use crate::cache::freshness::{self, Decision};
use crate::domain::cache_control::Wants;
use crate::domain::exchange::{Forward, Why};
use crate::domain::key::PageKey;
use crate::domain::lifetime::Freshness;
use crate::domain::page::{Kind, Page};
use crate::domain::problem::Problem;
use crate::domain::rules::CacheRule;
use crate::metrics::numbers::LastCalls;
use crate::upstream::obstacle::Obstacle;

/// What an explanation is made of.
#[derive(Debug)]
pub struct Known<'a> {
    /// The page that is stored.
    pub page: Option<Arc<Page>>,
    /// What the door makes of such a request.
    pub refusal: Option<&'a Problem>,
    /// The rule of its route.
    pub rule: CacheRule,
    /// What stands in the way of a call.
    pub obstacle: Option<Obstacle>,
    /// How the last calls for the account went.
    pub last: Option<LastCalls>,
}

/// The explanation for `key` as JSON.
pub fn explain(key: &PageKey, known: Known<'_>, now: Instant) -> Value {
    let Known { page, refusal, rule, obstacle, last } = known;
    let stored = page.as_deref().map(|page| describe(page, now));
    json!({
        "key": {
            "upstream": &*key.upstream,
            "account": key.account.to_string(),
            "route": &*key.place.route,
            "path": &*key.place.path,
            "query": key.query.as_str(),
        },
        "stored": stored,
        "next_request": match (refusal, rule) {
            (Some(problem), _) => json!({ "would": "refused", "because": problem.row().detail }),
            (None, CacheRule::Off) => json!({ "would": "bypass", "because": "its route has cache = \"off\"" }),
            (None, CacheRule::Http) => json!({ "would": "depend", "because": HEADERS_DECIDE }),
            (None, CacheRule::SyncStatus | CacheRule::Fixed(_)) => next(freshness::decide(page, &Wants::default(), now)),
        },
        "last_call": last.as_ref().and_then(last_call),
        "calls": { "may_go": obstacle.is_none(), "because": obstacle.map(|obstacle| obstacle.told(now)) },
    })
}

/// How the last call for the account went, whatever page it was for.
fn last_call(last: &LastCalls) -> Option<Value> {
    let (failed, ago) = match (&last.error, &last.success) {
        (Some(error), _) if last.is_failing => (Some(failure(error.ended)), error.ago),
        (_, Some((ago, _))) => (None, *ago),
        _ => return None,
    };
    Some(json!({ "succeeded": failed.is_none(), "because": failed, "seconds_ago": ago.as_secs_f64() }))
}

fn describe(page: &Page, now: Instant) -> Value {
    let seconds = |duration: Duration| duration.as_secs_f64();
    let (state, since) = match page.freshness(now) {
        Freshness::Fresh { ttl } => ("fresh", -seconds(ttl)),
        Freshness::Revalidate { since } => ("stale, served while it is fetched anew", seconds(since)),
        Freshness::IfError { since } => ("stale, served only if Merge fails", seconds(since)),
        Freshness::Unusable => ("too old to be served", seconds(page.age(now).saturating_sub(page.lifetime.fresh))),
    };
    json!({
        "status": page.status.as_u16(),
        "kind": if page.kind == Kind::Negative { "remembered refusal" } else { "page" },
        "bytes": page.body.len(),
        "etag": page.etag.to_str().ok(),
        "age_seconds": seconds(page.age(now)),
        "state": state,
        "stale_for_seconds": since,
        "lifetime_seconds": seconds(page.lifetime.fresh),
        "while_revalidate_seconds": seconds(page.lifetime.while_revalidate),
        "if_error_seconds": seconds(page.lifetime.if_error),
        "purged": page.is_purged(now),
        "waits_after_failure": page.is_set_back(now),
    })
}

/// Why it cannot be told for a route with `cache = "http"`, where an answer depends on more of its request than can be asked about.
const HEADERS_DECIDE: &str =
    "its route has cache = \"http\": headers of the request and of the upstream's answers decide";

fn next(decision: Decision) -> Value {
    let (would, reason) = match decision {
        Decision::Hit(page, _) if page.kind == Kind::Negative => {
            ("hit", "Merge refused a moment ago, and that is remembered")
        }
        Decision::Hit(..) => ("hit", "the page is fresh"),
        Decision::Stale(_, Why::Revalidating) => ("stale", "the page is served once more while it is fetched anew"),
        Decision::Stale(_, Why::UpstreamError) => ("stale", "Merge failed, and the next try is not due yet"),
        Decision::Stale(_, Why::Accepted) => ("stale", "the client accepts it"),
        Decision::Fetch(Forward::UriMiss, _) => ("miss", "nothing is stored under this key"),
        Decision::Fetch(Forward::Stale, _) => ("miss", "what is stored is too old or was purged"),
        // The rest is for requests that ask for more than this one, or that pass through.
        Decision::Fetch(..) | Decision::NotCached => ("miss", "the client asks past the cache"),
    };
    json!({ "would": would, "because": reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::AccountHash;
    use crate::domain::key::{CanonicalQuery, KeyParts, Place};
    use crate::domain::page::tests::page;
    use crate::upstream::obstacle;

    #[test]
    fn it_says_what_is_there_and_what_would_happen() {
        let place = Arc::new(Place { route: "/r".into(), path: "/r".into() });
        let query = CanonicalQuery::default();
        let key = PageKey::new(KeyParts { upstream: "us".into(), account: AccountHash([9; 16]), place, query });
        let now = Instant::now();
        let nothing = |rule| Known { page: None, refusal: None, rule, obstacle: None, last: None };
        let empty = explain(&key, nothing(CacheRule::SyncStatus), now);
        assert_eq!((&empty["stored"], &empty["next_request"]["would"]), (&Value::Null, &json!("miss")));
        assert_eq!(empty["key"]["account"], "09090909");
        let held = Arc::new(page("{}", now, [5, 30, 3600]));
        let stored = || Known { page: Some(held.clone()), ..nothing(CacheRule::SyncStatus) };
        let at = |seconds| explain(&key, stored(), now + Duration::from_secs(seconds));
        assert_eq!(at(1)["next_request"]["would"], "hit");
        assert_eq!(at(1)["stored"]["stale_for_seconds"], -4.0);
        assert_eq!(at(6)["next_request"]["would"], "stale");
        assert_eq!(at(60)["next_request"]["would"], "miss");
        assert_eq!(at(60)["stored"]["state"], "stale, served only if Merge fails");
        assert_eq!(at(1)["calls"], json!({ "may_go": true, "because": null }));
        for (rule, would) in [(CacheRule::Off, "bypass"), (CacheRule::Http, "depend")] {
            assert_eq!(explain(&key, nothing(rule), now)["next_request"]["would"], would);
        }
        let wrong = Problem::InvalidRequest("'page_size' is wrong.".into());
        let paused = Obstacle::until(obstacle::Kind::Pause, now + Duration::from_millis(8_100));
        let known = Known { refusal: Some(&wrong), obstacle: Some(paused), ..stored() };
        let refused = explain(&key, known, now);
        assert_eq!(refused["next_request"], json!({ "would": "refused", "because": "'page_size' is wrong." }));
        assert_eq!(
            refused["calls"],
            json!({ "may_go": false, "because": "Merge has asked for a pause; the next may go in 9 s" })
        );
    }
}
