//! What has been asked before, by the very words: a client that polls says the same few things again and again, over any of its
//! connections, and the same words under the same rules mean the same.

use std::fmt;
use std::hash::BuildHasher;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use secrecy::zeroize::Zeroizing;

use super::ask::Question;
use super::constant_time::is_same;
use super::page::FreshPage;
use super::peer::Peer;

/// There is one set for so many bytes of pages. If pages have 4 KB, there is room for the heads of about three in four of those that fit;
/// a head needs some 600 bytes with all that is known of it.
const BYTES_PER_SET: u64 = 32 << 10;

/// How many sets there are at least and at most.
const SETS: RangeInclusive<u64> = 256..=512 << 10;

/// How many heads a set knows, and how many more it has met: as many as fit into a line of the processor's cache.
const WAYS: usize = 5;
const MET: usize = 11;

/// How often, of 256 times, a head displaces another. If there are more than there is room for, and they come in turn, most of those
/// that are known stay so, instead of each giving way to the next before it comes again.
const DISPLACES: u8 = 32;

/// How often, of 256 times, a head that has not been met takes a free place of a set that has met many. Else no place would be taken
/// where so many heads come in turn that each is forgotten again before it comes for the second time.
const SETTLES: u8 = 8;

/// Heads that were admitted, with what they ask: those of HTTP/1 as they came, those of HTTP/2 as one text. Cheap to clone; all clones
/// are one.
///
/// They are found by a hash, whose key nobody knows, and by every byte, compared in a time that does not depend on where they differ:
/// there are keys in them. A head is remembered when it has come twice and few others of its set in between, or now and then where there
/// is room, so that what is asked only once hardly ever displaces what is asked again. Who can make heads that are admitted can displace
/// others, which are then read like any other.
#[derive(Clone)]
pub struct Heads {
    sets: Arc<[Place]>,
    hasher: RandomState,
    /// The [edition](crate::door::admit::House::edition) of the rules that are in force.
    edition: Arc<AtomicU64>,
}

/// A set and its lock are one line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Place(Mutex<Set>);

const _: () = assert!(size_of::<Place>() == 64, "a line of the processor's cache");

#[derive(Default)]
struct Set {
    /// Parts of the hashes of the last heads that were not known, the newest first.
    met: [u8; MET],
    /// The same of those that are known, each in its place, so that hardly ever a wrong one is compared.
    parts: [u8; WAYS],
    /// The newest first.
    known: [Option<Arc<Question>>; WAYS],
}

/// The words of one head, and whose they are: what the peer has shown besides may decide what they mean.
#[derive(Clone)]
pub struct Words {
    head: Zeroizing<Box<[u8]>>,
    peer: Peer,
    hash: u64,
}

/// What a request's head says, compared with what has been said before.
#[derive(Debug, Default)]
pub enum Said {
    /// Something of its own.
    #[default]
    Once,
    /// What has been said a moment ago, and may be said again.
    Twice(Box<Words>),
    /// What has been admitted before, and asked this.
    Known(Arc<Question>),
    /// The same, by the rules that are in force, with its page, which was fresh when the request came. Of the request only its
    /// [gist](super::gist::Gist) is there.
    Recalled(Arc<Question>, FreshPage),
}

/// The last head of one connection, if it has been said twice in a row, as by clients that poll one page. The reference is a weak one,
/// so that what is forgotten is gone.
#[derive(Debug, Default)]
pub struct Row {
    hash: u64,
    question: Weak<Question>,
}

impl Row {
    /// What `head` says when it comes from `peer`; see [`Heads::hear`].
    pub fn hear(&mut self, heads: &Heads, peer: &Peer, head: &[u8]) -> Said {
        if let Some(question) = self.question.upgrade() {
            // Whoever is at the other end has said the words before, so the time that it takes tells nobody anything new.
            if question.again.as_ref().is_some_and(|again| **again.words.head == *head) {
                return Said::Known(question);
            }
            self.question = Weak::new();
        }
        let said = heads.hear(peer, head);
        let Said::Known(question) = &said else { return said };
        let hash = question.again.as_ref().map_or(0, |again| again.words.hash);
        if hash == self.hash {
            self.question = Arc::downgrade(question);
        }
        self.hash = hash;
        said
    }
}

impl Heads {
    /// None is known yet. There is room for as many as are worth it beside a store for `max_bytes` of pages.
    pub fn new(max_bytes: u64) -> Self {
        let sets = (max_bytes / BYTES_PER_SET).clamp(*SETS.start(), *SETS.end());
        let sets = (0..sets).map(|_| Place::default()).collect();
        Self { sets, hasher: RandomState::default(), edition: Arc::default() }
    }

    /// What `head` says when it comes from `peer`.
    pub fn hear(&self, peer: &Peer, head: &[u8]) -> Said {
        let hash = self.hasher.hash_one((peer.shown(), head));
        let mut set = self.set(hash).lock();
        let part = part_of(hash);
        for (other, known) in set.parts.iter().zip(&set.known) {
            let alike = known.as_ref().filter(|_| *other == part);
            if let Some(question) = alike.filter(|question| question.is_said(peer, head)) {
                return Said::Known(question.clone());
            }
        }
        let has_come = set.met.contains(&part);
        let is_worth_it = if set.has_room() {
            has_come || set.has_met_many() && fastrand::u8(..) < SETTLES
        } else {
            has_come && fastrand::u8(..) < DISPLACES
        };
        if is_worth_it {
            return Said::Twice(Box::new(Words { peer: peer.clone(), head: Zeroizing::new(head.into()), hash }));
        }
        set.met.rotate_right(1);
        set.met[0] = part;
        Said::Once
    }

    /// Remembers the words of a question that was admitted.
    pub fn remember(&self, question: &Arc<Question>) {
        let Some(again) = &question.again else { return };
        let Words { peer, head, hash } = &again.words;
        let mut set = self.set(*hash).lock();
        let part = part_of(*hash);
        let mut places = set.parts.iter().zip(&set.known);
        let may_go = |(other, known): (&u8, &Option<Arc<Question>>)| {
            known.as_ref().is_none_or(|older| *other == part && older.is_said(peer, head))
        };
        let place = places.position(may_go).unwrap_or(WAYS - 1);
        set.known[..=place].rotate_right(1);
        set.parts[..=place].rotate_right(1);
        (set.known[0], set.parts[0]) = (Some(question.clone()), part);
    }

    /// Whether a question was admitted by the rules that are in force.
    pub fn is_in_force(&self, question: &Question) -> bool {
        question.edition == self.edition.load(Ordering::Acquire)
    }

    /// Forgets all of them, and the keys in them: this edition of the rules is in force now.
    pub fn forget(&self, edition: u64) {
        self.edition.store(edition, Ordering::Release);
        for Place(set) in &*self.sets {
            // What was known is dropped when the lock has been given back: who serves does not wait for that.
            let _known = std::mem::take(&mut *set.lock());
        }
    }

    fn set(&self, hash: u64) -> &Mutex<Set> {
        // Of all that the upper half may be, an equal share for each: there is no need to divide.
        let sets = self.sets.len() as u64;
        &self.sets[usize::try_from(((hash >> 32) * sets) >> 32).expect("less than the number of sets")].0
    }
}

/// A part of a hash that has nothing to do with which set it chooses.
fn part_of(hash: u64) -> u8 {
    hash.to_le_bytes()[0]
}

impl Question {
    /// Whether this is what `peer` asks with `head`.
    fn is_said(&self, peer: &Peer, head: &[u8]) -> bool {
        self.again.as_ref().is_some_and(|again| again.compare(|words| words.are(peer, head)))
    }
}

impl Set {
    fn has_room(&self) -> bool {
        self.known.iter().any(Option::is_none)
    }

    /// Whether it has no more room to remember those that were not known: one that seems new may have come before.
    fn has_met_many(&self) -> bool {
        self.met.last().is_some_and(|oldest| *oldest != 0)
    }
}

impl Words {
    fn are(&self, peer: &Peer, head: &[u8]) -> bool {
        self.peer.shown() == peer.shown() && is_same(&self.head, head)
    }
}

impl fmt::Debug for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heads(…)")
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words(…)")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::access::{Account, AccountHash, Consumer, Credential, Upstream};
    use super::super::ask::Again;
    use super::super::caller::Caller;
    use super::super::exchange::{Policy, Target};
    use super::super::key::{CanonicalQuery, KeyParts, PageKey, Place};
    use super::super::rules::{BudgetRules, CacheRule, ClientOptions, Lifetimes};
    use super::*;
    use http::uri::{Authority, Scheme};
    use proptest::prelude::*;
    use tokio::time::Instant;

    /// A head, from nobody in particular.
    pub(crate) fn words(head: &str) -> Words {
        Words { peer: Peer::Local { uid: None }, head: Zeroizing::new(head.as_bytes().into()), hash: 0 }
    }

    /// Something that is asked in these words.
    fn question(words: Words) -> Arc<Question> {
        let upstream = Arc::new(Upstream {
            name: "us".into(),
            scheme: Scheme::HTTPS,
            authority: Authority::from_static("api.test"),
            prefix: "".into(),
            api_key: Credential::new("Bearer key").expect("ASCII"),
            client: ClientOptions::default(),
            budget: BudgetRules::default(),
        });
        let (name, hash) = (Some("acme".into()), AccountHash([1; 16]));
        let token = Credential::new("token").expect("ASCII");
        let (upstream_of_account, per_account) = (upstream.clone(), None);
        let account =
            Account { name, hash, token, upstream: upstream_of_account, per_account, linked_account_id: None };
        let place = Arc::new(Place { route: "/r".into(), path: "/r".into() });
        let query = CanonicalQuery::new("");
        let lifetimes = Lifetimes::default();
        Arc::new(Question {
            quota: None,
            caller: Arc::new(Caller::new(Consumer::open(), Instant::now())),
            key: PageKey::new(KeyParts { upstream: upstream.name.clone(), account: hash, place, query }),
            target: Target { upstream, account: Arc::new(account) },
            query: None,
            has_codings: false,
            policy: Arc::new(Policy { rule: CacheRule::SyncStatus, lifetimes, max_page_bytes: 1 << 20 }),
            edition: 0,
            again: Some(Again::new(words, None)),
        })
    }

    fn peer(certificate: &[&str]) -> Peer {
        let certificate = certificate.iter().map(|name| Box::from(*name)).collect();
        Peer::Network { address: [127, 0, 0, 1].into(), certificate }
    }

    /// Remembers what is said for the second time, as the door does; gives back what was known.
    fn say(heads: &Heads, peer: &Peer, head: &str) -> Option<Arc<Question>> {
        match heads.hear(peer, head.as_bytes()) {
            Said::Once => None,
            Said::Twice(words) => {
                heads.remember(&question(*words));
                None
            }
            Said::Known(question) | Said::Recalled(question, _) => Some(question),
        }
    }

    #[test]
    fn what_is_said_twice_is_known_until_it_is_forgotten() {
        let (heads, anybody) = (Heads::new(192 << 20), peer(&[]));
        for _ in 0..2 {
            assert!(say(&heads, &anybody, "a").is_none() && say(&heads, &anybody, "a").is_none());
            let known = say(&heads, &anybody, "a").expect("said twice before");
            heads.remember(&known);
            assert_eq!(heads.sets.iter().map(|Place(set)| set.lock().known.iter().flatten().count()).sum::<usize>(), 1);
            heads.forget(1);
        }
        assert_eq!(format!("{heads:?} {:?}", words("canary")), "Heads(…) Words(…)");
    }

    #[test]
    fn there_is_room_in_proportion_to_the_pages() {
        let sets = |max_bytes| Heads::new(max_bytes).sets.len();
        assert_eq!([0, 8 << 20, 256 << 20, u64::MAX].map(sets), [256, 256, 8_192, 524_288]);
    }

    #[test]
    fn what_is_said_only_once_displaces_nothing() {
        let (heads, anybody) = (Heads::new(192 << 20), peer(&[]));
        for _ in 0..2 {
            (0..100).for_each(|number| drop(say(&heads, &anybody, &format!("often {number}"))));
            (0..100).for_each(|number| drop(say(&heads, &anybody, &format!("often {number}"))));
        }
        (0..50_000).for_each(|number| drop(say(&heads, &anybody, &format!("once {number}"))));
        let known = (0..100).filter(|number| say(&heads, &anybody, &format!("often {number}")).is_some()).count();
        assert!(known > 95, "{known}: only who shares a set may be in the way");
    }

    #[test]
    fn of_more_than_there_is_room_for_many_are_known() {
        for times in [2, 4, 8] {
            let (heads, anybody) = (Heads::new(0), peer(&[]));
            let room = heads.sets.len() * WAYS;
            let said_in_turn =
                || (0..times * room).filter(|number| say(&heads, &anybody, &number.to_string()).is_some()).count();
            let known: Vec<_> = (0..40).map(|_| said_in_turn()).collect();
            assert!(known[39] > room * 4 / 5, "{times} times as many as {room}: {known:?}");
        }
    }

    #[test]
    fn what_a_connection_says_again_and_again_is_known_until_it_is_forgotten() {
        let (heads, anybody, mut row) = (Heads::new(192 << 20), peer(&[]), Row::default());
        let mut hear = |head: &str| match row.hear(&heads, &anybody, head.as_bytes()) {
            Said::Twice(words) => {
                heads.remember(&question(*words));
                None
            }
            Said::Once => None,
            Said::Known(question) | Said::Recalled(question, _) => {
                Some(question.again.as_ref().expect("it was remembered").words.head.to_vec())
            }
        };
        for head in ["a", "b", "a", "bb"] {
            for turn in 0..5 {
                let known = hear(head);
                assert!(known.is_none() || known.as_deref() == Some(head.as_bytes()), "{head}, turn {turn}");
                assert!(known.is_some() || turn < 2, "{head}, turn {turn}");
            }
        }
        heads.forget(1);
        assert_eq!(hear("bb"), None);
    }

    proptest! {
        #[test]
        fn nobody_is_taken_for_another(said in prop::collection::vec((0..4_usize, "[ab]{0,2}"), 1..200)) {
            let heads = Heads::new(192 << 20);
            let peers = [peer(&[]), peer(&["team"]), Peer::Local { uid: None }, Peer::Local { uid: Some(7) }];
            for (who, head) in said {
                if let Some(known) = say(&heads, &peers[who], &head) {
                    let words = &known.again.as_ref().expect("it was remembered").words;
                    prop_assert_eq!((words.peer.shown(), &**words.head), (peers[who].shown(), head.as_bytes()));
                }
            }
        }
    }
}
