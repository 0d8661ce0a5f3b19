//! Views: who may see what, pages and cursors, syncs by hand, validators.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use merge_sync_proxy::demo::models::{Status, standard};
use merge_sync_proxy::demo::page::{escape, sync_page};
use serde_json::Value;

use super::*;

fn json(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body()).expect("JSON")
}

fn statuses(page: &Value) -> BTreeSet<&str> {
    let results = page["results"].as_array().expect("results");
    results.iter().map(|model| model["status"].as_str().expect("a status")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_walk_along_the_cursors_sees_every_model_once() {
    let merge = builder().build();
    let mut seen = Vec::new();
    let mut backwards = Vec::new();
    let mut target = format!("{SYNC_STATUS}?page_size=5");
    loop {
        let page = json(&get(&merge, &target).await);
        let models = page["results"].as_array().expect("results");
        seen.extend(models.iter().map(|model| model["model_id"].as_str().expect("an id").to_owned()));
        backwards.push(page["previous"].clone());
        let Some(next) = page["next"].as_str() else { break };
        target = format!("{SYNC_STATUS}?page_size=5&cursor={}", escape(next));
    }
    assert_eq!(seen, standard("ats").into_iter().map(|model| model.id).collect::<Vec<_>>());
    assert_eq!(backwards.iter().map(Value::is_null).collect::<Vec<_>>(), [true, false, false, false]);
    assert_eq!(merge.calls_for("acme"), 4);
    let query = merge.log()[1].query.clone().expect("a query");
    assert!(["%2B", "%2F", "%3D"].iter().all(|escaped| query.contains(escaped)), "kept byte for byte: {query}");
}

#[tokio::test(start_paused = true)]
async fn the_same_page_is_the_same_bytes() {
    let merge = builder().build();
    let [one, two] = [get(&merge, SYNC_STATUS).await, get(&merge, SYNC_STATUS).await];
    assert_eq!(one.body(), two.body());
    assert!(!one.body().contains(&b' '), "compact");
    assert_eq!(field(one.headers(), "content-type"), Some("application/json"));
    assert_eq!(field(one.headers(), "date"), Some("Sun, 12 Apr 2026 13:20:00 GMT"));
}

#[tokio::test(start_paused = true)]
async fn it_refuses_what_merge_refuses() {
    let merge = builder().no_blocks().build();
    let without = |name: &str| {
        let mut request = request("token-acme", SYNC_STATUS);
        request.headers_mut().remove(name);
        request
    };
    let missing = ask(&merge, without("x-account-token")).await;
    let detail = r#"{"detail":"Account Token must be passed in as an X-Account-Token header."}"#;
    assert_eq!(told(&missing), (401, detail));
    assert_eq!(ask(&merge, without("authorization")).await.status(), 401);
    assert_eq!(ask(&merge, request("token-unknown", SYNC_STATUS)).await.status(), 401);
    assert_eq!(ask(&merge, request("token-globex", SYNC_STATUS)).await.status(), 403);
    assert_eq!(told(&get(&merge, "/ats/v1/sync-status").await), (404, r#"{"detail":"Not found."}"#));
    let bad_size = get(&merge, "/api/ats/v1/sync-status?page_size=101").await;
    let errors = r#"{"non_field_errors":["page_size must be an integer between 1 and 100."]}"#;
    assert_eq!(told(&bad_size), (400, errors));
    assert_eq!(get(&merge, "/api/ats/v1/sync-status?cursor=cD0x").await.status(), 400);
    let mut delete = request("token-acme", SYNC_STATUS);
    *delete.method_mut() = Method::DELETE;
    let refused = ask(&merge, delete).await;
    assert_eq!(
        (refused.status(), field(refused.headers(), "allow")),
        (StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD, OPTIONS"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_refused_until_it_is_restored() {
    let merge = builder().build();
    merge.revoke("acme");
    assert_eq!(get(&merge, SYNC_STATUS).await.status(), 401);
    assert_eq!(merge.log()[0].account.as_deref(), Some("acme"));
    merge.restore("acme");
    assert_eq!(get(&merge, SYNC_STATUS).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_sync_by_hand_starts_and_ends_when_told() {
    let merge = builder().build();
    assert_eq!(statuses(&json(&get(&merge, SYNC_STATUS).await)), BTreeSet::from(["DONE"]));
    merge.start_sync("acme");
    assert_eq!(statuses(&json(&get(&merge, SYNC_STATUS).await)), BTreeSet::from(["SYNCING"]));
    tokio::time::advance(Duration::from_secs(9)).await;
    merge.end_sync("acme", Status::PartiallySynced);
    assert_eq!(statuses(&json(&get(&merge, SYNC_STATUS).await)), BTreeSet::from(["PARTIALLY_SYNCED"]));
    merge.set_status("acme", "Job", Status::Disabled);
    assert_eq!(statuses(&json(&get(&merge, SYNC_STATUS).await)), BTreeSet::from(["DISABLED", "PARTIALLY_SYNCED"]));
}

#[tokio::test(start_paused = true)]
async fn a_resync_starts_a_sync_and_returns_a_bare_list() {
    let merge = builder().build();
    let mut resync = request("token-acme", "/api/ats/v1/sync-status/resync");
    *resync.method_mut() = Method::POST;
    let answer = json(&ask(&merge, resync).await);
    assert_eq!(answer.as_array().expect("a bare list").len(), standard("ats").len());
    assert_eq!(answer[0]["status"], "SYNCING");
    assert_eq!(get(&merge, "/api/ats/v1/sync-status/resync").await.status(), 405);
}

#[tokio::test(start_paused = true)]
async fn the_schedule_runs_on_the_accelerated_clock() {
    let merge = Merge::demo();
    let call = || {
        let mut request = request("demo-token-acme-greenhouse", SYNC_STATUS);
        let key = format!("Bearer {}", merge.api_key());
        request.headers_mut().insert("authorization", key.parse().expect("a value"));
        request
    };
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let page = json(&ask(&merge, call()).await);
        seen.extend(statuses(&page).into_iter().map(str::to_owned));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(["SYNCING", "DONE", "DISABLED"].iter().all(|status| seen.contains(*status)), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_can_be_fixed_even_for_another_category() {
    let merge = builder().build();
    let page = sync_page(&[("crm.Lead", "DREAMING", Some(merge.now())), ("crm.Contact", "DONE", None)]);
    merge.page("acme", "crm", page.clone());
    let answer = get(&merge, "/api/crm/v1/sync-status").await;
    assert_eq!(answer.body(), &page);
    assert_eq!(json(&answer)["results"][0]["next_sync_start"], "2026-04-12T13:20:00.000000Z");
    merge.unfix_page("acme", "crm");
    assert_eq!(get(&merge, "/api/crm/v1/sync-status").await.status(), 403);
}

#[tokio::test(start_paused = true)]
async fn a_validator_is_answered_with_304_where_they_are_on() {
    let merge = builder().build();
    assert_eq!(field(get(&merge, SYNC_STATUS).await.headers(), "etag"), None);
    merge.etags(true);
    let first = get(&merge, SYNC_STATUS).await;
    let etag = field(first.headers(), "etag").expect("an entity tag").to_owned();
    assert!(first.headers().contains_key("last-modified"));
    let again = || {
        let mut request = request("token-acme", SYNC_STATUS);
        request.headers_mut().insert("if-none-match", format!("\"x\", W/{etag}").parse().expect("a value"));
        request
    };
    let unchanged = ask(&merge, again()).await;
    assert_eq!(told(&unchanged), (304, ""));
    assert_eq!(field(unchanged.headers(), "etag"), Some(&*etag));
    merge.start_sync("acme");
    assert_eq!(ask(&merge, again()).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn account_details_name_the_account() {
    let merge = builder().build();
    let id = merge.accounts().next().expect("acme").id().to_string();
    let details = json(&get(&merge, "/api/ats/v1/account-details").await);
    assert_eq!((details["id"].as_str(), details["end_user_origin_id"].as_str()), (Some(&*id), Some("acme")));
}
