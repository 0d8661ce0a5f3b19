//! Who sends a request: by the consumer key in it, or else by the connection that it came over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::strangers::Strangers;
use crate::domain::access::Consumer;
use crate::domain::exchange::Caller;
use crate::domain::peer::Peer;
use crate::domain::problem::Problem;

/// All consumers, by the hashes of their keys, by users of this machine and by names in certificates.
///
/// What is looked up is the SHA-256 of what was sent, so how long it takes says nothing about a key that exists.
#[derive(Debug)]
pub struct Consumers {
    /// Who everybody is while no consumers are configured.
    open: Option<Arc<Caller>>,
    by_key: HashMap<[u8; 32], Entry>,
    by_uid: HashMap<u32, Arc<Caller>>,
    by_certificate: HashMap<Box<str>, Arc<Caller>>,
}

/// What a key stands for.
#[derive(Debug)]
struct Entry {
    caller: Arc<Caller>,
    expires: Option<SystemTime>,
    /// Whether the key has been shown.
    proven: AtomicBool,
}

impl Consumers {
    /// The consumers as configured; none is the open mode. A consumer of `before` that has not changed keeps what it had left.
    pub fn new(consumers: &[Consumer], before: Option<&Self>, now: Instant) -> Self {
        let (mut by_key, mut by_uid, mut by_certificate) = (HashMap::new(), HashMap::new(), HashMap::new());
        for consumer in consumers {
            let known = before.and_then(|before| before.unchanged(consumer));
            let caller = known.unwrap_or_else(|| Arc::new(Caller::new(consumer.clone(), now)));
            for key in &consumer.keys {
                let (caller, expires) = (caller.clone(), key.expires);
                by_key.insert(key.sha256, Entry { caller, expires, proven: AtomicBool::new(false) });
            }
            by_uid.extend(consumer.unix_uids.iter().map(|uid| (*uid, caller.clone())));
            by_certificate.extend(consumer.client_certs.iter().map(|name| (name.clone(), caller.clone())));
        }
        let open = consumers.is_empty().then(|| Arc::new(Caller::new(Consumer::open(), now)));
        Self { open, by_key, by_uid, by_certificate }
    }

    fn unchanged(&self, consumer: &Consumer) -> Option<Arc<Caller>> {
        let keyed = self.by_key.values().map(|entry| &entry.caller);
        let mut all = keyed.chain(self.by_uid.values()).chain(self.by_certificate.values());
        all.find(|caller| caller.consumer == *consumer).cloned()
    }

    /// Who sent these headers over a connection of `peer`. Whoever may not come in is counted among `strangers`.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        strangers: &Strangers,
        now: Instant,
    ) -> Result<&Arc<Caller>, Problem> {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let line = lines.next();
        if lines.next().is_some() {
            return Err(Problem::InvalidRequest("Send one 'Authorization' header, not several.".into()));
        }
        if let Some(open) = &self.open {
            return Ok(open);
        }
        // A key says more than a connection, also when it is wrong: who shows one must not be taken for somebody else.
        if line.is_none()
            && let Some(caller) = peer.and_then(|peer| self.connected(peer))
        {
            return Ok(caller);
        }
        let origin = peer.and_then(Peer::origin);
        let key = line.map(|line| bearer(line.as_bytes())).transpose()?.flatten();
        strangers.check(origin, key, now)?;
        let Some((key, entry)) = key.and_then(|key| Some((key, self.find(key)?))) else {
            return Err(strangers.refuse(origin, now));
        };
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
    fn find(&self, key: &[u8]) -> Option<&Entry> {
        let entry = self.by_key.get::<[u8; 32]>(&Sha256::digest(key).into())?;
        (!entry.expires.is_some_and(|expires| expires <= SystemTime::now())).then_some(entry)
    }
}

/// The key in `Bearer KEY` (RFC 6750 §2.1), `None` in another scheme; a key that none can be is malformed.
fn bearer(line: &[u8]) -> Result<Option<&[u8]>, Problem> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = line.split_at(line.iter().position(|byte| *byte == b' ').unwrap_or(line.len()));
    let key = rest.trim_ascii();
    if !scheme.eq_ignore_ascii_case(SCHEME) || key.is_empty() {
        return Ok(None);
    }
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if !key.iter().all(fits) {
        return Err(Problem::InvalidRequest("'Authorization' must be 'Bearer' and one consumer key.".into()));
    }
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::KeyHash;
    use http::HeaderValue;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn team(key: &str, expires: Option<SystemTime>) -> Consumer {
        let sha256 = Sha256::digest(key).into();
        Consumer { name: "team".into(), keys: vec![KeyHash { sha256, expires }], ..Consumer::open() }
    }

    fn identify(consumers: &Consumers, lines: &[&str]) -> Result<String, Problem> {
        let lines = lines.iter().map(|line| (AUTHORIZATION, HeaderValue::from_str(line).expect("a header value")));
        let (strangers, now) = (Strangers::new(None, None, Instant::now()), Instant::now());
        let identified = consumers.identify(&lines.collect(), None, &strangers, now);
        identified.map(|caller| caller.consumer.name.to_string())
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
        let known = |name: &str, uid, cert: &str| Consumer {
            name: name.into(),
            unix_uids: vec![uid],
            client_certs: vec![cert.into()],
            ..team(name, None)
        };
        let consumers = Consumers::new(&[known("one", 1, "one.test"), known("two", 2, "two.test")], None, now);
        let strangers = Strangers::new(None, None, now);
        let who = |peer: &Peer, headers: &HeaderMap| {
            consumers.identify(headers, Some(peer), &strangers, now).map(|caller| caller.consumer.name.to_string())
        };
        let keyless = HeaderMap::new();
        for (uid, name) in [(Some(1), Some("one")), (Some(2), Some("two")), (Some(3), None), (None, None)] {
            assert_eq!(who(&Peer::Local { uid }, &keyless).ok().as_deref(), name);
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
            (&["ONE.test"], None),
            (&[], None),
        ] {
            assert_eq!(who(&showing(names), &keyless).ok().as_deref(), name, "{names:?}");
        }
        let header = |key: &str| [(AUTHORIZATION, key.parse().expect("a header value"))].into_iter().collect();
        assert_eq!(who(&Peer::Local { uid: Some(1) }, &header("Bearer two")), Ok("two".into()), "a key wins");
        for wrong in ["Bearer wrong", "Basic b25l", ""] {
            assert_eq!(who(&showing(&["one.test"]), &header(wrong)), Err(Problem::UnknownConsumer), "{wrong}");
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
        let before = Consumers::new(&[team("secret", None)], None, now);
        let same = Consumers::new(&[team("secret", None)], Some(&before), now);
        let other = Consumers::new(&[Consumer { weight: NonZeroU32::MAX, ..team("secret", None) }], Some(&before), now);
        let caller = |consumers: &Consumers| consumers.by_key.values().next().expect("one key").caller.clone();
        assert!(Arc::ptr_eq(&caller(&before), &caller(&same)));
        assert!(!Arc::ptr_eq(&caller(&before), &caller(&other)));
    }
}
