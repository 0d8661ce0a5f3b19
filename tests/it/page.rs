//! The status page in a real browser, in front of the real demo.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::fault::Fault;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::chromium::Browser;
use crate::process::Running;
use crate::reload::reloads;
use crate::support::{SYNC_STATUS, Wire, merge, soon, text};

/// The accounts of the demo, as its welcome names them, and where it listens.
struct Demo {
    running: Running,
    proxy: String,
    admin: String,
    accounts: Vec<(String, String)>,
}

impl Demo {
    fn start(proxy: &str, admin: &str) -> Self {
        let running = Running::start(&["demo", "--listen", proxy, "--admin", admin], &[]);
        let url =
            |line: String| line.split_whitespace().find_map(|word| word.strip_prefix("http://").map(str::to_owned));
        let proxy = url(running.line_with("proxy  ")).expect("a URL");
        let admin = url(running.line_with("status page ")).expect("a URL");
        running.line_with("accounts, to be named");
        let mut accounts = Vec::new();
        loop {
            let line = running.line_with("");
            let mut words = line.split_whitespace().map(str::to_owned);
            let (Some(name), Some(category)) = (words.next(), words.next()) else { break };
            accounts.push((name, category));
        }
        Self { running, proxy, admin: admin.trim_end_matches('/').to_owned(), accounts }
    }

    /// Asks for the pages of all accounts, `times` times.
    async fn ask(&self, times: usize) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        for (account, category) in self.accounts.iter().cycle().take(self.accounts.len() * times) {
            self.ask_for(&client, account, category).await;
        }
    }

    /// Asks with a token that Merge does not know.
    async fn ask_as_a_stranger(&self) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        self.ask_for(&client, "a-token-that-nobody-has", "ats").await;
    }

    async fn ask_for(&self, client: &Client<HttpConnector, Empty<Bytes>>, account: &str, category: &str) {
        let request = Request::get(format!("http://{}/api/{category}/v1/sync-status", self.proxy));
        let request = request.header("x-account-token", account).body(Empty::<Bytes>::new()).expect("a request");
        let answer = soon(client.request(request)).await.expect("an answer");
        answer.into_body().collect().await.expect("a whole body");
    }
}

const ROWS: &str = "[...document.querySelectorAll('#accounts-table tbody tr')]";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_happens_and_survives_a_restart() {
    let Some(mut browser) = Browser::start().await else { return };
    let demo = Demo::start("127.0.0.1:0", "127.0.0.1:0");
    let (proxy, admin) = (demo.proxy.clone(), demo.admin.clone());
    let account = demo.accounts[0].0.clone();
    browser.look(1280, "light").await;
    browser.open(&format!("http://{admin}/")).await;
    browser.until("document.body?.dataset.live === 'yes'").await;

    // The demo has no file to reload.
    assert_eq!(browser.value("document.getElementById('reload-open').hidden").await, true);

    // Numbers move after requests.
    let requests = "document.querySelector('#tiles [data-key=requests] dd').textContent";
    assert_eq!(browser.value(requests).await, "0.0/s");
    demo.ask(5).await;
    browser.until(&format!("parseFloat({requests}) > 0")).await;
    browser.until(&format!("{ROWS}.length === {}", demo.accounts.len())).await;
    browser.until("document.querySelector('#consumers-table tbody tr').innerText.includes('open')").await;

    // The worst is first, and other orders are a click away.
    let states = format!(
        "{ROWS}.map(row => ['Problem', 'Warning', 'OK', 'Idle'].indexOf(row.querySelector('.state').innerText))"
    );
    browser.until(&format!("(all => all.every((state, at) => at === 0 || all[at - 1] <= state))({states})")).await;
    let head = |sort: &str| format!("th[data-sort={sort}] button");
    let sorted = |sort: &str| format!("document.querySelector('th[data-sort={sort}]').getAttribute('aria-sort')");
    let names = format!("{ROWS}.map(row => row.querySelector('.name').innerText)");
    for (order, comparison) in [("ascending", "<"), ("descending", ">")] {
        browser.click(&head("name")).await;
        browser.until(&format!("{} === '{order}'", sorted("name"))).await;
        browser
            .until(&format!("(all => all.every((name, at) => at === 0 || all[at - 1] {comparison} name))({names})"))
            .await;
    }
    browser.click(&head("problems")).await;

    // A filter leaves what fits.
    browser.click("#filter").await;
    browser.type_text(&account).await;
    browser.until(&format!("{ROWS}.length === 1 && {ROWS}[0].innerText.includes('{account}')")).await;

    // The explanation of an account, by its button.
    browser.click("#accounts-table td.actions button").await;
    browser.until("document.getElementById('explained').innerText.includes('The next request would')").await;
    browser.until(&format!("document.getElementById('explain-account').value === '{account}'")).await;
    browser.until("document.getElementById('explained').innerText.includes('Refreshes')").await;

    // A purge asks first. Escape means no.
    let notice = "document.getElementById('notice').innerText";
    browser.click("#accounts-table td.actions button.danger").await;
    browser.until("document.getElementById('purge').open").await;
    browser.picture("purge.png").await;
    browser.press("Escape", 27).await;
    browser.until("!document.getElementById('purge').open").await;
    assert_eq!(browser.value("document.getElementById('notice').hidden").await, true);
    browser.click("#accounts-table td.actions button.danger").await;
    browser.click("#purge-confirm").await;
    browser.until(&format!("{notice}.includes('of {account} made stale')")).await;
    browser.until(&format!("document.getElementById('events').innerText.includes('Purged {account}')")).await;
    browser.value("filter.value = '', filter.dispatchEvent(new Event('input'))").await;
    browser.until(&format!("{ROWS}.length === {}", demo.accounts.len())).await;

    looks(&mut browser, &demo).await;
    assert_eq!(browser.complaints, Vec::<String>::new());

    // The proxy goes and comes back: the page says so and goes on.
    demo.running.terminate();
    assert_eq!(demo.running.end().0.code(), Some(0));
    browser.until("document.body.dataset.live === 'no'").await;
    assert!(
        browser.value("document.getElementById('live-text').innerText").await.as_str().expect("text").contains("lost")
    );
    let _demo = Demo::start(&proxy, &admin);
    browser.until("document.body.dataset.live === 'yes'").await;
    browser.until(&format!("{notice}.includes('restarted')")).await;
    // A browser tells of each load that failed, and for a while nobody was there.
    let other = browser.complaints.iter().filter(|text| !text.contains("net::ERR_")).collect::<Vec<_>>();
    assert!(other.is_empty(), "{other:?}");
}

/// Pictures of the page, light and dark, wide and narrow; nothing sticks out, and everything that can be used has a name.
async fn looks(browser: &mut Browser, demo: &Demo) {
    demo.ask_as_a_stranger().await;
    let stranger = format!("{ROWS}.find(row => row.querySelector('.raw')?.innerText.startsWith('raw:'))");
    browser.until(&format!("{stranger}?.innerText.includes('does not know the token (401)')")).await;
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")] {
        browser.look(width, scheme).await;
        demo.ask(2).await;
        browser.until(&format!("innerWidth === {width} && document.documentElement.scrollWidth <= {width}")).await;
        browser.picture(&format!("{width}-{scheme}.png")).await;
    }
    browser.look(1280, "light").await;
    let tree = browser.send("Accessibility.getFullAXTree", serde_json::json!({})).await;
    let nodes = tree["nodes"].as_array().expect("nodes");
    let text = |node: &serde_json::Value, field: &str| node[field]["value"].as_str().unwrap_or_default().to_owned();
    let has = |role: &str, name: &str| {
        nodes.iter().any(|node| text(node, "role") == role && text(node, "name").starts_with(name))
    };
    for (role, name) in [
        ("banner", ""),
        ("main", ""),
        ("heading", "merge-sync-proxy"),
        ("region", "Accounts"),
        ("table", "Linked accounts"),
        ("table", "Consumers"),
        ("searchbox", "Filter accounts"),
    ] {
        assert!(has(role, name), "{role} {name}");
    }
    let controls = ["button", "textbox", "searchbox", "combobox", "radio", "link", "image"];
    let nameless: Vec<_> = nodes
        .iter()
        .filter(|node| {
            node["ignored"] == false && controls.contains(&&*text(node, "role")) && text(node, "name").is_empty()
        })
        .collect();
    assert!(nameless.is_empty(), "{nameless:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_asks_first_and_tells_each_fault_with_its_place() {
    let Some(mut browser) = Browser::start().await else { return };
    let wire = Wire::new().await;
    let base_url = format!("http://{}", wire.app.config().default_upstream.authority);
    let file = Arc::new(Mutex::new(String::new()));
    let write = |more: &str| *file.lock() = text(&base_url, "", more);
    let read = file.clone();
    wire.app.reads(Box::new(move |hasher| Config::parse(&read.lock(), Path::new("proxy.toml"), &|_| None, hasher)));
    write("[cache.ttl]\nnegative = '7s'\n[telemetry]\nlog = 'json'\n");
    browser.look(1280, "light").await;
    browser.open(&format!("http://{}/", wire.admin)).await;
    browser.until("document.body?.dataset.live === 'yes'").await;

    // By the keyboard alone; Escape means no.
    let focused = |id: &str| format!("document.activeElement.id === '{id}'");
    browser.value("document.getElementById('reload-open').focus()").await;
    browser.press("Enter", 13).await;
    browser.until(&focused("reload-cancel")).await;
    browser.press("Escape", 27).await;
    browser.until(&focused("reload-open")).await;
    assert_eq!(reloads(&wire.app), (0, 0));

    let report = |words: &str| format!("document.getElementById('reload-report').innerText.includes('{words}')");
    browser.press("Enter", 13).await;
    browser.until(&focused("reload-cancel")).await;
    browser.press("Tab", 9).await;
    browser.until(&focused("reload-confirm")).await;
    browser.press("Enter", 13).await;
    for words in ["Reloaded.", "cache.ttl.negative", "until a restart", "telemetry.log"] {
        browser.until(&report(words)).await;
    }
    assert_eq!(reloads(&wire.app), (1, 0));
    browser.until("document.getElementById('restart').innerText.includes('Needs a restart')").await;
    browser.until("document.getElementById('restart').innerText.includes('telemetry.log')").await;
    browser.picture("reload-done.png").await;

    // The focus is where it was, so the same key tries again.
    write("[cache.ttl]\nnegative = 'soon'\n[server]\nlisten = ['127.0.0.1:0']\ndrain = 5\n");
    browser.press("Enter", 13).await;
    for words in
        ["Nothing was changed: there are 2 faults", "cache.ttl.negative", "soon", "server.drain", "proxy.toml, line "]
    {
        browser.until(&report(words)).await;
    }
    assert_eq!(reloads(&wire.app), (1, 1));
    for (width, scheme) in [(1280, "light"), (390, "dark")] {
        browser.look(width, scheme).await;
        browser.until(&format!("innerWidth === {width} && document.documentElement.scrollWidth <= {width}")).await;
        browser.picture(&format!("reload-faults-{width}.png")).await;
    }
    let tree = browser.send("Accessibility.getFullAXTree", serde_json::json!({})).await;
    let has = |role: &str, name: &str| {
        let text = |node: &serde_json::Value, field: &str| node[field]["value"].as_str().unwrap_or_default().to_owned();
        let mut nodes = tree["nodes"].as_array().expect("nodes").iter();
        nodes.any(|node| text(node, "role") == role && text(node, "name").starts_with(name))
    };
    assert!(has("dialog", "Configuration not reloaded") && has("alert", "") && has("button", "Reload again"));
    browser.look(1280, "light").await;

    // The page itself tells it as well, until it is mended.
    browser.press("Escape", 27).await;
    browser.until("document.getElementById('reload').innerText.includes('was not taken in')").await;
    browser.until("document.getElementById('events').innerText.includes('Reload failed')").await;
    browser.picture("reload-failed.png").await;
    write("[cache.ttl]\nnegative = '7s'\n");
    browser.click("#reload-open").await;
    browser.click("#reload-confirm").await;
    browser.until(&report("Nothing has changed in the file.")).await;
    browser.click("#reload-cancel").await;
    browser.until("document.getElementById('reload').hidden").await;
    browser.until("document.getElementById('restart').hidden").await;
    let other = browser.complaints.iter().filter(|text| !text.contains("422")).collect::<Vec<_>>();
    assert!(other.is_empty(), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_left_alone_is_told_at_the_top() {
    let Some(mut browser) = Browser::start().await else { return };
    let budget = "per_account = 'unlimited'\nerrors = 'unlimited'\nmax_wait = '0s'\nbreaker = 2";
    let wire = Wire::with(merge(), &format!("[upstreams.us.budget]\n{budget}\n")).await;
    browser.open(&format!("http://{}/", wire.admin)).await;
    browser.until("document.body?.dataset.live === 'yes'").await;
    let stopped = "document.getElementById('stopped')";
    assert_eq!(browser.value(&format!("{stopped}.hidden")).await, true);
    wire.merge.set(Fault::ResetBeforeHeaders);
    for number in 1..5 {
        wire.get(&format!("{SYNC_STATUS}?page_size={number}")).await;
    }
    browser.until(&format!("!{stopped}.hidden && {stopped}.innerText.startsWith('No calls go to us')")).await;
    wire.merge.clear();
    // Until a trial call has gone out and succeeded.
    let mut number = 5;
    let recovered = async {
        while wire.get(&format!("{SYNC_STATUS}?page_size={number}")).await.status != 200 {
            number += 1;
            sleep(Duration::from_millis(50)).await;
        }
    };
    soon(recovered).await;
    browser.until(&format!("{stopped}.hidden")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_the_page_asks_for_it_and_keeps_it_for_the_tab() {
    let Some(mut browser) = Browser::start().await else { return };
    let wire = Wire::with_admin(merge(), "token = 'let-me-in'").await;
    wire.get(SYNC_STATUS).await;
    browser.open(&format!("http://{}/", wire.admin)).await;
    browser.until("document.getElementById('login')?.hidden === false").await;
    assert_eq!(browser.value("document.getElementById('status').hidden").await, true);
    browser.click("#token").await;
    browser.type_text("let-me-out").await;
    browser.press("Enter", 13).await;
    browser.until("document.getElementById('login-error').innerText.includes('not the token')").await;
    browser.type_text("let-me-in").await;
    browser.press("Enter", 13).await;
    browser.until("document.body.dataset.live === 'yes' && document.getElementById('login').hidden").await;
    browser.until(&format!("{ROWS}.length === 2")).await;
    browser.click("#accounts-table td.actions button.danger").await;
    browser.click("#purge-confirm").await;
    browser.until("document.getElementById('notice').innerText.includes('made stale')").await;
    browser.open(&format!("http://{}/?again", wire.admin)).await;
    browser.until("location.search === '?again' && document.body?.dataset.live === 'yes'").await;
    let other = browser.complaints.iter().filter(|text| !text.contains("401")).collect::<Vec<_>>();
    assert!(other.is_empty(), "{other:?}");
}
