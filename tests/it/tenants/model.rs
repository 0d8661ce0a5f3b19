//! Who may see what, written a second time and without a cache: for each request the one account that its answer may be about.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::events::{Asked, Event};
use super::upstream::{Call, INVALID, body};
use crate::support::{Got, consumer};

/// Accounts with names, and their tokens.
pub(super) const ACCOUNTS: [(&str, &str); 4] = [
    ("red-a", "tok-red-a"),
    ("red-b", "tok-red-b/api/ats/v1/sync-status"),
    ("blue-a", "tok-blue-a"),
    ("blue-b", "tok-blue-b?cursor=abc"),
];

/// An account of which the proxy knows nothing.
pub(super) const RAW: (&str, &str) = ("raw", "tok-blue-raw");

/// What anything may be about.
pub(super) const ALL_ACCOUNTS: [&str; 6] = ["red-a", "red-b", "blue-a", "blue-b", "raw", "unknown to Merge"];

const UNKNOWN: &str = ALL_ACCOUNTS[5];

/// Name, keys that count, grants, raw tokens, default.
type Team = (&'static str, &'static [&'static str], &'static [&'static str], bool, Option<&'static str>);

const TEAMS: [Team; 4] = [
    ("red", &["red-key", "red-next"], &["red-a", "red-b"], false, Some("red-a")),
    ("blue", &["blue-key"], &["blue-a", "blue-b"], true, None),
    ("violet", &["violet-key"], &["red-a", "blue-a"], false, None),
    ("none", &["none-key"], &[], false, None),
];

/// The same for the proxy.
pub(super) fn configuration() -> String {
    let mut text = String::new();
    for (name, token) in ACCOUNTS {
        writeln!(text, "[[accounts]]\nname = '{name}'\ntoken = '{token}'").expect("memory");
    }
    let hash = merge_sync_proxy::door::consumer_key::hash;
    for (name, keys, grants, raw_tokens, default) in TEAMS {
        let mut entries: Vec<String> = keys.iter().map(|key| format!("{{ sha256 = '{}' }}", hash(key))).collect();
        entries.push(format!("{{ sha256 = '{}', expires = '2020-01-31T00:00:00Z' }}", hash(&format!("{name}-old"))));
        // Grants of the blue team are written as a glob.
        let grants = if name == "blue" {
            "'blue-*'".into()
        } else {
            grants.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
        };
        let default = default.map(|name| format!("default_account = '{name}'\n")).unwrap_or_default();
        let table = consumer(
            name,
            &format!("accounts = [{grants}]\nraw_tokens = {raw_tokens}\nforced_refreshes = 'unlimited'\n{default}"),
        );
        text += &table.replace(&format!("'{}'", hash(name)), &format!("[{}]", entries.join(", ")));
    }
    text
}

/// The path that Merge is asked for.
pub(super) fn long(path: &str) -> String {
    if path.starts_with("/api/") { path.to_owned() } else { format!("/api{path}") }
}

/// The strong tag of a body.
pub(super) fn tag(body: &str) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(body)[..16]))
}

/// The account that a request is about and the token that goes upstream, or the status that refuses it.
pub(super) fn account_of(asked: &Asked) -> Result<(&'static str, String), u16> {
    if !["ats", "hris"].iter().any(|category| long(asked.path) == format!("/api/{category}/v1/sync-status")) {
        return Err(404);
    }
    let keys: Vec<&str> = asked.lines("authorization").collect();
    let key = match keys[..] {
        [] => return Err(401),
        [line] => line,
        _ => return Err(400),
    };
    let Some((scheme, key)) = key.split_once(' ') else { return Err(401) };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(401);
    }
    let key = key.trim_matches(' ');
    if key.contains([' ', ',', '\u{e9}']) {
        return Err(400);
    }
    let (_, _, grants, raw_tokens, default) = *TEAMS.iter().find(|team| team.1.contains(&key)).ok_or(401_u16)?;
    let names: Vec<String> =
        asked.query.split('&').map(|pair| pair.split('=').next().unwrap_or(pair).replace("%63", "c")).collect();
    let times = |name: &str| names.iter().filter(|known| *known == name).count();
    if times("cursor") > 1 || times("page_size") > 1 || asked.query.contains("page_size=0") {
        return Err(400);
    }
    let said: Vec<&str> = asked.lines("x-account-token").collect();
    let name = match said[..] {
        [] | [""] => default.ok_or(400_u16)?,
        [name] if name.contains([' ', '\t', ',', '\u{e9}']) => return Err(400),
        [name] => name,
        _ => return Err(400),
    };
    if let Some((name, token)) = ACCOUNTS.iter().find(|account| account.0 == name) {
        return if grants.contains(name) { Ok((name, (*token).into())) } else { Err(403) };
    }
    if !raw_tokens || name == "acme" {
        return Err(403);
    }
    let known = ACCOUNTS.iter().chain([&RAW]).find(|(_, token)| *token == name);
    Ok((known.map_or(UNKNOWN, |account| account.0), name.to_owned()))
}

/// What makes two queries one: the order of different names, and how unreserved characters and hex digits are written.
fn question(query: &str) -> String {
    let mut pairs: Vec<String> = Vec::new();
    for pair in query.split('&') {
        let mut parts = pair.split('%');
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (hex, rest) = part.split_at(2);
            let byte = u8::from_str_radix(hex, 16).expect("encodings here are whole");
            let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            if is_unreserved {
                plain.push(byte.into());
            } else {
                write!(plain, "%{byte:02X}").expect("memory");
            }
            plain += rest;
        }
        pairs.push(plain);
    }
    pairs.sort_by_key(|pair| pair.split('=').next().map(str::to_owned));
    pairs.join("&")
}

/// A page: whose, which token, which path, which question.
type Key = (&'static str, String, String, String);

#[derive(Default)]
pub(super) struct Model {
    padding: usize,
    versions: HashMap<&'static str, u64>,
    /// The bodies that a page has or had, by their tags, and all ways in which somebody who may has asked for it.
    pages: HashMap<Key, HashMap<String, String>>,
    asked: HashMap<Key, HashSet<&'static str>>,
    /// The pages that may be in the cache.
    held: HashSet<Key>,
    /// The first refusal of each kind, with a body and without: all others must be the same.
    refusals: HashMap<(u16, bool), Got>,
    tally: BTreeMap<&'static str, usize>,
}

impl Model {
    pub fn new(padding: usize) -> Self {
        Self { padding, ..Self::default() }
    }

    /// How often what was seen.
    pub fn tally(&self) -> &BTreeMap<&'static str, usize> {
        &self.tally
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Takes note of what is about to happen.
    pub fn before(&mut self, event: &Event) {
        match event {
            Event::Change { account } => *self.versions.entry(account).or_default() += 1,
            Event::Purge { account, hard: true } => self.held.retain(|key| key.0 != *account),
            Event::Ask(asked) => {
                let Ok(key) = key_of(asked) else { return };
                let version = self.versions.get(key.0).copied().unwrap_or_default();
                let body = body(key.0, &key.2, asked.query, version, self.padding);
                self.pages.entry(key.clone()).or_default().insert(tag(&body), body);
                self.asked.entry(key.clone()).or_default().insert(asked.query);
                self.held.insert(key);
            }
            Event::Purge { hard: false, .. } | Event::Pause(_) => {}
        }
    }

    /// Whether an answer is one that the asker may have.
    pub fn check(&mut self, asked: &Asked, got: &Got) -> Result<(), String> {
        let status = got.status.as_u16();
        let key = match key_of(asked) {
            Ok(key) => key,
            Err(expected) => return self.check_refusal(expected, asked, got),
        };
        self.count(if key.0 == "raw" { "raw" } else { "named" });
        let cache = got.cache().to_owned();
        for (word, sign) in [("hit", "hit"), ("miss", "fwd=uri-miss"), ("stale", "ttl=-"), ("collapsed", "collapsed")] {
            if cache.contains(sign) {
                self.count(word);
            }
        }
        if cache.starts_with("hit") && !self.held.contains(&key) {
            return Err(format!("a hit of what nobody has asked for: {cache}"));
        }
        if status == 504 && asked.lines("cache-control").any(|line| line == "only-if-cached") {
            self.count("504");
            return Ok(());
        }
        if key.0 == UNKNOWN {
            let is_it = status == 401 && (asked.head_only || got.body == INVALID);
            return if is_it { Ok(()) } else { Err("not Merge's own refusal".into()) };
        }
        self.check_page(asked, got, &key)
    }

    fn check_page(&mut self, asked: &Asked, got: &Got, key: &Key) -> Result<(), String> {
        let said = got.header("etag").trim_start_matches("W/");
        let page = self.pages[key].get(said).cloned().ok_or("a tag of another's page")?;
        let lines: Vec<&str> = asked.lines("if-none-match").collect();
        match got.status.as_u16() {
            304 => {
                self.count("304");
                let named = lines.iter().any(|line| *line == "*" || line.contains(said));
                if named && got.body.is_empty() { Ok(()) } else { Err("unasked".into()) }
            }
            200 => {
                self.count("200");
                let encoded = got.headers.contains_key("content-encoding");
                if encoded {
                    self.count("encoded");
                }
                if lines.iter().any(|line| *line == "*" || line.contains(said)) {
                    return Err("the asker has it already".into());
                }
                let is_it = if asked.head_only { got.body.is_empty() } else { decoded(got) == page.as_bytes() };
                if is_it { Ok(()) } else { Err("another's page".into()) }
            }
            status => Err(format!("{status} is not for this")),
        }
    }

    fn check_refusal(&mut self, expected: u16, asked: &Asked, got: &Got) -> Result<(), String> {
        let status = got.status.as_u16();
        if status != expected {
            return Err(format!("{status} instead of {expected}"));
        }
        self.count(match status {
            400 => "400",
            401 => "401",
            403 => "403",
            _ => "404",
        });
        if status == 400 {
            return Ok(());
        }
        let first = self.refusals.entry((status, asked.head_only)).or_insert_with(|| got.clone());
        if first.headers == got.headers && first.body == got.body { Ok(()) } else { Err(format!("not as {first:?}")) }
    }

    /// Whether somebody who may has asked for what was asked upstream.
    pub fn check_call(&self, (token, path, query): &Call) -> Result<(), &'static str> {
        let wanted =
            |(key, queries): (&Key, &HashSet<&str>)| key.1 == *token && key.2 == *path && queries.contains(&**query);
        if self.asked.iter().any(wanted) { Ok(()) } else { Err("nobody who may has asked for this") }
    }
}

fn key_of(asked: &Asked) -> Result<Key, u16> {
    let (account, token) = account_of(asked)?;
    Ok((account, token, long(asked.path), question(asked.query)))
}

fn decoded(got: &Got) -> Vec<u8> {
    let mut body = Vec::new();
    match got.header("content-encoding") {
        "gzip" => flate2::read::GzDecoder::new(&got.body[..]).read_to_end(&mut body).expect("gzip"),
        "br" => brotli::Decompressor::new(&got.body[..], 4_096).read_to_end(&mut body).expect("br"),
        _ => return got.body.to_vec(),
    };
    body
}
