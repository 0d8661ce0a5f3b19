//! Merge's own SDKs for Python and Node, as consumers use them, in front of the real proxy. Nothing of them is touched but the
//! base URL and the credentials.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use merge_sync_proxy::demo::fault::Fault;
use merge_sync_proxy::demo::models::CATEGORIES;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use crate::packages;
use crate::process::{Folder, Running};
use crate::support::{ACME_TOKEN, API_KEY, Wire, consumer, merge};

/// Pages that outlive any test.
const LONG: &str = "[cache.ttl]\nsettled = '1h'\n";

/// Longer than a process takes to start on a busy machine, and than any pause that a test makes an SDK take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The categories that the SDK for Node has.
const OF_NODE: [&str; 6] = ["ats", "hris", "accounting", "crm", "ticketing", "filestorage"];

/// A consumer that speaks through one of the SDKs.
struct Sdk {
    language: &'static str,
    categories: &'static [&'static str],
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Sdk {
    /// One for each language; none if they are left out.
    fn all() -> Vec<Self> {
        if packages::are_left_out() {
            return Vec::new();
        }
        let mut python = Command::new(packages::python("sdk/python"));
        python.arg(packages::source("sdk/python/consumer.py"));
        let mut node = Command::new("node");
        node.arg(packages::source("sdk/node/consumer.mjs")).arg(packages::node("sdk/node"));
        vec![Self::start("Python", &CATEGORIES, python), Self::start("Node", &OF_NODE, node)]
    }

    fn start(language: &'static str, categories: &'static [&'static str], mut command: Command) -> Self {
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("it has told its version");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped")).lines();
        Self { language, categories, input, output, _process: process }
    }

    /// Calls `sync_status.list` and returns what comes of it.
    async fn list(&mut self, call: &Value) -> Value {
        self.input.write_all(format!("{call}\n").as_bytes()).await.expect("it reads");
        let line = timeout(PATIENCE, self.output.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} does not answer {call}", self.language)).expect("UTF-8");
        let line = line.unwrap_or_else(|| panic!("{} has ended over {call}", self.language));
        serde_json::from_str(&line).expect("JSON")
    }
}

/// A call of a consumer with this key for `ats`, with `more`.
fn call(proxy: SocketAddr, key: &str, more: &Value) -> Value {
    let mut call = json!({ "base_url": format!("http://{proxy}/api"), "api_key": key, "category": "ats" });
    let more = more.as_object().expect("an object").clone();
    call.as_object_mut().expect("an object").extend(more);
    call
}

#[tokio::test]
async fn base_urls_with_and_without_api_reach_every_category() {
    let wire = Wire::with(merge(), LONG).await;
    for category in CATEGORIES {
        let model = json!({ "model_name": "M", "model_id": format!("{category}.M"), "status": "DONE", "is_initial_sync": false });
        let page = json!({ "next": null, "previous": null, "results": [model] });
        wire.merge.page("acme", category, page.to_string());
    }
    for mut sdk in Sdk::all() {
        wire.merge.clear_log();
        wire.app.ground().store.purge_all(true, Instant::now());
        for category in sdk.categories {
            for end in ["/api", "/api/", "", "/"] {
                let url = format!("http://{}{end}", wire.proxy);
                let more = json!({ "base_url": url, "account_token": "acme", "category": category });
                let page = sdk.list(&call(wire.proxy, "any", &more)).await;
                let expected = json!({ "next": null, "results": [[format!("{category}.M"), "DONE"]] });
                assert_eq!(page, expected, "{} at {end:?}", sdk.language);
            }
        }
        let paths: Vec<_> = wire.merge.log().into_iter().map(|seen| seen.path).collect();
        let once_each = sdk.categories.iter().map(|category| format!("/api/{category}/v1/sync-status"));
        assert_eq!(paths, once_each.collect::<Vec<_>>(), "{}", sdk.language);
    }
}

#[tokio::test]
async fn cursors_lead_through_all_pages() {
    let wire = Wire::with(merge(), LONG).await;
    let states = wire.merge.states("acme");
    let all: Vec<Value> = states.iter().map(|state| json!([state.model_id, "DONE"])).collect();
    let pages = all.len().div_ceil(2);
    assert!(pages > 3);
    for mut sdk in Sdk::all() {
        let mut seen = Vec::new();
        let mut more = json!({ "account_token": "acme", "page_size": 2 });
        loop {
            let page = sdk.list(&call(wire.proxy, "any", &more)).await;
            seen.extend(page["results"].as_array().unwrap_or_else(|| panic!("{page}")).clone());
            if page["next"].is_null() {
                break;
            }
            more["cursor"] = page["next"].clone();
        }
        assert_eq!(seen, all, "{}", sdk.language);
        if sdk.language == "Node" {
            let by_itself = json!({ "account_token": "acme", "page_size": 2, "all": true });
            assert_eq!(sdk.list(&call(wire.proxy, "any", &by_itself)).await["results"], json!(all));
        }
        // However a language escapes a cursor, it is the same page.
        assert_eq!(wire.merge.calls(), pages, "{}", sdk.language);
    }
}

#[tokio::test]
async fn an_account_is_named_by_name_by_token_or_not_at_all() {
    let team = consumer("team", "accounts = ['acme']\nraw_tokens = true\ndefault_account = 'acme'");
    let wire = Wire::with(merge(), &format!("{LONG}{team}")).await;
    for (mut sdk, before) in Sdk::all().into_iter().zip(0..) {
        for account in [json!({ "account_token": "acme" }), json!({ "account_token": ACME_TOKEN }), json!({})] {
            let page = sdk.list(&call(wire.proxy, "team", &account)).await;
            assert_eq!(page["results"][0], json!(["ats.Candidate", "DONE"]), "{} with {account}: {page}", sdk.language);
        }
        assert_eq!(wire.merge.calls(), 1, "{} and the {before} before it share a page", sdk.language);
        let sent = &wire.merge.log()[0].headers;
        assert_eq!(sent["x-account-token"], ACME_TOKEN);
        assert_eq!(sent["authorization"], format!("Bearer {API_KEY}"));
    }
}

#[tokio::test]
async fn errors_arrive_typed_with_status_and_body() {
    for mut sdk in Sdk::all() {
        let consumers = consumer("team", "accounts = ['acme']") + &consumer("slow", "accounts = ['*']\nquota = '1/h'");
        let wire = Wire::with(merge(), &consumers).await;
        let name = if sdk.language == "Python" { "ApiError" } else { "MergeError" };
        let more = |account: &str| json!({ "account_token": account, "max_retries": 0 });
        let mut refused = async |key: &str, account: &str, status: u16, slug: &str| {
            let error = sdk.list(&call(wire.proxy, key, &more(account))).await;
            let told = json!({ "error": error["error"], "status": error["status"], "type": error["type"] });
            assert_eq!(told, json!({ "error": name, "status": status, "type": "application/problem+json" }), "{error}");
            assert_eq!(error["body"]["type"], format!("urn:merge-sync-proxy:error:{slug}"), "{error}");
            assert_eq!(error["body"]["status"], status);
            assert!(error["body"]["detail"].is_string() && error["body"]["request_id"].is_string());
        };
        refused("nobody", "acme", 401, "unknown-consumer").await;
        refused("team", "globex", 403, "account-not-allowed").await;
        assert_eq!(wire.merge.calls(), 0);
        wire.merge.set(Fault::ResetBeforeHeaders);
        refused("slow", "acme", 502, "upstream-failed").await;
        refused("slow", "acme", 429, "quota-exceeded").await;
        wire.merge.clear();
        wire.merge.revoke("acme");
        let error = sdk.list(&call(wire.proxy, "team", &more("acme"))).await;
        let body = json!({ "detail": "Invalid account token." });
        assert_eq!(error, json!({ "error": name, "status": 401, "type": "application/json", "body": body }));
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let sdks = Sdk::all();
    let consumers = sdks.iter().map(|sdk| consumer(sdk.language, "accounts = ['acme']\nquota = '1/5s'"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let upstream = listener.local_addr().expect("it is bound");
    tokio::spawn(merge().build().serve(listener, std::future::pending::<()>()));
    // The binary, for its log: it shows every try, where an SDK shows only how the last one ended.
    let folder = Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\nbase_url = 'http://{upstream}'\napi_key = {{ env = 'KEY' }}\n\
         [[accounts]]\nname = 'acme'\ntoken = {{ env = 'TOKEN' }}\n{}",
        consumers.collect::<String>()
    ));
    let (proxy, address, _) = Running::serve(&folder, &[("KEY", API_KEY), ("TOKEN", ACME_TOKEN)]);
    let languages = join_all(sdks.into_iter().map(async |mut sdk| {
        let call = call(address, sdk.language, &json!({ "account_token": "acme" }));
        for _ in 0..2 {
            let page = sdk.list(&call).await;
            assert_eq!(page["results"][0], json!(["ats.Candidate", "DONE"]), "{}: {page}", sdk.language);
        }
        sdk.language
    }));
    let languages = languages.await;
    proxy.terminate();
    let (_, said) = proxy.end();
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for language in languages {
        let statuses = lines.iter().filter(|line| line["consumer"] == language).map(|line| &line["status"]);
        // Of its own, an SDK would try again after a second, and be refused once more.
        assert_eq!(statuses.collect::<Vec<_>>(), [200, 429, 200], "{language}");
    }
}
