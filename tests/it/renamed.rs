//! Upstreams that get another name, move or go while calls wait, fly and count: no limit is forgotten by that, and nothing is left.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use merge_sync_proxy::app::App;
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::merge::Merge;
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::upstream::ways::{Transport, transport};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;
use tower::ServiceExt;

use crate::support::{API_KEY, Got, SYNC_STATUS, merge, soon, with};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// An upstream of that name at that host, with that budget.
fn upstream(name: &str, host: &str, budget: &str) -> String {
    format!(
        "[upstreams.{name}]\nbase_url = '{host}'\napi_key = '{API_KEY}'\n\
         [upstreams.{name}.budget]\nerrors = 'unlimited'\n{budget}\n"
    )
}

/// The account of that name, with the token of that other.
fn account(name: &str, token: &str, upstream: &str) -> String {
    format!("[[accounts]]\nname = '{name}'\ntoken = 'token-of-{token}'\nupstream = '{upstream}'\n")
}

fn parse(text: &str, hasher: &TokenHasher) -> Config {
    let text = format!("[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n{text}");
    Config::parse(&text, Path::new("test.toml"), &|_| None, hasher).unwrap_or_else(|faults| panic!("{faults}"))
}

/// A proxy whose configuration is in a text that tests write.
struct Site {
    app: App,
    file: Arc<Mutex<String>>,
}

impl Site {
    fn new(text: &str, transport: impl Fn(&str) -> Option<Transport>) -> Self {
        let hasher = TokenHasher::new();
        let config = parse(text, &hasher);
        let ways = config.upstreams.iter().filter_map(|one| Some((one.name.clone(), transport(&one.name)?)));
        let ways: HashMap<_, _> = ways.collect();
        let app =
            if ways.is_empty() { App::new(config, &hasher) } else { Ok(App::with_transports(config, &hasher, ways)) };
        let (app, file) = (app.expect("no certificates"), Arc::new(Mutex::new(String::new())));
        let read = file.clone();
        app.reads(Box::new(move |hasher| Ok(parse(&read.lock(), hasher))));
        Self { app, file }
    }

    /// In front of one Merge for all upstreams.
    fn behind(text: &str) -> (Self, Merge) {
        let merge = merge().build();
        merge.page("acme", "ats", "{\"results\":[]}");
        (Self::new(text, |_| Some(transport(merge.clone()))), merge)
    }

    fn reload(&self, text: &str) {
        text.clone_into(&mut self.file.lock());
        self.app.reload(Cause::Signal).unwrap_or_else(|faults| panic!("{faults}"));
    }

    async fn get(&self, account: &str, cursor: usize) -> Got {
        let request = with(&format!("{SYNC_STATUS}?cursor={cursor}"), &[("x-account-token", account)]);
        let Ok(response) = self.app.service().oneshot(request).await;
        Got::whole(response).await
    }

    fn begin(&self, account: &'static str, cursor: usize) -> JoinHandle<Got> {
        let site = Self { app: self.app.clone(), file: self.file.clone() };
        tokio::spawn(async move { site.get(account, cursor).await })
    }

    async fn waiting(&self, count: usize) {
        while self.app.ground().budgets.waiting() < count {
            yield_now().await;
        }
    }

    /// The upstreams that operators are shown.
    fn shown(&self) -> Vec<String> {
        self.app.ground().budgets.upstreams().iter().map(|upstream| upstream.name.to_string()).collect()
    }
}

const HOST: &str = "http://merge.test";
const ONE: &str = "per_account = 'unlimited'\nconcurrency = 1\nmax_wait = '10s'";
const FEW: &str = "per_account = '5/min'\nmax_wait = '0s'";

#[tokio::test(start_paused = true)]
async fn an_account_that_moves_to_another_upstream_at_the_address_has_spent_what_it_has_spent() {
    let upstreams = [upstream("us", HOST, FEW), upstream("other", HOST, FEW)].concat();
    let text = |at: &str| format!("{upstreams}{}", account("acme", "acme", at));
    let (site, merge) = Site::behind(&text("us"));
    for second in 0..180 {
        site.get("acme", second).await;
        if second % 7 == 0 {
            site.reload(&text(if second % 2 == 0 { "other" } else { "us" }));
        }
        sleep(SECOND).await;
    }
    assert!((10..=15).contains(&merge.calls()), "{} calls in three minutes", merge.calls());
    assert_eq!(merge.max_in_any_window("acme", MINUTE), 5);
}

#[tokio::test(start_paused = true)]
async fn two_upstreams_at_one_address_make_no_more_calls_for_an_account_than_one() {
    let many = FEW.replace('5', "50");
    let upstreams = [upstream("us", HOST, FEW), upstream("other", HOST, &many)].concat();
    let text = format!("{upstreams}{}{}", account("acme", "acme", "us"), account("again", "acme", "other"));
    let (site, merge) = Site::behind(&text);
    for second in 0..180 {
        site.get("acme", second).await;
        site.get("again", second).await;
        sleep(SECOND).await;
    }
    assert_eq!(merge.max_in_any_window("acme", MINUTE), 5);
    assert!(merge.calls() >= 10, "{} calls in three minutes", merge.calls());

    let changed = text.replace("'5/min'", "'50/min'");
    site.reload(&changed);
    sleep(MINUTE).await;
    merge.clear_log();
    let answers = [site.get("acme", 1_000).await, site.get("again", 1_000).await, site.get("acme", 1_001).await];
    assert!(answers.iter().all(|got| got.status == 200), "the limit of before is forgotten: {answers:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_upstream_that_is_removed_goes_within_its_limits_and_it_is_shown_no_more() {
    let other = upstream("other", HOST, ONE);
    let (us, acme) = (upstream("us", HOST, ONE), account("acme", "acme", "us"));
    let (site, merge) = Site::behind(&format!("{us}{other}{acme}"));
    let held = merge.hold();
    let all: Vec<_> = (0..10).map(|cursor| site.begin("acme", cursor)).collect();
    merge.arrived(1).await;
    site.waiting(9).await;
    let moved = acme.replace("'us'", "'other'");
    site.reload(&format!("{other}{moved}"));
    merge.set(Fault::Delay(SECOND / 2));
    held.release();
    // What changes after that is nothing to those who wait.
    for seconds in [7, 8, 9] {
        sleep(SECOND).await;
        site.reload(&format!("{other}{moved}[cache.ttl]\nnegative = '{seconds}s'\n"));
    }
    let answers = join_all(all).await.into_iter().map(|got| got.expect("no panic").status.as_u16());
    assert_eq!((answers.collect::<Vec<_>>(), merge.most_in_flight()), (vec![200; 10], 1));
    assert_eq!(site.shown(), [""; 0], "the other has not been called");
    assert_eq!(site.get("acme", 20).await.status, 200);
    assert_eq!(site.shown(), ["other"]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_upstream_that_gets_another_name_and_a_lower_limit_goes_within_that() {
    let text = |name: &str, rate: &str| {
        let budget = format!("per_account = '{rate}'\nmax_wait = '10min'");
        [upstream(name, HOST, &budget), account("acme", "acme", name)].concat()
    };
    let (site, merge) = Site::behind(&text("us", "90/min"));
    let waiting: Vec<_> = (0..60).map(|cursor| site.begin("acme", cursor)).collect();
    sleep(SECOND).await;
    assert!(merge.calls() >= 18, "{} calls by the limit of before", merge.calls());
    site.reload(&text("other", "4/min"));
    merge.clear_log();
    sleep(MINUTE * 5 / 2).await;
    let most = merge.max_in_any_window("acme", MINUTE);
    assert!((1..=4).contains(&most), "{most} calls in a minute, of 4");
    waiting.iter().for_each(JoinHandle::abort);
}

/// Two Merges, each of which says which it is.
pub(crate) async fn servers() -> [(Merge, String); 2] {
    let mut servers = Vec::new();
    for server in ["old", "new"] {
        let merge = merge().build();
        merge.page("acme", "ats", format!("{{\"results\":[],\"server\":\"{server}\"}}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(merge.clone().serve(listener, std::future::pending::<()>()));
        servers.push((merge, url));
    }
    servers.try_into().unwrap_or_else(|_| panic!("two were made"))
}

#[tokio::test]
async fn who_waits_for_an_upstream_that_moves_does_not_wait_for_where_it_was() {
    let [(old, at), (_, to)] = servers().await;
    let text = |url: &str| [upstream("us", url, ONE), account("acme", "acme", "us")].concat();
    let site = Site::new(&text(&at), |_| None);
    let held = old.hold();
    let first = site.begin("acme", 1);
    old.arrived(1).await;
    let second = site.begin("acme", 2);
    soon(site.waiting(1)).await;
    site.reload(&text(&to));
    let got = soon(second).await.expect("no panic");
    assert!(String::from_utf8_lossy(&got.body).contains("new"), "{:?}", got.body);
    assert_eq!(site.shown(), ["us"]);
    held.release();
    assert_eq!(soon(first).await.expect("no panic").status, 200);
    assert_eq!(site.shown(), ["us"]);
}

#[tokio::test]
async fn an_upstream_that_comes_back_as_another_server_has_no_page_of_the_one_before() {
    let [(old, at), (_, to)] = servers().await;
    let acme = account("acme", "acme", "us");
    let other = upstream("other", &to, ONE);
    let site = Site::new(&[&*other, &*upstream("us", &at, ONE), &*acme].concat(), |_| None);
    let held = old.hold();
    let first = site.begin("acme", 1);
    old.arrived(1).await;
    let second = site.begin("acme", 2);
    soon(site.waiting(1)).await;
    site.reload(&[&*other, &*acme.replace("'us'", "'other'")].concat());
    held.release();
    for call in [first, second] {
        assert_eq!(soon(call).await.expect("no panic").status, 200);
    }
    site.reload(&[&*other, &*upstream("us", &to, ONE), &*acme].concat());
    let got = soon(site.get("acme", 2)).await;
    assert!(String::from_utf8_lossy(&got.body).contains("new"), "{:?}", got.body);
}
