//! The page of a question that is asked again and again: while the store still has the one that was found last, it is not searched for.

use std::sync::Arc;

use tokio::time::Instant;

use super::store::Store;
use crate::domain::ask::Again;
use crate::domain::key::PageKey;
use crate::domain::page::Page;

impl Store {
    /// The page under `key`, fresh or not.
    pub fn find(&self, key: &PageKey, again: Option<&Again>, now: Instant) -> Option<Arc<Page>> {
        let Some(again) = again else { return self.get(key) };
        match again.found() {
            Some(page) if !self.is_to_be_told(again, now) => Some(page),
            _ => self.search(key, again, now),
        }
    }

    /// The page that was found last counts as used.
    pub fn touch(&self, key: &PageKey, again: Option<&Again>, now: Instant) {
        if let Some(again) = again.filter(|again| self.is_to_be_told(again, now)) {
            self.search(key, again, now);
        }
    }

    fn is_to_be_told(&self, again: &Again, now: Instant) -> bool {
        self.counts_use() && again.is_due(now)
    }

    fn search(&self, key: &PageKey, again: &Again, now: Instant) -> Option<Arc<Page>> {
        let page = self.get(key)?;
        again.remember(&page, now);
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::key;
    use super::*;
    use crate::domain::access::AccountHash;
    use crate::domain::heads::tests::words;
    use crate::domain::page::tests::page;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Keep(u8, u8),
        Weigh(u8),
        Purge(u8, bool),
        PurgeAll(bool),
        Forget,
        Find(u8, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3_u8, 0..9_u8).prop_map(|(account, began)| Step::Keep(account, began)),
            (0..3_u8).prop_map(Step::Weigh),
            (0..3_u8, any::<bool>()).prop_map(|(account, hard)| Step::Purge(account, hard)),
            any::<bool>().prop_map(Step::PurgeAll),
            Just(Step::Forget),
            (0..3_u8, 0..2_usize).prop_map(|(account, who)| Step::Find(account, who)),
            (0..3_u8, 0..2_usize).prop_map(|(account, who)| Step::Find(account, who)),
        ]
    }

    proptest! {
        /// Whatever has happened in between, whoever asks again finds what somebody who asks for the first time would find.
        #[test]
        fn what_is_found_again_is_what_is_there(steps in proptest::collection::vec(step(), 1..60)) {
            let (store, start) = (Store::new(1 << 20), Instant::now());
            let again: [[_; 2]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| Again::new(words(""), None)));
            for step in steps {
                match step {
                    Step::Keep(account, began) => {
                        let began = start + Duration::from_millis(began.into());
                        store.keep(&key(account, ""), &Arc::new(page("{}", began, [60, 0, 0])));
                    }
                    Step::Weigh(account) => {
                        if let Some(page) = store.get(&key(account, "")) {
                            store.weigh_again(&key(account, ""), &page);
                        }
                    }
                    Step::Purge(account, hard) => {
                        store.purge_account(AccountHash([account; 16]), hard, start);
                    }
                    Step::PurgeAll(hard) => {
                        store.purge_all(hard, start);
                    }
                    Step::Forget => {
                        store.forget_upstream(&"us".into(), false, start);
                    }
                    Step::Find(account, who) => {
                        let key = key(account, "");
                        let found = store.find(&key, Some(&again[usize::from(account)][who]), start);
                        let there = store.get(&key);
                        let same = match (&found, &there) {
                            (Some(found), Some(there)) => Arc::ptr_eq(found, there),
                            (None, None) => true,
                            _ => false,
                        };
                        prop_assert!(same);
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_finds_again_what_has_been_replaced_already() {
        let (store, start) = (Store::new(1 << 20), Instant::now());
        let kept = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let again = Again::new(words(""), None);
                    loop {
                        let at_least = kept.load(Ordering::SeqCst);
                        if let Some(page) = store.find(&key(1, ""), Some(&again), start) {
                            let found = (page.began - start).as_millis();
                            assert!(found >= u128::from(at_least), "{found} was found after {at_least} had been kept");
                        }
                        if at_least == 20_000 {
                            return;
                        }
                    }
                });
            }
            for number in 1..=20_000 {
                let began = start + Duration::from_millis(number);
                assert!(store.keep(&key(1, ""), &Arc::new(page("{}", began, [60, 0, 0]))));
                kept.store(number, Ordering::SeqCst);
            }
        });
    }

    #[test]
    fn what_is_found_again_and_again_outlives_what_is_not_used() {
        let (store, start) = (Store::new(100_000), Instant::now());
        let again = Again::new(words(""), None);
        store.keep(&key(1, ""), &Arc::new(page("{}", start, [3_600, 0, 0])));
        for second in 0..1_000 {
            let now = start + Duration::from_secs(second);
            assert!(store.find(&key(1, ""), Some(&again), now).is_some(), "after {second} s");
            store.keep(&key(2, &format!("cursor={second}")), &Arc::new(page("{}", now, [3_600, 0, 0])));
            store.maintain();
        }
        assert!(store.size().0 < 900, "others had to go");
    }
}
