//! Another configuration while the proxy runs: taken over whole and at once, or not at all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::app::App;
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::app::watch;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::builder::Builder;
use merge_sync_proxy::demo::merge::Merge;
use parking_lot::Mutex;

use crate::consumers::ask_as;
use crate::origin::{Site, reply};
use crate::process::{Folder, Running};
use crate::support::{ACME_TOKEN, API_KEY, SYNC_STATUS, Wire, World, consumer, merge, method, soon, text, with};

/// A file that tests write.
#[derive(Clone)]
struct File(Arc<Mutex<String>>);

impl File {
    fn write(&self, text: String) {
        *self.0.lock() = text;
    }
}

/// How many configurations were taken over, and how many refused.
pub(crate) fn reloads(app: &App) -> (u64, u64) {
    let totals = app.ground().metrics.totals();
    (totals.reloads, totals.failed_reloads)
}

/// A world whose configuration is in a file that begins with `more`.
fn world(merge: Builder, more: &str) -> (World, File) {
    let world = World::with(merge, more);
    let file = File(Arc::new(Mutex::new(text("http://merge.test", "", more))));
    let read = file.clone();
    let parse = move |text: &str, hasher: &_| Config::parse(text, Path::new("test.toml"), &|_| None, hasher);
    world.app.reads(Box::new(move |hasher| parse(&read.0.lock(), hasher)));
    (world, file)
}

/// Writes the file anew and reloads it; what has changed.
fn reload(world: &World, file: &File, more: &str) -> Vec<String> {
    file.write(text("http://merge.test", "", more));
    let changes = world.app.reload(Cause::Signal).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(changes.needs_restart, [""; 0]);
    changes.changed
}

#[tokio::test(start_paused = true)]
async fn grants_and_keys_count_from_the_next_request_on() {
    let team = |more: &str| consumer("team", more);
    let (world, file) = world(merge(), &team("accounts = ['acme']"));
    assert_eq!(ask_as(&world, "team", "globex").await.problem(), "account-not-allowed");
    let changed = reload(&world, &file, &team("accounts = ['acme', 'globex']"));
    assert_eq!(changed, ["consumers.team.accounts"]);
    assert_eq!(ask_as(&world, "team", "globex").await.status, 200);
    let changed = reload(&world, &file, &team("accounts = ['acme', 'globex']\ndisabled = true"));
    assert_eq!(changed, ["consumers.team.disabled"]);
    assert_eq!(ask_as(&world, "team", "globex").await.problem(), "unknown-consumer");
    let changed = reload(&world, &file, &consumer("other", "accounts = ['acme']"));
    assert_eq!(changed, ["consumers.other (new)", "consumers.team (gone)"]);
    assert_eq!(ask_as(&world, "other", "acme").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn pages_flights_and_quotas_outlive_a_reload() {
    let team = |more: &str| consumer("team", &format!("accounts = ['*']\nquota = '10/min'\n{more}"));
    let (world, file) = world(merge(), &team(""));
    let held = world.merge.hold();
    let waiting = tokio::spawn({
        let world = world.clone();
        async move { ask_as(&world, "team", "acme").await }
    });
    world.merge.arrived(1).await;
    reload(&world, &file, &team("weight = 1\nraw_tokens = true"));
    let joining = tokio::spawn({
        let world = world.clone();
        async move { ask_as(&world, "team", "acme").await }
    });
    while world.app.ground().flights.count().1 < 2 {
        tokio::task::yield_now().await;
    }
    held.release();
    assert_eq!(
        (waiting.await.expect("no panic").status, joining.await.expect("no panic").status.as_u16()),
        (http::StatusCode::OK, 200)
    );
    assert_eq!(world.merge.calls(), 1);
    let spent = ask_as(&world, "team", "acme").await;
    assert_eq!((spent.status.as_u16(), &*spent.problem()), (429, "quota-exceeded"), "two of ten go at once");
    reload(&world, &file, &consumer("team", "accounts = ['*']\nquota = '9/min'"));
    assert_eq!(ask_as(&world, "team", "acme").await.problem(), "quota-exceeded", "another number is no new start");
    reload(&world, &file, &consumer("team", "accounts = ['*']"));
    let hit = ask_as(&world, "team", "acme").await;
    assert!(hit.cache().starts_with("hit; ttl="), "{}", hit.cache());
    assert_eq!(world.merge.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn lifetimes_count_for_pages_that_come_later() {
    let (world, file) = world(merge(), "");
    world.get(SYNC_STATUS).await;
    let changed = reload(&world, &file, "[cache.ttl]\nsettled = '7s'\nsyncing = '7s'");
    assert_eq!(changed, ["cache.ttl.settled", "cache.ttl.syncing"]);
    assert!(world.get(SYNC_STATUS).await.cache().starts_with("hit"));
    let fresh = world.send(with(SYNC_STATUS, &[("x-account-token", "globex")])).await;
    // Seven seconds, less up to a twentieth.
    assert_eq!(fresh.header("cache-control"), "private, max-age=6");
}

#[tokio::test(start_paused = true)]
async fn a_faulty_file_changes_nothing_and_says_where() {
    let (world, file) = world(merge(), "");
    assert!(world.app.last_reload().is_none());
    file.write(text("http://merge.test", "", "[[consumers]]\nname = 'team'\nquota = '5'\n"));
    let faults = world.app.reload(Cause::File).expect_err("it is faulty");
    let told = faults.to_string();
    assert!(
        told.contains("consumers[0].key_sha256: is missing") && told.contains("consumers[0].quota  '5': "),
        "{told}"
    );
    assert_eq!(world.get(SYNC_STATUS).await.status, 200, "still open to all");
    assert_eq!(reloads(&world.app), (0, 1));
    assert_eq!(world.app.last_reload().expect("one").result, Err(faults));
    reload(&world, &file, &consumer("team", "raw_tokens = true"));
    assert_eq!(reloads(&world.app), (1, 1));
    assert_eq!(world.get(SYNC_STATUS).await.status, 401);
    assert!(world.app.last_reload().expect("one").result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_change_is_named_until_the_restart() {
    let (world, file) = world(merge(), "");
    let fixed = "[server]\nlisten = ['127.0.0.1:1']\nworkers = 7\nmax_connections = 9\n[telemetry]\nlog = 'json'\n\
         otlp = 'http://127.0.0.1:4318'\nsample = 0.5\n[cache]\n";
    for lifetime in ["7s", "8s"] {
        let more = format!("{fixed}max_bytes = '9MiB'\n[cache.ttl]\nnegative = '{lifetime}'\n");
        file.write(text("http://merge.test", "", &more));
        let changes = world.app.reload(Cause::File).expect("sound");
        assert_eq!(changes.changed, ["cache.ttl.negative"]);
        assert_eq!(
            changes.needs_restart,
            [
                "cache.max_bytes",
                "server.listen",
                "server.max_connections",
                "server.workers",
                "telemetry.log",
                "telemetry.otlp",
                "telemetry.sample"
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_opens_nothing_that_a_start_would_have_kept_shut() {
    let guarded = consumer("team", "raw_tokens = true");
    let exposed = format!("[server]\nlisten = ['0.0.0.0:0']\n{guarded}");
    let (world, file) = world(merge(), &exposed);
    // Sound by itself, as it listens on this machine only. But the socket stays where it is.
    file.write(text("http://merge.test", "", "[server]\nlisten = ['127.0.0.1:0']\n"));
    let told = world.app.reload(Cause::File).expect_err("everybody could ask").to_string();
    assert!(told.contains("consumers: others can reach 0.0.0.0:0, which stays until the restart"), "{told}");
    assert_eq!(world.get(SYNC_STATUS).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn budgets_follow_their_rules_and_forget_no_call() {
    let budget = |rate: &str| format!("[upstreams.us.budget]\nper_account = '{rate}'\nmax_wait = '0s'\n");
    let (world, file) = world(merge(), &budget("1/min"));
    assert_eq!(world.get(SYNC_STATUS).await.status, 200);
    let other = format!("{SYNC_STATUS}?page_size=7");
    assert_eq!(world.get(&other).await.problem(), "budget-exhausted");
    assert_eq!(reload(&world, &file, &budget("2/min")), ["upstreams.us.budget.per_account"]);
    assert_eq!(world.get(&other).await.problem(), "budget-exhausted", "the call before counts");
    reload(&world, &file, &budget("unlimited"));
    assert_eq!(world.get(&other).await.status, 200);
}

/// The world in front of a Merge that knows another API key, and the file with the right one.
fn wrong_key() -> (World, File, String) {
    let merge = Merge::builder().api_key("the-right-key").unlimited();
    let merge = merge.account(SimAccount::new("acme", ACME_TOKEN).by_hand());
    let (world, file) = world(merge, "");
    let right = text("http://merge.test", "", "").replace(API_KEY, "the-right-key");
    (world, file, right)
}

#[tokio::test(start_paused = true)]
async fn another_api_key_ends_remembered_refusals() {
    let (world, file, right) = wrong_key();
    assert_eq!(world.get(SYNC_STATUS).await.status, 401);
    assert!(world.get(SYNC_STATUS).await.cache().ends_with("detail=negative"));
    file.write(right);
    assert_eq!(world.app.reload(Cause::File).expect("sound").changed, ["upstreams.us.api_key"]);
    let answer = world.get(SYNC_STATUS).await;
    assert_eq!((answer.status.as_u16(), world.merge.calls()), (200, 2), "{}", answer.cache());
}

#[tokio::test(start_paused = true)]
async fn a_call_with_the_old_key_neither_answers_nor_outdates_those_who_ask_after_the_reload() {
    let (world, file, right) = wrong_key();
    let held = world.merge.hold();
    let before = world.begin(SYNC_STATUS);
    world.merge.arrived(1).await;
    file.write(right);
    world.app.reload(Cause::File).expect("sound");
    // A clock that stands still cannot tell before from after.
    tokio::time::advance(Duration::from_millis(1)).await;
    let after = world.begin(SYNC_STATUS);
    world.merge.arrived(2).await;
    held.release();
    assert_eq!(after.await.expect("no panic").status, 200);
    assert_eq!(before.await.expect("no panic").status, 401);
    world.settle().await;
    assert!(world.get(SYNC_STATUS).await.cache().starts_with("hit; ttl="));
}

#[tokio::test(start_paused = true)]
async fn another_api_key_ends_stored_refusals_of_http_routes_and_nothing_else() {
    let route = "[[routes]]\npath = '/x/*'\ncache = 'http'\n";
    let site = Site::new(route);
    site.script(|call, _| {
        let status = if call.uri.path().ends_with("/forbidden") { 403 } else { 200 };
        Ok(reply(status, &[("cache-control", "max-age=60")], "told"))
    });
    let paths = ["/x/forbidden", "/x/given"];
    for path in paths {
        site.get(path).await;
        assert!(site.get(path).await.cache().starts_with("hit"), "{path}");
    }
    site.app.reads(Box::new(|hasher| {
        let text = text("http://origin.test/base", "", route).replace(API_KEY, "another-key");
        Config::parse(&text, Path::new("test.toml"), &|_| None, hasher)
    }));
    assert_eq!(site.app.reload(Cause::Signal).expect("sound").changed, ["upstreams.us.api_key"]);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(site.get(paths[0]).await.cache().starts_with("fwd=uri-miss; fwd-status=403; stored"));
    assert_eq!(site.last().0.headers["authorization"], "Bearer another-key");
    assert!(site.get(paths[1]).await.cache().starts_with("hit"));
    assert_eq!(site.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn another_token_is_another_account_and_another_server_another_cache() {
    let (world, file) = world(merge(), "");
    let first = text("http://merge.test", "", "");
    file.write(first.replace(ACME_TOKEN, "a-token-that-merge-does-not-know"));
    assert_eq!(world.app.reload(Cause::File).expect("sound").changed, ["accounts.acme.token"]);
    assert_eq!(world.get(SYNC_STATUS).await.status, 401);
    file.write(first.clone());
    world.app.reload(Cause::File).expect("sound");
    assert_eq!(world.get(SYNC_STATUS).await.status, 200);
    assert!(world.get(SYNC_STATUS).await.cache().starts_with("hit"));

    // A port where nobody listens: what the other server has said is nobody's answer now.
    file.write(first.replace("http://merge.test", "http://127.0.0.1:9"));
    assert_eq!(world.app.reload(Cause::File).expect("sound").changed, ["upstreams.us.base_url"]);
    assert_eq!(world.get(SYNC_STATUS).await.problem(), "upstream-failed");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_says_the_same_is_no_news() {
    let (world, _file) = world(merge(), "");
    let changes = world.app.reload(Cause::File).expect("sound");
    assert_eq!((changes.changed.len(), changes.needs_restart.len()), (0, 0));
    assert_eq!((reloads(&world.app), world.app.last_reload().is_none()), ((0, 0), true));
}

#[tokio::test(start_paused = true)]
async fn what_needs_a_restart_is_known_until_the_file_says_what_runs() {
    let (world, file) = world(merge(), "");
    let read = async |more: &str| {
        file.write(text("http://merge.test", "", more));
        let _ = world.app.reload(Cause::File);
        // All who look within the same moment see the same.
        tokio::time::advance(Duration::from_secs(1)).await;
        world.app.look().head.proxy.needs_restart.join(", ")
    };
    let newest = || world.app.events().latest(1)[0].text.clone();
    assert_eq!(read("[telemetry]\nsample = 0.5\n").await, "telemetry.sample");
    assert_eq!(read("[telemetry]\nsample = 0.5\nfilter = 'warn'\n").await, "telemetry.sample", "another reload");
    assert_eq!(read("[telemetry]\nsample = 'all'\n").await, "telemetry.sample", "a faulty file says nothing");
    assert_eq!(read("[telemetry]\nsample = 0.5\nlog = 'json'\n").await, "telemetry.log, telemetry.sample");
    assert_eq!(read("[telemetry]\nlog = 'json'\n").await, "telemetry.log");
    assert_eq!(read("").await, "");
    assert_eq!(newest(), "nothing has changed");
    let events = world.app.events().latest(1)[0].id;
    assert_eq!((read("").await, world.app.events().latest(1)[0].id), (String::new(), events), "once more is no news");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_as_it_was_before_it_was_faulty_ends_the_alarm() {
    let (world, file) = world(merge(), "");
    let succeeded = || world.app.ground().metrics.last_reload_succeeded();
    for time in 1..=2 {
        file.write("nonsense".into());
        world.app.reload(Cause::File).expect_err("it is faulty");
        assert!(!succeeded());
        file.write(text("http://merge.test", "", ""));
        let changes = world.app.reload(Cause::File).expect("sound");
        assert_eq!((changes.changed.len(), changes.needs_restart.len()), (0, 0));
        assert_eq!((succeeded(), reloads(&world.app)), (true, (time, time)));
        assert_eq!(world.app.last_reload().expect("one").told(), "nothing has changed");
    }
    world.app.reload(Cause::File).expect("sound");
    assert_eq!(reloads(&world.app), (2, 2), "once more is no news");
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_read_again_and_told_only_if_it_comes_to_something_else() {
    let (world, file) = world(merge(), "");
    // What stands here never looks different, whatever is read.
    let folder = Folder::new("");
    tokio::spawn(watch::follow(world.app.clone(), folder.file()).expect("signals"));
    let seconds = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    seconds(60).await;
    assert_eq!(reloads(&world.app), (0, 0), "it is sound, and as before");
    file.write("nonsense".into());
    world.app.reload(Cause::Operator).expect_err("it is faulty");
    std::fs::write(folder.file(), "touched").expect("written");
    seconds(5).await;
    assert_eq!(reloads(&world.app), (0, 2), "the change was looked at");
    seconds(600).await;
    assert_eq!(reloads(&world.app), (0, 2), "as before is no news");
    file.write("other nonsense".into());
    seconds(11).await;
    assert_eq!(reloads(&world.app), (0, 3));
    file.write(text("http://merge.test", "", ""));
    seconds(11).await;
    assert_eq!((reloads(&world.app), world.app.ground().metrics.last_reload_succeeded()), ((1, 3), true));
    file.write("nonsense".into());
    seconds(600).await;
    assert_eq!(reloads(&world.app), (1, 3), "what is sound is read again only if it changes");
}

#[tokio::test]
async fn an_operator_reloads_and_is_told_what_changed_or_what_is_wrong() {
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    let base_url = wire.app.config().default_upstream.authority.to_string();
    let file = File(Arc::new(Mutex::new(String::new())));
    let read = file.clone();
    let parse = move |text: &str, hasher: &_| Config::parse(text, Path::new("test.toml"), &|_| None, hasher);
    wire.app.reads(Box::new(move |hasher| parse(&read.0.lock(), hasher)));
    let reload = async |token: &str| {
        let token = format!("Bearer {token}");
        soon(wire.operate(method(Method::POST, with("/api/reload", &[("authorization", &token)])))).await
    };
    let write =
        |token: &str, more: &str| file.write(text(&format!("http://{base_url}"), &format!("token = '{token}'"), more));

    write("let-me-in", "[cache.ttl]\nnegative = '7s'");
    assert_eq!(reload("guessed").await.status, 401);
    assert_eq!(reloads(&wire.app), (0, 0));
    let done = reload("let-me-in").await;
    assert_eq!(done.status, 200);
    let told: serde_json::Value = serde_json::from_slice(&done.body).expect("JSON");
    assert_eq!(
        (&told["changed"], &told["needs_restart"]),
        (&serde_json::json!(["cache.ttl.negative"]), &serde_json::json!([]))
    );

    write("let-me-in", "[cache.ttl]\nnegativ = '7s'");
    let refused = reload("let-me-in").await;
    assert_eq!((refused.status.as_u16(), refused.header("content-type")), (422, "application/problem+json"));
    let told: serde_json::Value = serde_json::from_slice(&refused.body).expect("JSON");
    let fault = &told["faults"][0];
    assert_eq!((&fault["file"], &fault["key"]), (&"test.toml".into(), &"cache.ttl.negativ".into()));
    assert!(fault["line"].is_u64() && fault["column"] == 1 && !refused.body.is_empty(), "{fault}");
    assert_eq!(told["status"], 422);
    assert!(!String::from_utf8_lossy(&refused.body).contains("let-me-in"));

    write("another", "");
    assert_eq!(reload("let-me-in").await.status, 200);
    assert_eq!(reload("let-me-in").await.status, 401, "the token has changed with the rest");
    assert_eq!(reload("another").await.status, 200);
    assert_eq!(wire.admin("/api/reload").await.status, 405);
}

#[tokio::test]
async fn without_a_file_there_is_nothing_to_reload() {
    let wire = Wire::new().await;
    let refused = soon(wire.operate(method(Method::POST, with("/api/reload", &[])))).await;
    assert_eq!(refused.status, 422);
    assert!(String::from_utf8_lossy(&refused.body).contains("not started from a file"));
    assert_eq!(reloads(&wire.app), (0, 0), "and nothing that an alert should tell");
    assert!(wire.app.ground().metrics.last_reload_succeeded());
}

#[tokio::test]
async fn timeouts_of_connections_change_for_those_that_come_later() {
    use tokio::io::AsyncReadExt;
    let wire = Wire::new().await;
    let base_url = wire.app.config().default_upstream.authority.to_string();
    wire.app.reads(Box::new(move |hasher| {
        let server = "[server]\nlisten = ['127.0.0.1:0']\nheader_timeout = '100ms'\n";
        Config::parse(&text(&format!("http://{base_url}"), "", server), Path::new("t"), &|_| None, hasher)
    }));
    let changes = wire.app.reload(Cause::Signal).expect("sound");
    assert_eq!(changes.changed, ["server.header_timeout"]);
    let mut silent = tokio::net::TcpStream::connect(wire.proxy).await.expect("it listens");
    assert_eq!(soon(silent.read_u8()).await.map_err(|error| error.kind()), Err(std::io::ErrorKind::UnexpectedEof));
}

/// A file for the real binary.
fn real_file(more: &str) -> String {
    format!(
        "[server]\nlisten = ['127.0.0.1:0']\nfailed_keys = 'unlimited'\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = 'http://127.0.0.1:9'\napi_key = {{ file = 'key' }}\n[telemetry]\nlog = 'json'\n{more}"
    )
}

/// The fields of an audit line.
fn line(running: &Running, part: &str) -> serde_json::Value {
    serde_json::from_str(&running.line_with(part)).expect("a JSON line")
}

#[test]
fn the_file_is_followed_however_it_changes() {
    let folder = Folder::new("");
    let at = |name: &str| folder.path().join(name);
    // A config map of Kubernetes: the files are links into a folder that is itself a link, which is swapped in one step.
    let publish = |version: &str, config: &str, key: &str| {
        std::fs::create_dir(at(version)).expect("a folder");
        std::fs::write(at(version).join("proxy.toml"), config).expect("written");
        std::fs::write(at(version).join("key"), key).expect("written");
        std::os::unix::fs::symlink(version, at("..data_tmp")).expect("linked");
        std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
    };
    publish("..1", &real_file(""), "a-first-key");
    std::fs::remove_file(at("proxy.toml")).expect("there");
    for name in ["proxy.toml", "key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), at(name)).expect("linked");
    }
    let (running, proxy, _) = Running::serve(&folder, &[]);
    let changed = |running: &Running| line(running, "\"configuration reloaded\"");

    publish("..2", &real_file("[cache.ttl]\nnegative = '7s'\n"), "a-first-key");
    let told = changed(&running);
    assert_eq!((&told["cause"], &told["changed"]), (&"file".into(), &"cache.ttl.negative".into()), "{told}");
    publish("..3", &real_file("[cache.ttl]\nnegative = '7s'\n"), "a-second-key");
    assert_eq!(changed(&running)["changed"], "upstreams.us.api_key");
    std::fs::write(at("..3").join("key"), "a-third-key").expect("written in place");
    assert_eq!(changed(&running)["changed"], "upstreams.us.api_key");

    publish("..4", &real_file("[cache.ttl]\nnegativ = '7s'\n"), "a-third-key");
    let fault = line(&running, "is not valid");
    assert!(
        fault["fault"].as_str().expect("text").contains("proxy.toml:12:1  cache.ttl.negativ: unknown key"),
        "{fault}"
    );
    assert_eq!(line(&running, "reload refused")["target"], "audit");
    publish("..4b", &real_file("[cache.ttl]\nnegative = '7s'\n"), "a-third-key");
    assert_eq!(changed(&running)["changed"], "nothing", "as it was before the fault");

    // What mends a fault may be a file that only the faulty version speaks of.
    let other = real_file("").replace("'key'", "'other-key'");
    publish("..5", &other, "a-third-key");
    assert!(running.line_with("is not valid").contains("other-key"));
    running.line_with("reload refused");
    std::fs::write(at("other-key"), "a-third-key\n").expect("written");
    assert_eq!(changed(&running)["changed"], "cache.ttl.negative", "the key is the same");

    std::fs::write(at("..5").join("proxy.toml"), other.replace("log = 'json'", "log = 'json'\nfilter = 'debug'"))
        .expect("written");
    running.signal("-HUP");
    let told = changed(&running);
    assert_eq!((&told["cause"], &told["changed"]), (&"signal".into(), &"telemetry.filter".into()), "{told}");
    running.signal("-HUP");
    assert_eq!(changed(&running)["changed"], "nothing");
    std::fs::remove_file(at("..5").join("proxy.toml")).expect("it was there");
    running.signal("-HUP");
    assert!(running.line_with("is not valid").contains("proxy.toml: the file is gone; everything stays as it was"));
    let mut nonsense = std::net::TcpStream::connect(proxy).expect("it listens");
    std::io::Write::write_all(&mut nonsense, b"nonsense\r\n\r\n").expect("written");
    running.line_with("a connection ended early");
    running.terminate();
    let (status, said) = running.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!["a-first-key", "a-second-key", "a-third-key"].iter().any(|key| said.contains(key)), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_lines_tell_who_was_refused_and_never_a_secret() {
    let hash = merge_sync_proxy::door::consumer_key::hash("msp_off");
    let team = format!(
        "[[accounts]]\nname = 'acme'\ntoken = 'canary-token'\n[[accounts]]\nname = 'globex'\ntoken = 'canary-other'\n{}\
         [[consumers]]\nname = 'off'\nkey_sha256 = '{hash}'\ndisabled = true\n",
        consumer("msp_team", "accounts = ['acme']")
    );
    let folder = Folder::new(
        &real_file(&team).replace("log = 'json'", "log = 'json'\nfilter = 'warn,merge_sync_proxy::cli=info'"),
    );
    std::fs::write(folder.path().join("key"), "a-key").expect("written");
    let (child, ..) = Running::serve(&folder, &[]);
    std::fs::write(folder.file(), real_file(&team)).expect("written");
    let _ = line(&child, "\"configuration reloaded\"");
    child.terminate();
    let (status, said) = child.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("\"changed\":\"telemetry.filter\"") && !said.contains("canary"), "{said}");

    let folder = Folder::new(&real_file(&team));
    std::fs::write(folder.path().join("key"), "a-key").expect("written");
    let (running, proxy, _) = Running::serve(&folder, &[]);
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let ask = async |key: &str, account: &str| {
        let request = http::Request::get(format!("http://{proxy}{SYNC_STATUS}"))
            .header("authorization", format!("Bearer {key}"))
            .header("x-account-token", account)
            .body(http_body_util::Empty::<bytes::Bytes>::new());
        soon(client.request(request.expect("a request"))).await.expect("an answer").status().as_u16()
    };
    for _ in 0..100 {
        assert_eq!(ask("canary-key", "acme").await, 401);
    }
    let told = line(&running, "\"key refused\"");
    assert_eq!(
        (&told["target"], &told["reason"], &told["times"]),
        (&"audit".into(), &"unknown".into(), &1.into()),
        "{told}"
    );
    assert_eq!(told["key"].as_str().map(str::len), Some(8), "what stands for it");
    assert_eq!(ask("msp_off", "acme").await, 401);
    let told = line(&running, "\"key refused\"");
    assert_eq!((&told["reason"], &told["consumer"]), (&"disabled".into(), &"off".into()), "{told}");
    for (account, named) in [("globex", true), ("canary-guess", false)] {
        assert_eq!(ask("msp_team", account).await, 403);
        let told = line(&running, "\"account denied\"");
        assert_eq!((&told["consumer"], told["account"] == account), (&"msp_team".into(), named), "{told}");
    }
    running.terminate();
    let (_, said) = running.end();
    assert!(!said.contains("canary"), "{said}");
    assert_eq!(said.matches("key refused").count(), 2, "one of a kind a minute");
}
