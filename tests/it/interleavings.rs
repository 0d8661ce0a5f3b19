//! A purge, a change or a caller's leave at every step of whatever is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use merge_sync_proxy::domain::body::ReplyBody;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, advance};

use crate::origin::{FRESH, Site, reply, settle};
use crate::support::{ask, method, with};

/// More steps than any of these requests takes.
const STEPS: usize = 40;

const VERSIONS: [&str; 4] = ["[0]", "[1]", "[2]", "[3]"];

/// An origin that tells the version that there is when it answers; one route for pages and one for responses, and one for changes.
struct Versions {
    site: Site,
    now: Arc<AtomicUsize>,
}

/// The paths of the two routes.
const PATHS: [&str; 2] = ["/page/a", "/http/a"];

impl Versions {
    fn new() -> Self {
        let route = |path: &str, cache: &str| {
            format!(
                "[[routes]]\npath = '/{path}/*'\ncache = '{cache}'\n\
                 [[routes]]\npath = '/{path}/*'\nmethods = ['POST']\ncache = 'off'\n"
            )
        };
        let (site, now) = (Site::new(&[route("page", "1h"), route("http", "http")].concat()), Arc::default());
        let told: Arc<AtomicUsize> = Arc::clone(&now);
        site.script(move |head, _| {
            if head.method == "POST" {
                told.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply(200, &[FRESH], VERSIONS[told.load(Ordering::Relaxed)]))
        });
        Self { site, now }
    }

    fn there_is(&self) -> &'static str {
        VERSIONS[self.now.load(Ordering::Relaxed)]
    }

    async fn outdate(&self, how: How, path: &str) {
        let (ground, now) = (self.site.app.ground(), Instant::now());
        let hard = how == How::HardPurge;
        match how {
            How::SoftPurge | How::HardPurge => {
                self.now.fetch_add(1, Ordering::Relaxed);
                ground.store.purge_all(hard, now);
                ground.http.responses.purge_all(hard, now);
            }
            How::Change => drop(self.site.send(method(Method::POST, ask(path))).await),
        }
        // A call that begins in the very instant of a purge counts as begun before it.
        advance(Duration::from_millis(1)).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    SoftPurge,
    HardPurge,
    Change,
}

const WAYS: [How; 3] = [How::SoftPurge, How::HardPurge, How::Change];

type Asking = Request<Full<Bytes>>;

fn forced(path: &str) -> Asking {
    with(path, &[("x-account-token", "acme"), ("cache-control", "no-cache")])
}

async fn steps(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn whenever_something_is_outdated_who_asks_later_sees_what_there_is_then() {
    for (path, how) in PATHS.into_iter().flat_map(|path| WAYS.map(|how| (path, how))) {
        for count in 0..STEPS {
            let versions = Versions::new();
            let Versions { site, .. } = &versions;
            let first = [site.spawn(ask(path)), site.spawn(forced(path)), site.spawn(ask(path))];
            steps(count).await;
            versions.outdate(how, path).await;
            assert_eq!(site.get(path).await.body, versions.there_is(), "{path} after {count} steps");
            let second = [site.spawn(forced(path)), site.spawn(ask(path))];
            steps(count).await;
            versions.outdate(how, path).await;
            for _ in 0..2 {
                assert_eq!(site.get(path).await.body, versions.there_is(), "{path} after {count} more steps");
            }
            for one in first.into_iter().chain(second) {
                assert_eq!(one.await.expect("no panic").status, 200);
            }
            let got = site.get(path).await;
            assert_eq!(got.body, versions.there_is());
            assert!(got.cache().starts_with("hit"), "{path} after {count} steps: {}", got.cache());
            settle().await;
            site.assert_idle();
            assert_eq!(site.app.ground().flights.count(), (0, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whenever_a_caller_leaves_nobody_else_notices_and_nothing_is_left() {
    for path in PATHS {
        let wait = [("x-account-token", "acme"), ("prefer", "wait=9"), ("if-none-match", "*")];
        let leaving: [fn(&str) -> Asking; 4] =
            [ask, forced, |path| method(Method::HEAD, ask(path)), |path| method(Method::POST, ask(path))];
        for (count, request) in (0..STEPS).flat_map(|count| leaving.map(|request| (count, request))) {
            let Versions { site, .. } = &Versions::new();
            let leaves = [site.spawn(request(path)), site.spawn(with(path, &wait))];
            let stays = site.spawn(ask(path));
            steps(count).await;
            leaves.iter().for_each(JoinHandle::abort);
            assert_eq!(stays.await.expect("no panic").status, 200, "{path} after {count} steps");
            assert_eq!(site.get(path).await.status, 200);
            settle().await;
            site.assert_idle();
            let ground = site.app.ground();
            assert_eq!((ground.flights.count(), ground.follows.count()), ((0, 0), 0), "{path} after {count} steps");
            let places = site.app.ground().house.load();
            assert!(places.consumers.all().iter().all(|caller| caller.waiting() == 0), "{path} after {count} steps");
        }
    }
}

/// What a stream says next.
async fn said(stream: &mut Response<ReplyBody>) -> String {
    let frame = stream.body_mut().frame().await.expect("it goes on").expect("it does not break");
    String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8")
}

#[tokio::test(start_paused = true)]
async fn whenever_a_page_is_outdated_a_stream_tells_of_the_newest_once() {
    for (count, how) in (0..STEPS).flat_map(|count| WAYS.map(|how| (count, how))) {
        let versions = Versions::new();
        let fields = [("x-account-token", "acme"), ("accept", "text/event-stream")];
        let (one, path) = (versions.site.clone(), PATHS[0]);
        let open = tokio::spawn(async move { one.begin(with(path, &fields)).await });
        steps(count).await;
        versions.outdate(how, path).await;
        let mut open = open.await.expect("no panic");
        steps(count).await;
        versions.outdate(how, path).await;
        let mut told = Vec::new();
        while told.last() != Some(&versions.there_is().to_owned()) {
            let event = said(&mut open).await;
            let (_, data) = event.split_once("\ndata: ").unwrap_or_else(|| panic!("{event:?} after {count} steps"));
            told.push(data.trim_end().to_owned());
        }
        assert!(told.is_sorted() && told.windows(2).all(|two| two[0] != two[1]), "{told:?} after {count} steps");
        assert_eq!(said(&mut open).await, ":\n\n", "nothing more");
        drop(open);
        settle().await;
        assert_eq!(versions.site.app.ground().follows.count(), 0);
    }
}
