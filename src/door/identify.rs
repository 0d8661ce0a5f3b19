//! Who sends a request: by the consumer key in it, or else by the connection that it came over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::audit::KeyRefusal;
use super::fields::Field;
use super::recognised::Recognised;
use super::strangers::Strangers;
use crate::domain::access::{Consumer, KeyHash, Name};
use crate::domain::caller::Caller;
use crate::domain::peer::Peer;
use crate::domain::problem::Problem;

/// All consumers, by the hashes of their keys, by users of this machine and by names in certificates.
///
/// What is looked up is the SHA-256 of what was sent, so how long it takes says nothing about a key that exists. Keys that have been
/// recognised are known again without it (`door/recognised.rs`).
#[derive(Debug)]
pub struct Consumers {
    /// Who everybody is while no consumers are configured.
    open: Option<Arc<Caller>>,
    by_name: HashMap<Name, Arc<Caller>>,
    by_key: HashMap<[u8; 32], Arc<Entry>>,
    recognised: Recognised<Arc<Entry>>,
    by_uid: HashMap<u32, Arc<Caller>>,
    by_certificate: HashMap<Box<str>, Arc<Caller>>,
}

/// What a key stands for.
#[derive(Debug)]
struct Entry {
    caller: Arc<Caller>,
    key: KeyHash,
    /// Whether the key has been shown.
    proven: AtomicBool,
}

/// Why a request has no consumer.
#[derive(Debug, PartialEq, Eq)]
pub enum Stranger<'a> {
    /// No key counts; whose it was, and what was shown.
    Refused(KeyRefusal, Option<&'a Name>, Option<&'a [u8]>),
    /// No key was looked up: what was shown cannot be one, or too many have been wrong.
    Unread(Problem),
}

impl Consumers {
    /// The consumers as configured; none is the open mode. A consumer that was there `before` keeps what it had left.
    pub fn new(consumers: &[Consumer], before: Option<&Self>, now: Instant) -> Self {
        let (mut by_name, mut by_key) = (HashMap::new(), HashMap::new());
        let (mut by_uid, mut by_certificate) = (HashMap::new(), HashMap::new());
        for consumer in consumers {
            let caller = match before.and_then(|before| before.by_name.get(&consumer.name)) {
                Some(same) if same.consumer == *consumer => same.clone(),
                Some(known) => Arc::new(known.renewed(consumer.clone(), now)),
                None => Arc::new(Caller::new(consumer.clone(), now)),
            };
            for key in &consumer.keys {
                let (caller, key) = (caller.clone(), key.clone());
                by_key.insert(key.sha256, Arc::new(Entry { caller, key, proven: AtomicBool::new(false) }));
            }
            by_uid.extend(consumer.unix_uids.iter().map(|uid| (*uid, caller.clone())));
            by_certificate.extend(consumer.client_certs.iter().map(|name| (name.clone(), caller.clone())));
            by_name.insert(consumer.name.clone(), caller);
        }
        let open = consumers.is_empty().then(|| {
            let known = before.and_then(|before| before.open.clone());
            known.unwrap_or_else(|| Arc::new(Caller::new(Consumer::open(), now)))
        });
        let recognised = Recognised::new(by_key.len());
        Self { open, by_name, by_key, recognised, by_uid, by_certificate }
    }

    /// All consumers, each once; the open mode is one.
    pub fn all(&self) -> Vec<&Arc<Caller>> {
        let mut all: Vec<_> = self.open.iter().chain(self.by_name.values()).collect();
        all.sort_by(|a, b| a.consumer.name.cmp(&b.consumer.name));
        all
    }

    /// Who sent a request with this `Authorization` over a connection of `peer`. Of those who may not come in, not all are looked at:
    /// see [`Strangers`].
    pub fn identify<'a>(
        &'a self,
        authorization: Field<'a>,
        peer: Option<&Peer>,
        strangers: &Strangers,
        now: Instant,
    ) -> Result<&'a Arc<Caller>, Stranger<'a>> {
        let line = match authorization {
            Field::Absent => None,
            Field::Once(line) => Some(line),
            Field::Repeated => {
                let several = Problem::InvalidRequest("Send one 'Authorization' header, not several.".into());
                return Err(Stranger::Unread(several));
            }
        };
        // Nearly all end here: what is remembered has been read and looked up before.
        if let Some(entry) = line.and_then(|line| self.recognised.find(line.as_bytes().strip_prefix(b"Bearer ")?))
            && entry.proven.load(Ordering::Relaxed)
            && entry.refusal().is_none()
        {
            return Ok(&entry.caller);
        }
        if let Some(open) = &self.open {
            return Ok(open);
        }
        // A key says more than a connection, also when it is wrong: who shows one must not be taken for somebody else.
        if line.is_none()
            && let Some(caller) = peer.and_then(|peer| self.connected(peer))
        {
            let refused = Stranger::Refused(KeyRefusal::Disabled, Some(&caller.consumer.name), None);
            return if caller.consumer.disabled { Err(refused) } else { Ok(caller) };
        }
        let key = line.map(|line| bearer(line.as_bytes())).transpose().map_err(Stranger::Unread)?.flatten();
        strangers.check(peer.and_then(Peer::origin), key, now).map_err(Stranger::Unread)?;
        let key = key.ok_or(Stranger::Refused(KeyRefusal::Missing, None, None))?;
        let entry = self.find(key)?;
        if !entry.proven.load(Ordering::Relaxed) {
            strangers.prove(key);
            entry.proven.store(true, Ordering::Relaxed);
        }
        Ok(&entry.caller)
    }

    /// Who is known by the connection alone. A certificate that names several consumers names none.
    fn connected(&self, peer: &Peer) -> Option<&Arc<Caller>> {
        match peer {
            Peer::Local { uid } => self.by_uid.get(uid.as_ref()?),
            Peer::Network { certificate, .. } => {
                let mut named = certificate.iter().filter_map(|name| self.by_certificate.get(name));
                let first = named.next()?;
                named.all(|other| Arc::ptr_eq(first, other)).then_some(first)
            }
        }
    }

    /// Whose key this is, if it still counts.
    fn find<'a>(&'a self, shown: &'a [u8]) -> Result<&'a Entry, Stranger<'a>> {
        let entry = if let Some(entry) = self.recognised.find(shown) {
            entry
        } else {
            let unknown = Stranger::Refused(KeyRefusal::Unknown, None, Some(shown));
            let entry = self.by_key.get::<[u8; 32]>(&Sha256::digest(shown).into()).ok_or(unknown)?;
            self.recognised.remember(shown, entry);
            entry
        };
        let refused = |reason| Err(Stranger::Refused(reason, Some(&entry.caller.consumer.name), Some(shown)));
        entry.refusal().map_or(Ok(entry), refused)
    }
}

impl Entry {
    /// Why it does not count although it is right.
    fn refusal(&self) -> Option<KeyRefusal> {
        if self.key.disabled || self.caller.consumer.disabled {
            return Some(KeyRefusal::Disabled);
        }
        let is_over = self.key.expires.is_some_and(|expires| expires <= SystemTime::now());
        is_over.then_some(KeyRefusal::Expired)
    }
}

/// What `Bearer WORD` shows (RFC 6750 §2.1); nothing in another scheme. The name of a scheme has no case (RFC 9110 §11.1).
pub fn shown(line: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = line.split_at(line.iter().position(|byte| *byte == b' ').unwrap_or(line.len()));
    let word = rest.trim_ascii();
    (scheme.eq_ignore_ascii_case(SCHEME) && !word.is_empty()).then_some(word)
}

/// The key in `Bearer KEY`, `None` in another scheme; a key that none can be is malformed.
fn bearer(line: &[u8]) -> Result<Option<&[u8]>, Problem> {
    let Some(key) = shown(line) else { return Ok(None) };
    let fits =
        |byte: &u8| byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    if !key.iter().all(fits) {
        return Err(Problem::InvalidRequest("'Authorization' must be 'Bearer' and one consumer key.".into()));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::super::fields::Fields;
    use super::*;
    use crate::domain::bucket::Rate;
    use http::header::AUTHORIZATION;
    use http::{HeaderMap, HeaderValue};
    use std::time::Duration;

    fn team(key: &str, expires: Option<SystemTime>) -> Consumer {
        let sha256 = Sha256::digest(key).into();
        let keys = vec![KeyHash { sha256, expires, disabled: false }];
        Consumer { name: "team".into(), keys, ..Consumer::open() }
    }

    fn identify(consumers: &Consumers, lines: &[&str]) -> Result<String, Problem> {
        let lines = lines.iter().map(|line| (AUTHORIZATION, HeaderValue::from_str(line).expect("a header value")));
        let (strangers, now) = (Strangers::new(None, None, Instant::now()), Instant::now());
        let headers = lines.collect();
        let identified = consumers.identify(Fields::of(&headers).authorization, None, &strangers, now);
        identified.map(|caller| caller.consumer.name.to_string()).map_err(|stranger| match stranger {
            Stranger::Refused(..) => Problem::UnknownConsumer,
            Stranger::Unread(problem) => problem,
        })
    }

    #[test]
    fn a_key_names_its_consumer_and_nothing_else_does() {
        let consumers = Consumers::new(&[team("secret", None)], None, Instant::now());
        for line in ["Bearer secret", "bearer secret", "BEARER   secret"] {
            assert_eq!(identify(&consumers, &[line]), Ok("team".into()), "{line}");
        }
        for line in ["Bearer Secret", "Bearer", "Bearer ", "Basic secret", "secret", "", "Bearersecret"] {
            assert_eq!(identify(&consumers, &[line]), Err(Problem::UnknownConsumer), "{line}");
        }
        assert_eq!(identify(&consumers, &[]), Err(Problem::UnknownConsumer));
        for lines in [&["Bearer se cret"][..], &["Bearer secret, Bearer secret"], &["Bearer secret", "Bearer secret"]] {
            assert!(matches!(identify(&consumers, lines), Err(Problem::InvalidRequest(_))), "{lines:?}");
        }
    }

    #[test]
    fn without_a_key_the_connection_says_who_it_is() {
        let now = Instant::now();
        let known = |name: &str, uid, cert: &str, disabled| Consumer {
            name: name.into(),
            unix_uids: vec![uid],
            client_certs: vec![cert.into()],
            disabled,
            ..team(name, None)
        };
        let all = [("one", 1, false), ("two", 2, false), ("off", 3, true)];
        let all = all.map(|(name, uid, disabled)| known(name, uid, &format!("{name}.test"), disabled));
        let (consumers, strangers) = (Consumers::new(&all, None, now), Strangers::new(None, None, now));
        let who = |peer: &Peer, headers: &HeaderMap| {
            consumers
                .identify(Fields::of(headers).authorization, Some(peer), &strangers, now)
                .ok()
                .map(|caller| caller.consumer.name.to_string())
        };
        let keyless = HeaderMap::new();
        for (uid, name) in
            [(Some(1), Some("one")), (Some(2), Some("two")), (Some(3), None), (Some(4), None), (None, None)]
        {
            assert_eq!(who(&Peer::Local { uid }, &keyless).as_deref(), name, "{uid:?}");
        }
        let showing = |names: &[&str]| Peer::Network {
            address: "192.0.2.1".parse().expect("an address"),
            certificate: names.iter().map(|&name| name.into()).collect(),
        };
        for (names, name) in [
            (&["one.test"][..], Some("one")),
            (&["a person", "two.test"], Some("two")),
            (&["one.test", "one.test"], Some("one")),
            (&["one.test", "two.test"], None),
            (&["off.test"], None),
            (&["ONE.test"], None),
            (&[], None),
        ] {
            assert_eq!(who(&showing(names), &keyless).as_deref(), name, "{names:?}");
        }
        let header = |key: &str| [(AUTHORIZATION, key.parse().expect("a header value"))].into_iter().collect();
        assert_eq!(who(&Peer::Local { uid: Some(1) }, &header("Bearer two")).as_deref(), Some("two"), "a key wins");
        for wrong in ["Bearer wrong", "Basic b25l", ""] {
            assert_eq!(who(&showing(&["one.test"]), &header(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn an_expired_key_is_unknown() {
        let hour = Duration::from_secs(3600);
        for (expires, known) in [(SystemTime::now() + hour, true), (SystemTime::now() - hour, false)] {
            let consumers = Consumers::new(&[team("secret", Some(expires))], None, Instant::now());
            assert_eq!(identify(&consumers, &["Bearer secret"]).is_ok(), known);
        }
    }

    #[test]
    fn a_disabled_key_or_consumer_is_unknown_and_the_log_may_say_why() {
        let mut keyless = team("secret", None);
        keyless.keys[0].disabled = true;
        let out = Consumer { disabled: true, ..team("secret", None) };
        let headers = [(AUTHORIZATION, HeaderValue::from_static("Bearer secret"))].into_iter().collect();
        for consumer in [keyless, out] {
            let consumers = Consumers::new(&[consumer], None, Instant::now());
            let name: Name = "team".into();
            let expected = Stranger::Refused(KeyRefusal::Disabled, Some(&name), Some(b"secret"));
            let (strangers, now) = (Strangers::new(None, None, Instant::now()), Instant::now());
            assert_eq!(
                consumers.identify(Fields::of(&headers).authorization, None, &strangers, now).map(drop),
                Err(expected)
            );
            assert_eq!(identify(&consumers, &["Bearer secret"]), Err(Problem::UnknownConsumer));
        }
    }

    #[test]
    fn without_consumers_everybody_is_welcome() {
        let consumers = Consumers::new(&[], None, Instant::now());
        for lines in [&[][..], &["Bearer"], &["Basic x"]] {
            assert_eq!(identify(&consumers, lines), Ok("open".into()));
        }
        assert!(identify(&consumers, &["Bearer a", "Bearer b"]).is_err());
    }

    #[test]
    fn a_reload_leaves_an_unchanged_consumer_what_it_had_left() {
        let now = Instant::now();
        let rate = |count| Rate::new(count, Duration::from_secs(60));
        let limited = |key, count| Consumer { quota: rate(count), forced_refreshes: rate(count), ..team(key, None) };
        let before = Consumers::new(&[limited("secret", 10)], None, now);
        let same = Consumers::new(&[limited("secret", 10)], Some(&before), now);
        let caller = |consumers: &Consumers| consumers.by_name["team"].clone();
        assert!(Arc::ptr_eq(&caller(&before), &caller(&same)));

        let left = |consumers: &Consumers| {
            let caller = caller(consumers);
            let quota = caller.quota.as_ref().expect("limited").bucket.remaining(now);
            (quota, caller.forced_refreshes.as_ref().expect("limited").remaining(now))
        };
        assert_eq!(left(&before), (2, 2));
        let spender = caller(&before);
        while spender.quota.as_ref().expect("limited").bucket.reserve(now).is_ok() {}
        while spender.forced_refreshes.as_ref().expect("limited").reserve(now).is_ok() {}
        let rotated = Consumers::new(&[limited("another", 10)], Some(&before), now);
        assert_eq!(left(&rotated), (0, 0), "another key is no new quota");
        let changed = Consumers::new(&[limited("secret", 11)], Some(&before), now);
        assert_eq!(left(&changed), (0, 0), "nor is another number");
        let removed = Consumers::new(&[], Some(&before), now);
        let again = Consumers::new(&[limited("secret", 10)], Some(&removed), now);
        assert_eq!(left(&again), (2, 2), "who was gone begins anew");
    }
}
