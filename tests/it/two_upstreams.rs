//! Two upstreams: what holds of an account at one of them is neither told nor counted of the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use merge_sync_proxy::admin::observer::Snapshot;
use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::app::App;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::upstream::ways::transport;
use tokio::time::sleep;
use tower::ServiceExt;

use crate::exposition::value;
use crate::support::{ACME_TOKEN, API_KEY, SYNC_STATUS, merge, with};

const JOBS: &str = "/api/ats/v1/jobs";

/// One Merge that is two upstreams, and one token that is an account at each of them. One route is served by the second.
fn app() -> App {
    let hosts = ["us", "other"].map(|name| format!("base_url = 'http://{name}.test'\napi_key = '{API_KEY}'\n"));
    let text = format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [upstreams.us]\n{}[upstreams.us.budget]\nper_account = '100/min'\n\
         [upstreams.other]\n{}[upstreams.other.budget]\nper_account = '20/min'\n\
         [[accounts]]\nname = 'acme'\ntoken = '{ACME_TOKEN}'\nupstream = 'us'\n\
         [[accounts]]\nname = 'twin'\ntoken = '{ACME_TOKEN}'\nupstream = 'other'\n\
         [[routes]]\npath = '{SYNC_STATUS}'\n[[routes]]\npath = '{JOBS}'\nupstream = 'other'\ncache = '5s'\n",
        hosts[0], hosts[1]
    );
    let (merge, hasher) = (merge().build(), TokenHasher::new());
    let config = Config::parse(&text, Path::new("test.toml"), &|_| None, &hasher).expect("sound");
    let transports = [("us".into(), transport(merge.clone())), ("other".into(), transport(merge))].into();
    App::with_transports(config, &hasher, transports)
}

async fn get(app: &App, account: &str, target: &str) {
    let Ok(_) = app.service().oneshot(with(target, &[("x-account-token", account)])).await;
}

#[tokio::test(start_paused = true)]
async fn the_budget_of_an_account_is_that_at_the_upstream_which_it_is_told_of() {
    let app = app();
    get(&app, "acme", SYNC_STATUS).await;
    get(&app, "acme", JOBS).await;
    let text = app.metrics();
    for (upstream, limit, burst) in [("us", 100.0, 20.0), ("other", 20.0, 4.0)] {
        let of =
            |name: &str| value(&text, &format!("merge_sync_proxy_{name}{{upstream=\"{upstream}\",account=\"acme\"}}"));
        let told = [of("budget_limit"), of("budget_burst"), of("budget_remaining")];
        let expected = [limit, burst, burst - 1.0];
        assert!(
            told.iter().zip(expected).all(|(told, expected)| (told - expected).abs() < 0.1),
            "{upstream}: {told:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_is_shown_with_the_account_whose_it_is() {
    let app = app();
    let pages = |snapshot: &Arc<Snapshot>| {
        let mut pages: Vec<_> = snapshot.rows.iter().map(|row| (row.name.clone(), row.pages)).collect();
        pages.sort();
        pages
    };
    for (account, expected) in [("twin", [0, 1]), ("acme", [1, 1])] {
        get(&app, account, SYNC_STATUS).await;
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        let [acme, twin] = expected;
        assert_eq!(pages(&app.look()), [("acme".to_owned(), acme), ("twin".to_owned(), twin)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_of_one_upstream_holds_back_no_call_through_another_at_its_address() {
    const CRM: &str = "/api/crm/v1/sync-status";
    let budget = "per_account = 'unlimited'\nmax_wait = '0s'";
    let upstream = |name: &str, key: &str| {
        format!(
            "[upstreams.{name}]\nbase_url = 'http://merge.test'\napi_key = '{key}'\n[upstreams.{name}.budget]\n{budget}\n"
        )
    };
    let text = format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n{}{}\
         [[accounts]]\nname = 'acme'\ntoken = '{ACME_TOKEN}'\nupstream = 'us'\n\
         [[routes]]\npath = '{SYNC_STATUS}'\n[[routes]]\npath = '{CRM}'\nupstream = 'other'\ncache = '5s'\n",
        upstream("us", API_KEY),
        upstream("other", "wrong"),
    );
    let (merge, hasher) = (merge().build(), TokenHasher::new());
    merge.page("acme", "ats", "{\"results\":[]}");
    let config = Config::parse(&text, Path::new("test.toml"), &|_| None, &hasher).expect("sound");
    let transports = ["us", "other"].map(|name| (name.into(), transport(merge.clone())));
    let app = App::with_transports(config, &hasher, transports.into());
    let get = async |path: &str, number: u32| {
        let request = with(&format!("{path}?cursor={number}"), &[("x-account-token", "acme")]);
        let Ok(response) = app.service().oneshot(request).await;
        response.status().as_u16()
    };
    for number in 0..100 {
        assert_eq!(get(SYNC_STATUS, number).await, 200, "number {number}");
        assert_eq!(get(CRM, number).await, 401, "what is remembered of it tells why");
        sleep(Duration::from_millis(100)).await;
    }
}
