//! What happens: requests of all teams with all tricks that come to mind, changes, purges, and time. It is made up beforehand, so that
//! the same can happen again without some of it.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;

use super::model::{self, ACCOUNTS, RAW};
use super::upstream::body;

#[derive(Debug)]
pub(super) enum Event {
    Ask(Asked),
    Purge { account: &'static str, hard: bool },
    Change { account: &'static str },
    Pause(Duration),
}

impl Event {
    /// Whether an answer about `account` may depend on it.
    pub fn concerns(&self, account: &str) -> bool {
        match self {
            Self::Ask(asked) => model::account_of(asked).is_ok_and(|(own, _)| own == account),
            Self::Purge { account: own, .. } | Self::Change { account: own } => *own == account,
            Self::Pause(_) => true,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub head_only: bool,
    pub path: &'static str,
    pub query: &'static str,
    pub headers: Vec<(&'static str, String)>,
}

impl Asked {
    pub fn request(&self) -> Request<Full<Bytes>> {
        let target = if self.query.is_empty() { self.path.to_owned() } else { format!("{}?{}", self.path, self.query) };
        let mut request = Request::new(Full::default());
        *request.method_mut() = if self.head_only { Method::HEAD } else { Method::GET };
        *request.uri_mut() = target.parse().expect("a target");
        // A problem repeats the id; with one id for all, equal problems are equal bytes.
        let id = [("x-request-id", "same".to_owned())];
        for (name, value) in self.headers.iter().chain(&id) {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        request
    }

    /// The values of a header, in order.
    pub fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// Who says to be who. The first ones are more often said.
const KEYS: [&[&str]; 20] = [
    &["Bearer red-key"],
    &["Bearer blue-key"],
    &["Bearer violet-key"],
    &["bearer red-next"],
    &["BEARER   blue-key"],
    &["Bearer none-key"],
    &["Bearer red-old"],
    &["Bearer blue-old"],
    &[],
    &["Bearer RED-KEY"],
    &["Bearer red-key", "Bearer blue-key"],
    &["Bearer red-key, Bearer blue-key"],
    &["Bearer red-key blue-key"],
    &["Bearer red-key\u{e9}"],
    &["Basic cmVkLWtleQ=="],
    &["Bearer"],
    &["Bearer tok-red-a"],
    &["Bearer red"],
    &["Bearer test-api-key"],
    &["red-key"],
];

const USUAL_KEYS: usize = 6;

/// Who asks for what they may.
const MATCHES: [(&str, &str); 7] = [
    ("Bearer red-key", "red-a"),
    ("Bearer red-next", "red-b"),
    ("Bearer blue-key", "blue-a"),
    ("Bearer blue-key", "blue-b"),
    ("Bearer violet-key", "red-a"),
    ("Bearer violet-key", "blue-a"),
    ("Bearer blue-key", "tok-blue-raw"),
];

/// Whose data is asked for. The first ones are more often asked for.
const NAMES: [&[&str]; 29] = [
    &["red-a"],
    &["red-b"],
    &["blue-a"],
    &["blue-b"],
    &["tok-blue-raw"],
    &["tok-blue-a"],
    &[],
    &[""],
    &["tok-red-a"],
    &["tok-red-b/api/ats/v1/sync-status"],
    &["tok-nobody"],
    &["acme"],
    &["nobody"],
    &["RED-A"],
    &["red-*"],
    &["*"],
    &["red-a/../blue-a"],
    &["red-a%00"],
    &["red-a;blue-a"],
    &["red-a?cursor=abc"],
    &["red"],
    &["red-ab"],
    &["red-a", "blue-a"],
    &["blue-a", "blue-a"],
    &["red-a,blue-a"],
    &["red-a "],
    &["red-a\tblue-a"],
    &["r\u{e9}d-a"],
    &["", "red-a"],
];

const USUAL_NAMES: usize = 7;

const PATHS: [&str; 8] = [
    "/api/ats/v1/sync-status",
    "/ats/v1/sync-status",
    "/api/hris/v1/sync-status",
    "/api/ats/v1/sync-status",
    "/api/hris/v1/sync-status",
    "/hris/v1/sync-status",
    "/api/red-a/v1/sync-status",
    "/api/ats/v1/sync-status/",
];

const USUAL_PATHS: usize = 6;

/// Queries that mean the same, that only seem to, and that are built like a key or name another's account.
const QUERIES: [&str; 27] = [
    "",
    "",
    "page_size=50",
    "cursor=abc",
    "cursor=abc&page_size=50",
    "page_size=50&cursor=abc",
    "cursor=a%62c",
    "cursor=a+b",
    "cursor=a%20b",
    "cursor=a%2Bb",
    "cursor=a%2bb",
    "cursor=abc%26page_size%3D50",
    "cursor=abc%00page_size=50",
    "cursor=blue-a",
    "cursor=tok-blue-a",
    "account=blue-a",
    "account=red-a&category=hris",
    "x-account-token=tok-red-a",
    "X-Account-Token=tok-blue-a&cursor=abc",
    "us,tok-blue-a,/api/ats/v1/sync-status",
    "x=1&x=2",
    "x=2&x=1",
    "x=1&cursor=abc",
    "page_size=0",
    "page_size=50&page_size=50",
    "cursor=abc&%63ursor=abc",
    "?",
];

const USUAL_QUERIES: usize = 12;

/// Headers that should change nothing about whose page it is.
const TRICKS: [(&str, &str); 18] = [
    ("connection", "x-account-token"),
    ("connection", "authorization, x-account-token"),
    ("cookie", "account=blue-a"),
    ("x-account-id", "blue-a"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-host", "blue.test"),
    ("x-original-url", "/api/ats/v1/sync-status?cursor=blue-a"),
    ("x-http-method-override", "DELETE"),
    ("proxy-authorization", "Bearer blue-key"),
    ("accept-encoding", "gzip"),
    ("accept-encoding", "br, gzip;q=0.5"),
    ("range", "bytes=0-9"),
    ("cache-control", "no-cache"),
    ("cache-control", "max-age=0"),
    ("cache-control", "only-if-cached"),
    ("cache-control", "max-stale"),
    ("cache-control", "no-store"),
    ("vary", "*"),
];

/// At least so many requests, in steps of what happens at once.
pub(super) fn generate(seed: u64, requests: usize) -> Vec<Vec<Event>> {
    let mut maker = Maker { random: Rng::with_seed(seed), changes: Vec::new() };
    let mut steps = Vec::new();
    let mut made = 0;
    while made < requests {
        let step: Vec<Event> = match maker.random.u32(..100) {
            0..8 => vec![Event::Pause(Duration::from_millis(maker.random.u64(..15_000)))],
            8..11 => vec![Event::Purge { account: maker.named(), hard: maker.random.bool() }],
            11..15 => vec![maker.change()],
            _ => maker.at_once(),
        };
        made += step.iter().filter(|event| matches!(event, Event::Ask(_))).count();
        steps.push(step);
    }
    steps
}

struct Maker {
    random: Rng,
    changes: Vec<&'static str>,
}

impl Maker {
    fn pick<T: Copy>(&mut self, from: &[T], usual: usize) -> T {
        let most = if self.random.u32(..10) < 8 { usual } else { from.len() };
        from[self.random.usize(..most)]
    }

    fn named(&mut self) -> &'static str {
        ACCOUNTS[self.random.usize(..ACCOUNTS.len())].0
    }

    fn change(&mut self) -> Event {
        let account = if self.random.u32(..8) == 0 { RAW.0 } else { self.named() };
        self.changes.push(account);
        Event::Change { account }
    }

    /// Requests that come together; now and then two ask the same.
    fn at_once(&mut self) -> Vec<Event> {
        let mut all: Vec<Asked> = (0..self.random.usize(1..4)).map(|_| self.asked()).collect();
        if self.random.u32(..3) == 0 {
            all.push(all[0].clone());
        }
        all.into_iter().map(Event::Ask).collect()
    }

    fn asked(&mut self) -> Asked {
        let odd = self.random.u32(..10) == 0;
        let path = PATHS[self.random.usize(..if odd { PATHS.len() } else { USUAL_PATHS })];
        let query = self.pick(&QUERIES, USUAL_QUERIES);
        let (keys, names) = if self.random.bool() {
            let (key, name) = MATCHES[self.random.usize(..MATCHES.len())];
            (&[key][..], &[name][..])
        } else {
            (self.pick(&KEYS, USUAL_KEYS), self.pick(&NAMES, USUAL_NAMES))
        };
        let mut headers: Vec<_> = keys.iter().map(|line| ("authorization", (*line).into())).collect();
        headers.extend(names.iter().map(|line| ("x-account-token", (*line).into())));
        if self.random.u32(..3) == 0 {
            let (name, value) = TRICKS[self.random.usize(..TRICKS.len())];
            headers.push((name, value.into()));
        }
        if self.random.u32(..4) == 0 {
            headers.push(("if-none-match", self.tags(path, query)));
        }
        Asked { head_only: self.random.u32(..8) == 0, path, query, headers }
    }

    /// Tags of pages that are or were somebody's, now and then `*`.
    fn tags(&mut self, path: &str, query: &str) -> String {
        if self.random.u32(..12) == 0 {
            return "*".into();
        }
        let tags: Vec<String> = (0..self.random.usize(1..4))
            .map(|_| {
                let (account, _) =
                    if self.random.u32(..8) == 0 { RAW } else { ACCOUNTS[self.random.usize(..ACCOUNTS.len())] };
                let now = self.changes.iter().filter(|changed| **changed == account).count() as u64;
                let version = now.saturating_sub(self.random.u64(..2));
                let padding = if self.random.bool() { 600 } else { 0 };
                model::tag(&body(account, &model::long(path), query, version, padding))
            })
            .collect();
        tags.join(", ")
    }
}
