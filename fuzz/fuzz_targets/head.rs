//! Any bytes on a socket: the proxy answers or closes, Merge hears only of what a consumer may ask, and what gets a page can be read in
//! one way only.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::app::{App, Listeners};
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::demo::account::SimAccount;
use merge_sync_proxy::demo::merge::Merge;
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::upstream::ways::transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

struct Ground {
    runtime: Runtime,
    socket: PathBuf,
    merge: Merge,
}

static GROUND: LazyLock<Ground> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("threads");
    let socket = std::env::temp_dir().join(format!("merge-sync-proxy-fuzz-{}.sock", std::process::id()));
    let merge = Merge::builder().unlimited();
    let accounts = ["acme", "globex"].map(|name| SimAccount::new(name, format!("token-of-{name}")).by_hand());
    let merge = accounts.into_iter().fold(merge, |merge, account| merge.account(account));
    let _context = runtime.enter();
    let merge = merge.build();
    let hash = merge_sync_proxy::door::consumer_key::hash("k");
    let text = format!(
        "[server]\nlisten = ['unix:{}']\n[admin]\nlisten = '127.0.0.1:0'\n[upstreams.us]\nbase_url = 'http://merge.test'\n\
         api_key = 'test-api-key'\n[upstreams.us.budget]\nper_account = 'unlimited'\nerrors = 'unlimited'\n\
         [[accounts]]\nname = 'acme'\ntoken = 'token-of-acme'\n[[accounts]]\nname = 'globex'\ntoken = 'token-of-globex'\n\
         [[consumers]]\nname = 'team'\nkey_sha256 = '{hash}'\naccounts = ['acme']\n",
        socket.display()
    );
    let hasher = TokenHasher::new();
    let config =
        Config::parse(&text, Path::new("fuzz.toml"), &|_| None, &hasher).unwrap_or_else(|faults| panic!("{faults}"));
    let listeners = runtime.block_on(Listeners::bind(&config)).expect("a free socket");
    let app = App::with_transports(config, &hasher, [("us".into(), transport(merge.clone()))].into());
    runtime.spawn(async move { app.serve(listeners, std::future::pending::<()>()).await });
    Ground { runtime, socket, merge }
});

fuzz_target!(|bytes: &[u8]| {
    let Ground { runtime, socket, merge } = &*GROUND;
    let answers = runtime.block_on(async {
        let mut stream = UnixStream::connect(socket).await.expect("the proxy listens");
        let exchange = async {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answers = Vec::new();
            let _ = stream.read_to_end(&mut answers).await;
            answers
        };
        tokio::time::timeout(Duration::from_secs(5), exchange).await.expect("it answers or closes")
    });
    assert_eq!(merge.calls_for("globex"), 0, "nobody may ask for this");
    for call in merge.log() {
        assert_eq!((call.account.as_deref(), call.path.ends_with("/v1/sync-status")), (Some("acme"), true));
        assert!(call.query.is_none_or(|query| query.bytes().all(|byte| byte.is_ascii_graphic())));
        assert!(call.headers.keys().all(|name| KNOWN.contains(&name.as_str())), "{:?}", call.headers);
    }
    merge.clear_log();
    if answers.starts_with(b"HTTP/1.1 200") || answers.starts_with(b"HTTP/1.0 200") {
        assert_plain(bytes);
    }
});

/// What Merge hears.
const KNOWN: [&str; 8] =
    ["host", "authorization", "x-account-token", "accept", "accept-encoding", "user-agent", "via", "if-none-match"];

/// Asserts that the first head of a request that got a page says one thing only.
fn assert_plain(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches("\r\n");
    let head = text.split_once("\r\n\r\n").expect("a whole head").0;
    assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']));
    let mut lines = head.split("\r\n");
    assert!(!lines.next().expect("a request line").contains('#'));
    let names: Vec<String> = lines.map(|line| line.split_once(':').expect("a field").0.to_ascii_lowercase()).collect();
    let times = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
    assert_eq!((times("authorization"), times("x-account-token")), (1, 1));
    assert!(
        times("host") <= 1 && times("content-length") <= 1 && times("transfer-encoding") == 0 && names.len() <= 100
    );
}
