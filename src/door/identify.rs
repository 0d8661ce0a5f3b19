//! Consumer key to consumer.

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

/// All consumers, by the hashes of their keys.
///
/// What is looked up is the SHA-256 of what was sent, so how long it takes says nothing about a key that exists.
#[derive(Debug)]
pub struct Consumers {
    /// Who everybody is while no consumers are configured.
    open: Option<Arc<Caller>>,
    by_key: HashMap<[u8; 32], Entry>,
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
        let mut by_key = HashMap::new();
        for consumer in consumers {
            let known = before.and_then(|before| before.unchanged(consumer));
            let caller = known.unwrap_or_else(|| Arc::new(Caller::new(consumer.clone(), now)));
            for key in &consumer.keys {
                let (caller, expires) = (caller.clone(), key.expires);
                by_key.insert(key.sha256, Entry { caller, expires, proven: AtomicBool::new(false) });
            }
        }
        let open = consumers.is_empty().then(|| Arc::new(Caller::new(Consumer::open(), now)));
        Self { open, by_key }
    }

    fn unchanged(&self, consumer: &Consumer) -> Option<Arc<Caller>> {
        let known = self.by_key.values().find(|entry| entry.caller.consumer == *consumer)?;
        Some(known.caller.clone())
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
