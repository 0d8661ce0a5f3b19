//! Webhooks that have come already. Merge sends one again when it has heard nothing, and so may somebody who has overheard it:
//! nothing in it says when it was signed.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::signature::Signature;

/// For how long a webhook is known again: Merge's tries end within seconds of the 30 that an answer may take at most. Not for much
/// longer, as the ends of two syncs may be told in the same words, and the fastest accounts sync every minute or less often.
const MEMORY: Duration = Duration::from_secs(45);

/// How many are remembered. Only what Merge has signed is, so it is Merge alone who could come to this.
const MOST: usize = 4096;

/// The signatures that have come lately. Each stands for its body.
#[derive(Debug, Default)]
pub(super) struct Replays {
    known: HashSet<Signature>,
    by_age: VecDeque<(Instant, Signature)>,
}

impl Replays {
    /// Whether `signature` comes for the first time.
    pub(super) fn is_first(&mut self, signature: Signature, now: Instant) -> bool {
        while let Some((at, oldest)) = self.by_age.front()
            && (now.saturating_duration_since(*at) >= MEMORY || self.by_age.len() >= MOST)
        {
            self.known.remove(oldest);
            self.by_age.pop_front();
        }
        let is_first = self.known.insert(signature);
        if is_first {
            self.by_age.push_back((now, signature));
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::signature::SigningKey;

    #[test]
    fn the_same_is_known_for_a_while_and_few_are_remembered() {
        let (key, start) = (SigningKey::new("secret"), Instant::now());
        let sign = |number: usize| key.sign(&number.to_be_bytes());
        let mut replays = Replays::default();
        assert!(replays.is_first(sign(0), start));
        let later = start + MEMORY - Duration::from_millis(1);
        assert!(!replays.is_first(sign(0), later), "and its time is that of the first");
        assert!(replays.is_first(sign(1), later));
        assert!(replays.is_first(sign(0), start + MEMORY));
        assert_eq!(replays.known.len(), 2);
        for number in 0..MOST * 2 {
            replays.is_first(sign(number), start + MEMORY);
        }
        assert_eq!((replays.known.len(), replays.by_age.len()), (MOST, MOST));
        assert!(!replays.is_first(sign(MOST * 2 - 1), start + MEMORY));
    }
}
