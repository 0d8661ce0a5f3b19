//! Who may ask for which account, and how often.

use std::time::Duration;

use merge_sync_proxy::demo::account::SimAccount;

use crate::support::{ACME_TOKEN, GLOBEX_TOKEN, Got, SYNC_STATUS, World, consumer, merge, with};

/// A world with these consumers; each one's key is its name.
fn world() -> World {
    let consumers = [
        consumer("one", "accounts = ['acme']"),
        consumer("globs", "accounts = ['ac*', 'i*h-*', '*-us']"),
        consumer("none", "accounts = []"),
        consumer("all", "accounts = ['*']"),
        consumer("any-token", "accounts = ['acme']\nraw_tokens = true"),
        consumer("home", "accounts = ['acme']\ndefault_account = 'acme'"),
        consumer("slow", "accounts = ['*']\nquota = '1/min'"),
    ];
    let former = consumer("former", "accounts = ['*']");
    let former = former.replace("key_sha256 = ", "key_sha256 = [{ expires = '2020-01-31T00:00:00Z', sha256 = ");
    let former = former.replacen("'\naccounts", "' }]\naccounts", 1);
    let account = |name: &str| format!("[[accounts]]\nname = '{name}'\ntoken = 'token-of-{name}'\n");
    let more = format!("{}{}{}{former}", account("initech-eu"), account("initech"), consumers.concat());
    let sim = |name: &str| SimAccount::new(name, format!("token-of-{name}")).by_hand();
    World::with(merge().account(sim("initech-eu")).account(sim("initech")), &more)
}

pub(crate) async fn ask_as(world: &World, key: &str, account: &str) -> Got {
    let bearer = format!("Bearer {key}");
    world.send(with(SYNC_STATUS, &[("authorization", &bearer), ("x-account-token", account)])).await
}

#[tokio::test(start_paused = true)]
async fn without_a_known_key_nobody_comes_in() {
    let world = world();
    for line in
        ["", "Bearer", "Bearer ", "Bearer nobody", "Bearer One", "Bearer former", "Basic one", "one", "Token one"]
    {
        let answer = world.get_with(SYNC_STATUS, &[("authorization", line)]).await;
        assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (401, "unknown-consumer"), "{line:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    assert_eq!(world.get(SYNC_STATUS).await.status, 401);
    for lines in [&["Bearer one", "Bearer one"][..], &["Bearer one, Bearer one"], &["Bearer o ne"], &["Bearer \"one\""]]
    {
        let lines: Vec<_> = lines.iter().map(|line| ("authorization", *line)).collect();
        assert_eq!(world.get_with(SYNC_STATUS, &lines).await.problem(), "invalid-request", "{lines:?}");
    }
    assert_eq!(world.merge.calls(), 0);
    for line in ["Bearer one", "bearer one", "BEARER  one"] {
        assert_eq!(world.get_with(SYNC_STATUS, &[("authorization", line)]).await.status, 200, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_path_is_told_before_a_key_is_asked_for_and_a_body_is_not() {
    let world = world();
    assert_eq!(world.get("/nowhere").await.status, 404);
    assert_eq!(world.get(&format!("{SYNC_STATUS}?page_size=0")).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn grants_are_names_and_globs() {
    let world = world();
    for (key, granted) in [
        ("one", &["acme"][..]),
        ("globs", &["acme", "initech-eu"]),
        ("none", &[]),
        ("all", &["acme", "globex", "initech-eu", "initech"]),
        ("any-token", &["acme"]),
    ] {
        for account in ["acme", "globex", "initech-eu", "initech"] {
            let status = ask_as(&world, key, account).await.status;
            assert_eq!(status, if granted.contains(&account) { 200 } else { 403 }, "{key} asks for {account}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_account_and_a_forbidden_one_cannot_be_told_apart() {
    let world = world();
    let ask = |account| {
        let request_id = ("x-request-id", "same");
        with(SYNC_STATUS, &[("authorization", "Bearer one"), ("x-account-token", account), request_id])
    };
    let forbidden = world.send(ask("globex")).await;
    assert_eq!((forbidden.status.as_u16(), forbidden.problem().as_str()), (403, "account-not-allowed"));
    for account in ["nobody", "acme2", "ACME", "*", "ac*", ACME_TOKEN, GLOBEX_TOKEN] {
        let unknown = world.send(ask(account)).await;
        assert_eq!((unknown.status, &unknown.body), (forbidden.status, &forbidden.body), "{account}");
        assert_eq!(unknown.headers, forbidden.headers, "{account}");
    }
    assert_eq!(world.merge.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_who_may_send_raw_tokens_can() {
    let world = world();
    for key in ["one", "globs", "none", "all", "home"] {
        assert_eq!(ask_as(&world, key, ACME_TOKEN).await.problem(), "account-not-allowed", "{key}");
    }
    assert_eq!(world.merge.calls(), 0);
    assert_eq!(ask_as(&world, "any-token", ACME_TOKEN).await.status, 200);
    assert_eq!(ask_as(&world, "any-token", GLOBEX_TOKEN).await.status, 200);
    let unknown = ask_as(&world, "any-token", "no-such-token").await;
    assert_eq!((unknown.status.as_u16(), unknown.problem().as_str()), (401, ""), "Merge's own answer");
    assert_eq!(world.merge.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_default_account_stands_in_where_none_is_named() {
    let world = world();
    for headers in
        [&[("authorization", "Bearer home")][..], &[("authorization", "Bearer home"), ("x-account-token", "")]]
    {
        assert_eq!(world.send(with(SYNC_STATUS, headers)).await.status, 200, "{headers:?}");
    }
    assert_eq!((world.merge.calls_for("acme"), world.merge.calls()), (1, 1));
    assert_eq!(ask_as(&world, "home", "globex").await.status, 403);
    let none = world.send(with(SYNC_STATUS, &[("authorization", "Bearer one")])).await;
    assert_eq!(none.problem(), "invalid-request", "nobody's account is guessed");
}

#[tokio::test(start_paused = true)]
async fn a_spent_quota_says_when_to_come_back_and_keeps_the_others_going() {
    let world = world();
    assert_eq!(ask_as(&world, "slow", "acme").await.status, 200);
    for passed in [0, 20_500, 39_000] {
        tokio::time::advance(Duration::from_millis(passed)).await;
        let refused = ask_as(&world, "slow", "acme").await;
        assert_eq!((refused.status.as_u16(), refused.problem().as_str()), (429, "quota-exceeded"));
        let pause = refused.number("retry-after");
        assert!((1..=61).contains(&pause), "{pause}");
        assert_eq!(ask_as(&world, "one", "acme").await.status, 200);
    }
    let pause = ask_as(&world, "slow", "globex").await.number("retry-after");
    tokio::time::advance(Duration::from_secs(pause)).await;
    assert_eq!(ask_as(&world, "slow", "acme").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_costs_no_quota() {
    let world = world();
    let slow = [("authorization", "Bearer slow")];
    for _ in 0..10 {
        assert_eq!(world.get_with(&format!("{SYNC_STATUS}?page_size=0"), &slow).await.status, 400);
        assert_eq!(ask_as(&world, "slow", "nobody").await.status, 403);
    }
    assert_eq!(ask_as(&world, "slow", "acme").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_with_a_quota_is_told_what_is_left_of_it() {
    let world = World::with(merge(), &consumer("team", "accounts = ['*']\nquota = '10/min'"));
    let fields = async || {
        let answer = ask_as(&world, "team", "acme").await;
        (answer.header("ratelimit").to_owned(), answer.header("ratelimit-policy").to_owned(), answer.status.as_u16())
    };
    let policy = "\"quota\";q=10;w=60".to_owned();
    assert_eq!(fields().await, ("\"quota\";r=1;t=7".into(), policy.clone(), 200));
    assert_eq!(fields().await, ("\"quota\";r=0;t=14".into(), policy.clone(), 200));
    assert_eq!(fields().await, ("\"quota\";r=0;t=14".into(), policy, 429));
    let unlimited = World::new().get(SYNC_STATUS).await;
    assert_eq!((unlimited.header("ratelimit"), unlimited.header("ratelimit-policy")), ("", ""));
}

#[tokio::test(start_paused = true)]
async fn who_asks_too_fast_is_told_how_much_of_the_quota_may_come_at_once() {
    let world = World::with(merge(), &consumer("team", "accounts = ['*']\nquota = '30/min'"));
    let headers = [("authorization", "Bearer team"), ("x-account-token", "acme")];
    for number in 0..6 {
        assert_eq!(world.send(with(SYNC_STATUS, &headers)).await.status, 200, "{number}");
    }
    let refused = world.send(with(SYNC_STATUS, &headers)).await;
    let told: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    let detail = told["detail"].as_str().expect("a detail");
    assert!(
        detail.starts_with("Too many at once for your quota of 30/min: a fifth of it, which is 6, may come"),
        "{detail}"
    );
}
