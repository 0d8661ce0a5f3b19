//! Who waits for the page under a key to change.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::key::PageKey;

/// All keys that somebody listens to. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Changes(Arc<Mutex<HashMap<PageKey, watch::Sender<()>, RandomState>>>);

/// Hears of changes under one key. Whoever looks into the store after it has begun to listen misses none.
pub struct Listening {
    changes: Changes,
    key: PageKey,
    heard: watch::Receiver<()>,
}

impl Changes {
    /// What is stored under `key` is not what it was.
    pub fn tell(&self, key: &PageKey) {
        if let Some(sender) = self.0.lock().get(key) {
            sender.send_replace(());
        }
    }

    /// Begins to listen.
    pub fn listen(&self, key: &PageKey) -> Listening {
        let mut listened = self.0.lock();
        let heard = listened.entry(key.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        Listening { changes: self.clone(), key: key.clone(), heard }
    }
}

impl Listening {
    /// Completes when there was a change since the last time. Nothing is lost if this is given up.
    pub async fn changed(&mut self) {
        // The sender stays for as long as somebody listens.
        let _ = self.heard.changed().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listened = self.changes.0.lock();
        // This one is still counted.
        if listened.get(&self.key).is_some_and(|sender| sender.receiver_count() == 1) {
            listened.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::AccountHash;
    use crate::domain::key::{CanonicalQuery, KeyParts, Place};

    #[tokio::test]
    async fn only_who_listens_hears_and_nobody_is_remembered() {
        let key = |query| {
            PageKey::new(KeyParts {
                upstream: "us".into(),
                account: AccountHash([1; 16]),
                place: Arc::new(Place { route: "/r".into(), path: "/r".into() }),
                query: CanonicalQuery::new(query),
            })
        };
        let changes = Changes::default();
        changes.tell(&key(""));
        let (mut one, mut other) = (changes.listen(&key("")), changes.listen(&key("")));
        changes.tell(&key("cursor=x"));
        assert!(!one.heard.has_changed().expect("it is open"));
        changes.tell(&key(""));
        one.changed().await;
        drop(one);
        other.changed().await;
        assert_eq!(changes.0.lock().len(), 1);
        drop(other);
        assert_eq!(changes.0.lock().len(), 0);
    }
}
