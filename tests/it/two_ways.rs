//! What is answered by heart, and what is read field by field: whatever comes, in whichever pieces, and whatever happens meanwhile, a
//! peer gets the same bytes either way, and the same is counted.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use merge_sync_proxy::app::reload::Cause;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::domain::ending::Ending;
use merge_sync_proxy::domain::tally::Connections;
use merge_sync_proxy::listen::accept::{Drained, Limits, Listener, serve};
use merge_sync_proxy::listen::pulse::Patience;
use merge_sync_proxy::metrics::registry::Kind;
use merge_sync_proxy::stack;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::advance;

use crate::support::{SYNC_STATUS, World, consumer, merge, text};

/// How many connections there are at a time.
const LINES: usize = 3;

/// What happens to both.
#[derive(Clone, Debug)]
enum Step {
    /// Somebody says this, in pieces.
    Say(usize, String, Vec<Index>),
    /// Somebody says no more.
    Finish(usize),
    /// Somebody leaves, and somebody else comes.
    Anew(usize),
    Pass(Duration),
    Purge {
        hard: bool,
    },
    /// Merge has another page, and the one that is known is stale.
    Change(u8),
    Reload(usize),
}

/// Who may ask for what, one rule after the other. The lifetime of a page is a fixed one, as others are not the same for all.
fn rules() -> [String; 5] {
    let team = |name, more: &str| consumer(name, &format!("accounts = ['*']\n{more}"));
    let consumers = [
        team("one", "") + &team("other", "quota = '15/h'"),
        team("one", "disabled = true") + &team("other", "quota = '15/h'"),
        team("one", "quota = '40/h'") + &consumer("other", "accounts = ['globex']"),
        team("one", "default_account = 'globex'"),
        String::new(),
    ];
    let routes = "[[routes]]\npath = '/api/{category}/v1/sync-status'\ncache = '50s'\n\
                  [[routes]]\npath = '/api/ats/v1/jobs'\nmethods = ['POST']\ncache = 'off'\n";
    consumers.map(|consumers| consumers + routes)
}

fn head(more: &str) -> String {
    format!("GET {SYNC_STATUS} HTTP/1.1\r\nhost: proxy.test\r\n{more}\r\n")
}

/// What is said again and again.
fn usual() -> Vec<String> {
    let [one, other, none] = ["authorization: Bearer one\r\n", "authorization: Bearer other\r\n", ""];
    vec![
        head(&format!("{one}x-account-token: acme\r\n")),
        head(&format!("{one}x-account-token: acme\r\n")),
        head(&format!("{other}x-account-token: acme\r\n")),
        head(&format!("{one}x-account-token: globex\r\n")),
        head(&format!("{one}x-account-token: acme\r\nif-none-match: *\r\nconnection: keep-alive\r\n")),
        head(&format!("{one}x-request-id: mine\r\n")),
        head(&format!("{none}x-account-token: acme\r\n")),
        head(&format!("{one}x-account-token: acme\r\n")).replace("HTTP/1.1", "HTTP/1.0"),
        head(&format!("{one}x-account-token: acme\r\nconnection: keep-alive\r\n")).replace("HTTP/1.1", "HTTP/1.0"),
        head(&format!("{one}x-account-token: acme\r\n")).replace("GET", "HEAD"),
        head(&format!("{one}x-account-token: acme\r\nconnection: close\r\n")),
        head(&format!("{one}x-account-token: acme\r\nupgrade: h2c\r\nconnection: upgrade\r\n")),
    ]
}

/// What may be made of it: by mistake, or to have it taken for something else.
fn twists() -> Vec<fn(&str) -> String> {
    fn with(said: &str, more: &str) -> String {
        format!("{}{more}\r\n", said.strip_suffix("\r\n").expect("a head"))
    }
    fn before(said: &str, more: &str) -> String {
        with(said, more) + said
    }
    fn posted(said: &str) -> String {
        said.replacen("GET", "POST", 1).replacen("sync-status", "jobs", 1)
    }
    vec![
        |said| said.repeat(2),
        |said| format!("\r\n{said}"),
        |said| format!("\n{said}"),
        |said| format!("\r\n\r\n{said}\r\n"),
        |said| said.replacen("\r\n", "\n", 1),
        |said| format!("{}\n", said.strip_suffix("\r\n").expect("a head")),
        |said| said.replacen(" HTTP", "#a HTTP", 1),
        |said| said.replacen(" HTTP", "?page_size=7 HTTP", 1),
        |said| said.replacen("/api", "http://proxy.test/api", 1),
        |said| said.replacen("HTTP/1", "HTTP/2", 1),
        |said| said.replacen("GET", "POST", 1),
        |said| said.replacen("GET", "CONNECT", 1),
        |said| said.replacen("host", "Host", 1),
        |said| said.replacen("host: ", "host:", 1),
        |said| said.replacen("host", "x-host", 1),
        |said| said[..said.len() / 2].to_owned(),
        |said| format!("PRI * HTTP/2.0\r\n{said}"),
        |said| format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{said}"),
        |said| before(said, "content-length: 0\r\n"),
        |said| before(said, &format!("content-length: {}\r\n", said.len())),
        |said| before(said, &format!("content-length: {}\r\n", said.len())).replacen("GET", "POST", 1),
        |said| posted(&before(said, &format!("content-length: {}\r\n", said.len()))),
        |said| posted(&with(said, "content-length: 9\r\n")) + "too short",
        |said| posted(&with(said, "transfer-encoding: chunked\r\n")) + "0\r\n\r\n" + said,
        |said| before(said, &format!("content-length: {}\r\nexpect: 100-continue\r\n", said.len())),
        |said| before(said, "content-length: 1\r\n"),
        |said| before(said, "content-length: 1\r\ncontent-length: 0\r\n"),
        |said| before(said, "transfer-encoding: chunked\r\n"),
        |said| before(&with(said, "transfer-encoding: chunked\r\n"), "content-length: 5\r\n"),
        |said| with(said, "transfer-encoding: chunked\r\n") + "0\r\n\r\n" + said,
        |said| with(said, "transfer-encoding: chunked\r\n") + &format!("{:x}\r\n{said}\r\n0\r\n\r\n{said}", said.len()),
        |said| before(said, "host: proxy.test\r\n"),
        |said| before(said, " folded: a\r\n"),
        |said| before(said, "x-account-token: globex\r\n"),
        |said| before(said, "te: trailers\r\n"),
        |said| before(said, &"a: b\r\n".repeat(101)),
        |said| with(said, "cache-control: no-cache\r\n"),
        |said| with(said, "cache-control: only-if-cached\r\n"),
        |said| with(said, "cache-control: max-stale\r\n"),
        |said| with(said, "if-none-match: *\r\nprefer: wait=1\r\n"),
        |said| with(said, "accept: application/json\r\n"),
        |said| with(said, "accept: text/html\r\n"),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let twist = |said: &String, twists: &[fn(&str) -> String]| {
        twists.iter().fold(said.clone(), |said, twist| {
            // What is no head any more is left as it is.
            if said.ends_with("\r\n\r\n") { twist(&said) } else { said }
        })
    };
    let said = move |most| {
        let twists = prop::collection::vec(select(twists()), 0..=most);
        (select(usual()), twists).prop_map(move |(said, twists)| twist(&said, &twists))
    };
    let cuts = || prop::collection::vec(any::<Index>(), 0..3);
    prop_oneof![
        12 => (0..LINES, select(usual())).prop_map(|(line, said)| Step::Say(line, said, Vec::new())),
        2 => (0..LINES, said(0), cuts()).prop_map(|(line, said, cuts)| Step::Say(line, said, cuts)),
        4 => (0..LINES, said(2), cuts()).prop_map(|(line, said, cuts)| Step::Say(line, said, cuts)),
        1 => (0..LINES).prop_map(Step::Finish),
        2 => (0..LINES).prop_map(Step::Anew),
        2 => select(vec![1_u64, 900, 2_100, 31_000, 61_000, 100_000]).prop_map(|span| Step::Pass(Duration::from_millis(span))),
        1 => any::<bool>().prop_map(|hard| Step::Purge { hard }),
        1 => any::<u8>().prop_map(Step::Change),
        2 => (0..rules().len()).prop_map(Step::Reload),
    ]
}

/// A proxy, and those who talk to it.
struct Side {
    world: World,
    rule: Arc<AtomicUsize>,
    folder: tempfile::TempDir,
    serving: JoinHandle<Drained>,
    lines: Vec<UnixStream>,
    /// How many answers of the proxy have been heard, by the class of their status.
    heard: BTreeMap<char, u64>,
}

impl Side {
    async fn new(remembers: bool) -> Self {
        let world = World::with(merge(), &rules()[0]);
        for account in ["acme", "globex"] {
            world.merge.page(account, "ats", format!("{{\"results\":[],\"of\":\"{account}\"}}"));
        }
        let rule = Arc::new(AtomicUsize::new(0));
        let of_now = rule.clone();
        world.app.reads(Box::new(move |hasher| {
            let text = text("http://merge.test", "", &rules()[of_now.load(Ordering::Relaxed)]);
            Config::parse(&text, Path::new("test.toml"), &|_| None, hasher)
        }));
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a free path");
        let patience =
            Patience { header: Duration::from_secs(10), body: Duration::from_secs(20), idle: Duration::from_secs(75) };
        let limits =
            Limits { max_connections: 100, max_connections_per_peer: 100, patience, drain: Duration::from_secs(1) };
        let ground = world.app.ground().clone();
        let serving = tokio::spawn(async move {
            let (service, heads) = (stack::proxy(&ground), remembers.then(|| ground.heads.clone()));
            let limits = Arc::new(ArcSwap::from_pointee(limits));
            let connections = Connections::default();
            serve(
                vec![Listener::Unix(listener)],
                service,
                limits,
                &connections,
                heads,
                pending::<()>(),
                pending::<()>(),
            )
            .await
        });
        let mut side = Self { world, rule, folder, serving, lines: Vec::new(), heard: BTreeMap::new() };
        for _ in 0..LINES {
            let line = side.connect().await;
            side.lines.push(line);
        }
        settle().await;
        side
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("socket")).await.expect("the proxy listens")
    }

    /// What everybody has heard when `step` has been taken, and who hears no more.
    async fn take(&mut self, step: &Step) -> Vec<(String, bool)> {
        match step {
            Step::Say(line, said, cuts) => {
                let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(said.len())).collect();
                cuts.sort_unstable();
                let mut from = 0;
                for to in cuts.into_iter().chain([said.len()]) {
                    // Who has been told to go may not be heard any more.
                    let _ = self.lines[*line].try_write(&said.as_bytes()[from..to]);
                    settle().await;
                    from = to;
                }
            }
            Step::Finish(line) => {
                let line = std::mem::replace(&mut self.lines[*line], UnixStream::pair().expect("a pair").0);
                let line = line.into_std().expect("it is open");
                let _ = line.shutdown(std::net::Shutdown::Write);
                let line = UnixStream::from_std(line).expect("it is open");
                settle().await;
                return self.listen(&[line]);
            }
            Step::Anew(line) => self.lines[*line] = self.connect().await,
            // It is the same for both.
            Step::Pass(_) => {}
            Step::Purge { hard } => drop(self.world.app.ground().store.purge_all(*hard, tokio::time::Instant::now())),
            Step::Change(number) => {
                self.world.merge.page("acme", "ats", format!("{{\"results\":[{number}]}}"));
                self.world.app.ground().store.purge_all(false, tokio::time::Instant::now());
            }
            Step::Reload(rule) => {
                self.rule.store(*rule, Ordering::Relaxed);
                self.world.app.reload(Cause::Signal).expect("it is sound");
            }
        }
        settle().await;
        let lines = std::mem::take(&mut self.lines);
        let heard = self.listen(&lines);
        self.lines = lines;
        heard
    }

    /// What has come over `lines`.
    fn listen(&mut self, lines: &[UnixStream]) -> Vec<(String, bool)> {
        let heard: Vec<_> = lines.iter().map(hear).collect();
        for (said, _) in &heard {
            let mut class = None;
            for line in said.lines() {
                // The end of a body may stand before it.
                class = line.rfind("HTTP/1.").and_then(|at| line[at..].chars().nth(9)).or(class);
                // hyper's own answers have none.
                if line.starts_with("x-request-id: ") {
                    *self.heard.entry(class.expect("a status")).or_default() += 1;
                }
            }
        }
        heard
    }

    /// What has been counted.
    fn counted(&self) -> (Vec<String>, [u64; 3], usize) {
        let metrics = &self.world.app.ground().metrics;
        let tallies = metrics.tallies();
        let counts = tallies.iter().flat_map(|(name, tally)| {
            let mut counts: Vec<_> = tally.counts().iter().map(|count| format!("{name:?} {count:?}")).collect();
            counts.push(format!("{name:?} {}", tally.calls.get()));
            counts.sort();
            counts
        });
        let durations = Kind::ALL.map(|kind| metrics.durations(kind).count());
        (counts.collect(), durations, self.world.merge.calls())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Lets everybody do what there is to do.
async fn settle() {
    for _ in 0..24 {
        yield_now().await;
    }
}

/// What has come, and whether that was the last.
fn hear(line: &UnixStream) -> (String, bool) {
    let mut heard = Vec::new();
    let ended = loop {
        let mut piece = [0; 4096];
        match line.try_read(&mut piece) {
            Ok(0) => break true,
            Ok(came) => heard.extend_from_slice(&piece[..came]),
            Err(error) => break error.kind() != ErrorKind::WouldBlock,
        }
    };
    (lasting(&String::from_utf8_lossy(&heard)), ended)
}

/// Without what is different each time: the time of the day, and the names that requests are given.
fn lasting(heard: &str) -> String {
    let mut said = String::new();
    for line in heard.split_inclusive("\r\n") {
        let names = ["date: ", "x-request-id: 0"];
        if let Some(name) = names.iter().find(|name| line.starts_with(**name)) {
            said += name;
            said += "\r\n";
            continue;
        }
        let (before, after) = line.split_once("\"request_id\":\"0").unwrap_or((line, ""));
        said += before;
        said += after.get(35..).unwrap_or_default();
    }
    said
}

async fn compare(steps: Vec<Step>) -> (u64, u64) {
    let (mut fast, mut slow) = (Side::new(true).await, Side::new(false).await);
    for (number, step) in steps.iter().enumerate() {
        if let Step::Pass(span) = step {
            // Little by little: of two times that are over at once either may be seen first.
            let mut left = *span;
            while !left.is_zero() {
                let some = left.min(Duration::from_millis(500));
                advance(some).await;
                settle().await;
                left -= some;
            }
        }
        let (quickly, slowly) = (fast.take(step).await, slow.take(step).await);
        assert_eq!(quickly, slowly, "step {number}: {step:?}");
    }
    assert_eq!(fast.counted(), slow.counted());
    for side in [&fast, &slow] {
        let tallies = side.world.app.ground().metrics.tallies();
        let mut counted = BTreeMap::new();
        for count in
            tallies.iter().flat_map(|(_, tally)| tally.counts()).filter(|count| count.ending != Ending::Abandoned)
        {
            *counted.entry(count.class.chars().next().expect("a class")).or_default() += count.requests;
        }
        // Who has left hears nothing of what is answered after that.
        if !steps.iter().any(|step| matches!(step, Step::Finish(_) | Step::Anew(_))) {
            assert_eq!(counted, side.heard, "what is counted is what has been heard");
        }
    }
    let counts = fast.world.app.ground().metrics.totals().counts;
    (counts.hits, counts.requests)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, max_shrink_iters: 512, ..ProptestConfig::default() })]
    #[test]
    fn whoever_answers_it_is_the_same_answer_and_the_same_is_counted(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(compare(steps));
    }
}
