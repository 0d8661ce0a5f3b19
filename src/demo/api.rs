//! Merge's side of the wire: which paths there are, who may call them, and what they say.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH, LAST_MODIFIED};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::answer::Answer;
use super::dice;
use super::limits::{Standing, Window};
use super::merge::{Inner, Linked, Switches};
use super::models::{CATEGORIES, ModelState, Status};
use super::page::PageQuery;

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    SyncStatus,
    Resync,
    AccountDetails,
}

/// A call that was let in.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The account's place in the list.
    linked: usize,
    category: &'static str,
    view: View,
    standing: Option<Standing>,
}

/// `/api/{category}/v1/…`, and no other form.
fn route(path: &str) -> Option<(&'static str, View)> {
    let (category, rest) = path.strip_prefix("/api/")?.split_once('/')?;
    let view = match rest {
        "v1/sync-status" => View::SyncStatus,
        "v1/sync-status/resync" => View::Resync,
        "v1/account-details" => View::AccountDetails,
        _ => return None,
    };
    CATEGORIES.into_iter().find(|known| *known == category).map(|category| (category, view))
}

impl Inner {
    /// The account whose token the call carries, whether it may be used or not.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Option<usize> {
        let token = headers.get("x-account-token")?;
        self.linked.iter().position(|linked| linked.account.token.as_bytes() == token.as_bytes())
    }

    /// Decides on arrival who gets in; every limit is spent here.
    pub(crate) fn admit(&self, head: &Parts) -> Result<Visit, Box<Answer>> {
        let now = self.clock.now();
        let refuse = |status, detail| Err(Box::new(Answer::refusal(status, detail, now)));
        let arrival = Instant::now();
        if let Some(wait) = self.failures.lock().blocked(arrival) {
            return Err(Box::new(Answer::throttled(wait, now)));
        }
        let Some((category, view)) = route(head.uri.path()) else {
            return refuse(StatusCode::NOT_FOUND, "Not found.");
        };
        let (allowed, allow): (&[Method], _) = match view {
            View::Resync => (&[Method::POST], "POST, OPTIONS"),
            View::SyncStatus | View::AccountDetails => (&[Method::GET, Method::HEAD], "GET, HEAD, OPTIONS"),
        };
        if !allowed.contains(&head.method) {
            return Err(Box::new(Answer::method_not_allowed(&head.method, allow, now)));
        }
        let key = head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if key.and_then(|key| key.strip_prefix(b"Bearer ")) != Some(self.api_key.as_bytes()) {
            return refuse(StatusCode::UNAUTHORIZED, "Invalid API key.");
        }
        if !head.headers.contains_key("x-account-token") {
            let detail = "Account Token must be passed in as an X-Account-Token header.";
            return refuse(StatusCode::UNAUTHORIZED, detail);
        }
        let place = self.caller(&head.headers).filter(|place| !self.linked[*place].state.lock().revoked);
        let Some(place) = place else {
            return refuse(StatusCode::UNAUTHORIZED, "Invalid account token.");
        };
        let linked = &self.linked[place];
        let standing = match linked.window.as_ref().map(|window: &Mutex<Window>| window.lock().take(arrival)) {
            Some(Err(standing)) => {
                let mut answer = Answer::throttled(standing.reset, now);
                if Switches::is_on(&self.switches.rate_headers) {
                    answer.quote(standing);
                }
                return Err(Box::new(answer));
            }
            Some(Ok(standing)) => Some(standing),
            None => None,
        };
        if category != linked.account.category && !linked.state.lock().pages.contains_key(category) {
            return refuse(StatusCode::FORBIDDEN, "This linked account does not belong to this category.");
        }
        Ok(Visit { linked: place, category, view, standing })
    }

    /// Says what the call is to be told at this moment.
    pub(crate) fn view(&self, visit: &Visit, head: &Parts) -> Answer {
        let now = self.clock.now();
        let linked = &self.linked[visit.linked];
        let mut answer = match visit.view {
            View::SyncStatus => self.sync_status(linked, visit.category, head, now),
            View::Resync => {
                linked.state.lock().schedule.start_sync(now);
                let states = linked.states(now);
                Answer::good(serde_json::to_vec(&states).expect("states are plain JSON"), now)
            }
            View::AccountDetails => Answer::good(details(linked).to_string(), now),
        };
        if let Some(standing) = visit.standing.filter(|_| Switches::is_on(&self.switches.rate_headers)) {
            answer.quote(standing);
        }
        answer
    }

    fn sync_status(&self, linked: &Linked, category: &str, head: &Parts, now: SystemTime) -> Answer {
        let fixed = linked.state.lock().pages.get(category).cloned();
        let (body, modified) = if let Some(body) = fixed {
            (body, self.clock.start())
        } else {
            let account = &*linked.account.name;
            let page = match PageQuery::read(head.uri.query(), account) {
                Ok(page) => page,
                Err(why) => return Answer::invalid(why, now),
            };
            let states = linked.states(now);
            let modified = states.iter().flat_map(|state| [state.last_sync_start, state.last_sync_finished]);
            let modified = modified.flatten().max().unwrap_or(self.clock.start());
            (page.write(&states, account), modified)
        };
        if !Switches::is_on(&self.switches.etags) {
            return Answer::good(body, now);
        }
        let etag = format!("\"{:016x}\"", dice::seed(&body));
        let answer = if matches(&head.headers, &etag) {
            Answer::bodiless(StatusCode::NOT_MODIFIED, now)
        } else {
            Answer::good(body, now)
        };
        answer.with(ETAG, etag).with(LAST_MODIFIED, httpdate::fmt_http_date(modified))
    }
}

impl Linked {
    /// The account's models as of now, with what a test has laid down over them.
    pub(crate) fn states(&self, now: SystemTime) -> Vec<ModelState> {
        let linked = self.state.lock();
        let mut states = linked.schedule.states(&self.account.models, now);
        for state in &mut states {
            if let Some(status) = linked.statuses.get(&state.model_id) {
                state.status = *status;
                state.sync_status_reason = state.sync_status_reason.filter(|_| *status == Status::Syncing);
            }
        }
        states
    }
}

/// The minimum of account-details that callers use to map ids to tokens.
fn details(linked: &Linked) -> serde_json::Value {
    let account = &linked.account;
    json!({
        "id": account.id().to_string(),
        "integration": account.integration,
        "integration_slug": account.integration.to_lowercase(),
        "category": account.category,
        "end_user_origin_id": account.name,
        "end_user_organization_name": account.name,
        "end_user_email_address": format!("admin@{}.example", account.name),
        "status": "COMPLETE",
        "webhook_listener_url": null,
        "is_duplicate": false,
        "account_type": "PRODUCTION",
    })
}

/// `If-None-Match`, compared weakly.
fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let fields = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    fields
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_api_form_of_a_known_category_is_served() {
        assert_eq!(route("/api/ats/v1/sync-status"), Some(("ats", View::SyncStatus)));
        assert_eq!(route("/api/crm/v1/sync-status/resync"), Some(("crm", View::Resync)));
        for path in ["/ats/v1/sync-status", "/api/ats/v1/sync-status/", "/api/x/v1/sync-status", "/api//v1/sync-status"]
        {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
