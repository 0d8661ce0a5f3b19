//! What operators see of a running proxy: its state, the stream of it, the page, and who may not look.

use std::path::Path;

use bytes::Bytes;
use http::request::Builder;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::fault::Fault;
use serde_json::Value;

use crate::support::{ACME_TOKEN, API_KEY, Got, SYNC_STATUS, Wire, ask, consumer, merge, method, soon, text, with};

/// A stream of events as it comes.
pub(crate) struct Stream {
    response: Response<Incoming>,
    text: String,
    state: Value,
}

impl Stream {
    pub async fn open(wire: &Wire, path: &str) -> Self {
        Self::ask(Request::get(format!("http://{}{path}", wire.admin))).await
    }

    async fn ask(request: Builder) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = request.body(Empty::<Bytes>::new());
        let response = soon(client.request(request.expect("a request"))).await.expect("an answer");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new(), state: Value::Null }
    }

    /// The next event, as its lines; `None` at the end.
    async fn event(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                return Some(event.trim_end().lines().map(str::to_owned).collect());
            }
            let frame = soon(self.response.body_mut().frame()).await?.expect("no broken connection");
            self.text.push_str(std::str::from_utf8(&frame.into_data().expect("data")).expect("UTF-8"));
        }
    }

    /// Takes in events until the state is such.
    pub async fn until(&mut self, such: impl Fn(&Value) -> bool) -> &Value {
        loop {
            if such(&self.state) {
                return &self.state;
            }
            let lines = self.event().await.expect("the stream goes on");
            let data = lines.iter().find_map(|line| line.strip_prefix("data: ")).expect("data");
            let news: Value = serde_json::from_str(data).expect("JSON");
            let Value::Object(news) = news else { panic!("no object: {news}") };
            for (name, part) in news {
                self.state[name] = part;
            }
        }
    }
}

fn json(got: &Got) -> Value {
    assert_eq!(got.status, 200, "{got:?}");
    serde_json::from_slice(&got.body).expect("JSON")
}

fn row<'a>(state: &'a Value, name: &str) -> &'a Value {
    let rows = state["accounts"]["rows"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter().find(|row| row["name"] == name).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn the_state_shows_accounts_with_their_models_and_names_no_token() {
    let wire = Wire::new().await;
    wire.get(SYNC_STATUS).await;
    wire.send(with(SYNC_STATUS, &[("x-account-token", "raw-canary-token")])).await;
    let got = wire.admin("/api/state?history=true").await;
    let text = String::from_utf8_lossy(&got.body).into_owned();
    for secret in [ACME_TOKEN, API_KEY, "raw-canary-token"] {
        assert!(!text.contains(secret), "{text}");
    }
    let state = json(&got);
    let acme = row(&state, "acme");
    assert_eq!((&acme["condition"], &acme["freshness"], &acme["pages"]), (&"ok".into(), &"fresh".into(), &1.into()));
    assert_eq!(acme["categories"], serde_json::json!(["ats"]));
    let models = acme["models"].as_array().expect("models");
    assert!(models.len() > 1 && models.iter().all(|model| model["status"].is_string()), "{acme}");
    assert_eq!(row(&state, "globex")["condition"], "idle");
    let raw = state["accounts"]["rows"].as_array().expect("rows").iter().find(|row| row["named"] == false);
    let raw = raw.expect("the account without a name");
    let digits = raw["name"].as_str().and_then(|name| name.strip_prefix("raw:")).expect("raw:");
    assert!(digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{raw}");
    assert_eq!((&raw["condition"], &raw["freshness"]), (&"problem".into(), &"refused".into()));
    assert_eq!(state["history"]["every_seconds"], 5);
}

#[tokio::test]
async fn accounts_without_a_name_show_their_last_error_and_never_their_token() {
    let wire = Wire::new().await;
    let ask_as = |token: &'static str| wire.send(with(SYNC_STATUS, &[("x-account-token", token)]));
    wire.merge.set(Fault::Status(500));
    ask_as("raw-canary-of-one").await;
    wire.merge.clear();
    ask_as("raw-canary-of-another").await;
    let state = wire.admin("/api/state").await;
    assert!(!String::from_utf8_lossy(&state.body).contains("canary"));
    let state = json(&state);
    let rows = state["accounts"]["rows"].as_array().expect("rows");
    let raw: Vec<&Value> = rows.iter().filter(|row| row["named"] == false).collect();
    assert_eq!(raw.len(), 2, "{raw:#?}");
    for (pages, error) in [(0, "500"), (1, "does not know the token (401)")] {
        let row = raw.iter().find(|row| row["pages"] == pages).unwrap_or_else(|| panic!("{raw:#?}"));
        assert!(row["name"].as_str().expect("a name").starts_with("raw:"), "{row}");
        assert_eq!((&row["condition"], &row["upstream"]), (&"problem".into(), &"us".into()));
        assert!(row["last_error"]["text"].as_str().expect("a text").contains(error), "{row}");
        let (at, now) = (row["last_error"]["at"].as_u64(), state["proxy"]["time"].as_u64());
        assert!(now.zip(at).is_some_and(|(now, at)| now.abs_diff(at) < 60_000), "{row}");
    }

    let explain = |name: &str| wire.operate(ask(&format!("/api/explain?account={name}&category=ats")));
    let purge = |name: &str| wire.operate(method(Method::DELETE, ask(&format!("/api/cache/accounts/{name}"))));
    for (pages, stored) in [(0, Value::Null), (1, 401.into())] {
        let name = raw.iter().find(|row| row["pages"] == pages).and_then(|row| row["name"].as_str()).expect("a name");
        assert_eq!(json(&explain(name).await)["stored"]["status"], stored);
        assert_eq!(json(&purge(name).await)["purged"], pages);
    }
    for nobody in ["raw:00000000", "raw:", "raw:zzzzzzzz"] {
        assert_eq!(explain(nobody).await.status, 404, "{nobody}");
        assert_eq!(purge(nobody).await.status, 404, "{nobody}");
    }
}

#[tokio::test]
async fn the_stream_shows_what_happens_and_who_asks() {
    let more = consumer("team", "accounts = ['*']\nquota = '2/min'");
    let wire = Wire::with(merge(), &more).await;
    let mut stream = Stream::open(&wire, "/api/events").await;
    let first = stream.event().await.expect("a first event");
    assert_eq!(first[0], "retry: 2000");
    assert!(first[1].starts_with("id: ") && first[2] == "event: state", "{first:?}");
    for _ in 0..3 {
        wire.send(with(SYNC_STATUS, &[("x-account-token", "acme"), ("authorization", "Bearer team")])).await;
    }
    wire.send(with(SYNC_STATUS, &[("authorization", "Bearer somebody-else")])).await;
    // The total is of now, the rate of the last whole second.
    let per_second = |state: &Value| state["now"]["requests_per_second"].as_f64();
    let state = stream.until(|state| state["now"]["requests_total"] == 4 && per_second(state) > Some(0.0)).await;
    let named = |name: &str| {
        let rows = state["consumers"].as_array().expect("rows");
        rows.iter().find(|row| row["name"] == name).expect("a consumer").clone()
    };
    let team = named("team");
    assert_eq!((&team["quota"], &team["calls_total"]), (&"2/min".into(), &1.into()));
    assert_eq!(team["refused"][0]["reason"], "quota-exceeded");
    assert_eq!(named("(no consumer)")["refused"][0]["reason"], "unknown-consumer");
}

#[tokio::test]
async fn failures_and_purges_are_events_and_a_failing_account_comes_first() {
    let wire = Wire::new().await;
    let mut stream = Stream::open(&wire, "/api/events").await;
    wire.merge.set(Fault::Status(500));
    wire.send(with(SYNC_STATUS, &[("x-account-token", "globex")])).await;
    wire.merge.clear();
    wire.operate(method(Method::DELETE, ask("/api/cache/accounts/acme"))).await;
    let kinds = |state: &Value| -> Vec<String> {
        let events = state["events"].as_array().map_or(&[][..], Vec::as_slice);
        events.iter().map(|event| event["kind"].as_str().expect("a kind").to_owned()).collect()
    };
    let both = |state: &Value| {
        let kinds = kinds(state);
        ["upstream-failed", "purge", "lifecycle"].iter().all(|kind| kinds.contains(&(*kind).to_owned()))
            && state["accounts"]["rows"][0]["condition"] == "problem"
    };
    let state = stream.until(both).await;
    assert_eq!(state["accounts"]["rows"][0]["name"], "globex");
    assert!(row(state, "globex")["last_error"]["text"].as_str().expect("a text").contains("500"));
    wire.send(with(SYNC_STATUS, &[("x-account-token", "globex")])).await;
    stream.until(|state| kinds(state).contains(&"recovered".to_owned())).await;
}

#[tokio::test]
async fn an_answer_that_is_no_page_is_a_failure_with_its_reason_everywhere_until_a_good_page_comes() {
    let elsewhere = Fault::Redirect("https://elsewhere.example/".to_owned());
    for (fault, reason) in [
        (Fault::Html, "no usable answer: not JSON"),
        (Fault::BadJson, "no usable answer: not JSON"),
        (Fault::EmptyOk, "no usable answer: not JSON"),
        (elsewhere, "no usable answer: unexpected status 301"),
        (Fault::NoContent, "no usable answer: unexpected status 204"),
        (Fault::NotModifiedUnasked, "no usable answer: unexpected status 304"),
    ] {
        let wire = Wire::new().await;
        let mut stream = Stream::open(&wire, "/api/events").await;
        wire.merge.set(fault);
        assert_eq!(wire.get(SYNC_STATUS).await.status, 502, "{reason}");
        let event = |state: &Value, kind: &str| {
            let events = state["events"].as_array().map_or(&[][..], Vec::as_slice);
            events.iter().find(|event| event["kind"] == kind).map(|event| event["text"].clone())
        };
        let failing =
            |state: &Value| event(state, "upstream-failed").is_some() && row(state, "acme")["because"] == reason;
        let state = stream.until(failing).await;
        assert_eq!(event(state, "upstream-failed"), Some(reason.into()));
        assert_eq!(event(state, "recovered"), None, "{reason}");
        assert_eq!(
            (&row(state, "acme")["condition"], &row(state, "acme")["last_success"]),
            (&"problem".into(), &Value::Null)
        );
        let last = json(&wire.admin("/api/explain?account=acme&category=ats").await)["last_call"].clone();
        assert_eq!((&last["succeeded"], &last["because"]), (&false.into(), &reason.into()));
        let text = String::from_utf8(wire.admin("/metrics").await.body.to_vec()).expect("text");
        let of_acme = r#"{upstream="us",account="acme"}"#;
        assert!(text.contains(&format!("merge_sync_proxy_account_failing{of_acme} 1")), "{text}");
        assert!(!text.contains(&format!("account_last_success_age_seconds{of_acme}")), "{reason}");
        assert!(text.contains(r#"account="acme",reason="miss",status="none""#), "{text}");
        wire.merge.clear();
        assert_eq!(wire.get(SYNC_STATUS).await.status, 200);
        let state = stream.until(|state| event(state, "recovered").is_some()).await;
        assert_eq!(event(state, "recovered"), Some("Merge answers again".into()));
        let last = json(&wire.admin("/api/explain?account=acme&category=ats").await)["last_call"].clone();
        assert_eq!((&last["succeeded"], &last["because"]), (&true.into(), &Value::Null));
    }
}

#[tokio::test]
async fn a_stream_shows_the_accounts_that_were_asked_for_and_ends_with_the_proxy() {
    let mut wire = Wire::new().await;
    let mut stream = Stream::open(&wire, "/api/events?filter=glob&sort=name").await;
    let state = stream.until(|state| state["accounts"].is_object()).await;
    assert_eq!((&state["accounts"]["matching"], &state["accounts"]["total"]), (&1.into(), &2.into()));
    assert_eq!(state["accounts"]["rows"][0]["name"], "globex");
    for wrong in ["/api/events?sort=beauty", "/api/state?offset=many"] {
        assert_eq!(wire.admin(wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(soon(wire.drained()).await.cut, 0);
    let mut last = Vec::new();
    while let Some(event) = stream.event().await {
        last = event;
    }
    assert_eq!(last[0], "event: end");
}

#[tokio::test]
async fn a_parameter_that_is_misspelt_or_has_another_value_is_refused_and_does_nothing() {
    let wire = Wire::new().await;
    wire.get(SYNC_STATUS).await;
    for (verb, target, allowed) in [
        (Method::DELETE, "/api/cache?hrad=true", "hard"),
        (Method::DELETE, "/api/cache?hard=yes", "true or false"),
        (Method::DELETE, "/api/cache/accounts/acme?hard=1", "true or false"),
        (Method::DELETE, "/api/cache/accounts/acme?hard=true&hard=false", "once"),
        (Method::GET, "/api/state?lmit=1", "filter, sort, order, offset, limit, history"),
        (Method::GET, "/api/state?history=yes", "true or false"),
        (Method::GET, "/api/state?limit=few", "whole number"),
        (Method::GET, "/api/events?order=up", "asc or desc"),
        (Method::GET, "/api/explain?account=acme&category=ats&qurey=x", "account, category, query"),
        (Method::POST, "/api/reload?dry_run=true", "none"),
    ] {
        let refused = wire.operate(method(verb, ask(target))).await;
        assert_eq!(refused.status, 400, "{target}");
        let told: Value = serde_json::from_slice(&refused.body).expect("JSON");
        assert!(told["error"].as_str().expect("words").contains(allowed), "{told}");
    }
    assert!(wire.get(SYNC_STATUS).await.cache().starts_with("hit"), "nothing was purged");
    assert_eq!(wire.admin("/livez?from=balancer").await.status, 200);
}

#[tokio::test]
async fn two_thousand_accounts_make_a_small_stream() {
    let account = |n| format!("[[accounts]]\nname = 'fleet-{n:04}'\ntoken = 'token-of-{n}'\n");
    let wire = Wire::with(merge(), &(0..2_000).map(account).collect::<String>()).await;
    let mut stream = Stream::open(&wire, "/api/events").await;
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let event = stream.event().await.expect("an event");
        sizes.push(event.iter().map(String::len).sum::<usize>());
    }
    assert!(sizes[0] < 64_000, "{sizes:?}");
    assert!(sizes[2] < 4_000, "what has not changed is not sent again: {sizes:?}");
    let last = json(&wire.admin("/api/state?sort=name&offset=1999&limit=10").await);
    let names: Vec<&str> =
        last["accounts"]["rows"].as_array().expect("rows").iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["fleet-1998", "fleet-1999", "globex"]);
    assert_eq!((&last["accounts"]["total"], &last["accounts"]["offset"]), (&2_002.into(), &1_999.into()));
}

#[tokio::test]
async fn the_page_asks_nobody_else_for_anything() {
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    for (path, media_type) in [
        ("/", "text/html"),
        ("/status.css", "text/css"),
        ("/status.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let file = wire.admin(path).await;
        assert_eq!(file.status, 200, "{path}");
        assert!(file.header("content-type").starts_with(media_type), "{path}");
        let policy = file.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = String::from_utf8_lossy(&file.body);
        let foreign = text.split("://").skip(1).filter(|rest| !rest.starts_with("www.w3.org/")).count();
        assert!(!text.is_empty() && foreign == 0, "{path} names another place");
    }
    assert_eq!(wire.admin("/api/state").await.status, 401);
    assert_eq!(wire.admin("/api/events").await.status, 401);
    let shown = wire.operate(with("/api/state", &[("authorization", "Bearer let-me-in")])).await;
    assert_eq!(shown.status, 200);
}

#[tokio::test]
async fn other_sites_and_other_names_get_nothing() {
    let wire = Wire::new().await;
    let purge = |headers: &[(&str, &str)]| wire.operate(method(Method::DELETE, with("/api/cache", headers)));
    assert_eq!(purge(&[("sec-fetch-site", "same-origin")]).await.status, 200);
    assert_eq!(purge(&[("sec-fetch-site", "cross-site")]).await.status, 403);
    assert_eq!(purge(&[("origin", "https://other.example")]).await.status, 403);
    let read = wire.operate(with("/api/state", &[("sec-fetch-site", "cross-site")])).await;
    assert_eq!(read.status, 403);
    for path in ["/", "/api/state", "/api/explain?account=acme&category=ats"] {
        let rebound = wire.operate(with(path, &[("host", "other.example:8081")])).await;
        assert_eq!(rebound.status, 421, "{path}");
    }
    assert_eq!(wire.operate(with("/livez", &[("host", "other.example:8081")])).await.status, 200);
    let guarded = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    let headers = [("host", "admin.example"), ("authorization", "Bearer let-me-in")];
    assert_eq!(guarded.operate(with("/api/state", &headers)).await.status, 200);
}

#[tokio::test]
async fn who_watches_with_a_token_that_is_none_any_more_sees_no_more() {
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    let changed = |hasher: &_| {
        let text = text("http://merge.test", "token = 'another'", "");
        Config::parse(&text, Path::new("test.toml"), &|_| None, hasher)
    };
    wire.app.reads(Box::new(changed));
    let request = Request::get(format!("http://{}/api/events", wire.admin));
    let mut stream = Stream::ask(request.header("authorization", "Bearer let-me-in")).await;
    let first = stream.until(|state| !state["proxy"].is_null()).await["proxy"]["time"].clone();
    stream.until(|state| state["proxy"]["time"] != first).await;
    wire.app.reload(Cause::Operator).unwrap_or_else(|faults| panic!("{faults}"));
    soon(async { while stream.event().await.is_some() {} }).await;
}
