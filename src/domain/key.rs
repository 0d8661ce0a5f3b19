//! What a page is stored under: a typed tuple that always holds the account, and never a token.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use foldhash::fast::RandomState;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::access::{AccountHash, Name};

/// Turns tokens into [`AccountHash`]es with a secret key, so that a hash cannot be tried against a list of tokens.
#[derive(Clone)]
pub struct TokenHasher(Hmac<Sha256>);

impl TokenHasher {
    /// A hasher whose key lives and dies with this process.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    pub fn new() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system has random numbers");
        Self::from_key(key)
    }

    /// A hasher with this key.
    pub fn from_key(key: [u8; 32]) -> Self {
        Self(Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"))
    }

    /// The hash that stands for `token`.
    pub fn hash(&self, token: &str) -> AccountHash {
        let mut mac = self.0.clone();
        mac.update(token.as_bytes());
        let digest = mac.finalize().into_bytes();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        AccountHash(hash)
    }
}

impl Default for TokenHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TokenHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHasher(…)")
    }
}

/// A route together with the upstream path of one request on it.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The route's path as configured.
    pub route: Name,
    /// The path that the upstream gets.
    pub path: Arc<str>,
}

impl Place {
    /// Whether a call to it that changes something makes the account sync anew, however its path is written.
    pub fn is_resync(&self) -> bool {
        let mut path = String::new();
        normalise(&self.path, &mut path);
        path.ends_with("/sync-status/resync")
    }
}

impl Hash for Place {
    /// The path tells nearly all places apart; equality looks at both.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

/// A query whose pairs are sorted by name and written as RFC 3986 §6.2.2 normalises them: hex digits in upper case, unreserved
/// characters bare, and nothing else touched. `+`, `%20` and `%2B` stay three different things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CanonicalQuery(Box<str>);

impl CanonicalQuery {
    /// The canonical form of a raw query. Pairs of one name keep their order: it may mean something.
    pub fn new(raw: &str) -> Self {
        if !raw.contains(['%', '&']) {
            return Self(raw.into());
        }
        let mut normal = String::with_capacity(raw.len());
        for (at, pair) in raw.split('&').enumerate() {
            normal.push_str(if at > 0 { "&" } else { "" });
            normalise(pair, &mut normal);
        }
        let mut pairs: Vec<&str> = normal.split('&').collect();
        pairs.sort_by_key(|pair| name_of(pair));
        Self(pairs.join("&").into())
    }

    /// The pairs as (name, value); a name without `=` has no value.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        })
    }

    /// The text, without a question mark.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// Percent-encodings of unreserved characters are decoded, the hex digits of all others are put in upper case.
///
/// What follows a `%` that begins no valid encoding stays as it is: a digit decoded behind it would make an encoding that nobody
/// has written, and two queries one.
fn normalise(raw: &str, normal: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        normal.push_str(&rest[..at]);
        rest = &rest[at..];
        let octet = rest.get(1..3).filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let Some(octet) = octet.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else { break };
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            normal.push(octet.into());
        } else {
            normal.push_str(&rest[..3].to_ascii_uppercase());
        }
        rest = &rest[3..];
    }
    normal.push_str(rest);
}

/// What a page is stored under: its parts, which never change, and their hash, which is needed wherever something is kept by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageKey {
    hash: u64,
    parts: KeyParts,
}

/// What makes two pages different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyParts {
    /// Whose credentials fetched it.
    pub upstream: Name,
    /// The account that it belongs to.
    pub account: AccountHash,
    /// Which route, and what it asks the upstream for.
    pub place: Arc<Place>,
    /// Which part of it.
    pub query: CanonicalQuery,
}

impl Hash for KeyParts {
    /// Accounts hardly ever live on two upstreams, so these tell nearly all keys apart.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.account.hash(state);
        self.place.hash(state);
        self.query.hash(state);
    }
}

/// Seeded anew in each process, so that nobody can find keys whose hashes collide.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

impl Hash for PageKey {
    /// Equal parts have equal hashes; equality looks at everything.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Deref for PageKey {
    type Target = KeyParts;

    fn deref(&self) -> &KeyParts {
        &self.parts
    }
}

impl PageKey {
    /// The key of these parts.
    pub fn new(parts: KeyParts) -> Self {
        Self { hash: HASHER.hash_one(&parts), parts }
    }

    /// A hash for the resource at an upstream path and query, for the account of this key and by whichever route.
    pub fn resource(&self, path: &str, query: &CanonicalQuery) -> u64 {
        HASHER.hash_one((&self.upstream, self.account, path, query))
    }

    /// One of so many places among which keys are spread evenly: always the same for equal keys.
    ///
    /// # Panics
    /// If there is none.
    pub fn one_of(&self, places: usize) -> usize {
        usize::try_from(self.hash % places as u64).expect("less than the number of places")
    }

    /// The bytes that the key takes in the store, shared parts not counted. Below a route each path is its own.
    pub fn size(&self) -> usize {
        let place = &*self.place;
        let own = if place.route.ends_with("/*") { size_of_val(place) + place.path.len() } else { 0 };
        size_of::<Self>() + self.query.as_str().len() + own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(raw: &str) -> String {
        CanonicalQuery::new(raw).as_str().to_owned()
    }

    #[test]
    fn order_does_not_matter_and_bytes_do() {
        assert_eq!(canonical("page_size=50&cursor=a%2Bb%3D%3D"), canonical("cursor=a%2Bb%3D%3D&page_size=50"));
        assert_eq!(canonical("cursor=a%2bb"), "cursor=a%2Bb");
        assert_eq!(canonical("cursor=%61-%7E"), "cursor=a-~");
        let forms = ["cursor=a+b", "cursor=a%20b", "cursor=a%2Bb", "cursor=", "cursor", ""];
        for (i, one) in forms.iter().enumerate() {
            for other in &forms[i + 1..] {
                assert_ne!(canonical(one), canonical(other));
            }
        }
    }

    #[test]
    fn whatever_is_of_a_key_alone_weighs() {
        let size = |route: &str, path: &str, query: &str| {
            let place = Arc::new(Place { route: route.into(), path: path.into() });
            let (account, query) = (AccountHash([1; 16]), CanonicalQuery::new(query));
            PageKey::new(KeyParts { upstream: "us".into(), account, place, query }).size()
        };
        let long = "a".repeat(8_000);
        assert!(size("/x/*", &format!("/x/{long}"), "") >= 8_000 + size("/x/a", "/x/a", ""));
        assert!(size("/x/a", "/x/a", &long) >= 8_000 + size("/x/a", "/x/a", ""));
        assert_eq!(
            size(&format!("/{long}"), &format!("/{long}"), ""),
            size("/x/a", "/x/a", ""),
            "all have it in common"
        );
    }

    #[test]
    fn a_resync_is_known_by_its_path() {
        let is_resync = |path: &str| Place { route: "/*".into(), path: path.into() }.is_resync();
        assert!(is_resync("/api/ats/v1/sync-status/resync"));
        assert!(is_resync("/api/ats/v1/sync%2Dstatus/%72esync"));
        assert!(!is_resync("/api/ats/v1/sync-status"));
    }

    #[test]
    fn what_is_no_encoding_stays() {
        for raw in ["a=%", "a=%4", "a=%zz", "a=%%41", "a=%é", "a=%%4142"] {
            assert_eq!(canonical(raw), raw);
        }
        assert_eq!(canonical("a=%&b=%41"), "a=%&b=A", "in its own pair");
        assert_ne!(canonical("cursor=%%4142"), canonical("cursor=%A42"));
    }

    #[test]
    fn pairs_of_one_name_keep_their_order() {
        assert_ne!(canonical("a=1&a=2"), canonical("a=2&a=1"));
        assert_eq!(canonical("b=3&a=2&a=1"), "a=2&a=1&b=3");
    }

    #[test]
    fn hashes_depend_on_the_token_and_on_the_key() {
        let hasher = TokenHasher::new();
        assert_eq!(hasher.hash("one"), hasher.hash("one"));
        assert_ne!(hasher.hash("one"), hasher.hash("two"));
        assert_ne!(hasher.hash("one"), TokenHasher::new().hash("one"));
    }

    proptest! {
        #[test]
        fn keys_are_equal_with_their_parts_and_hash_alike(parts in [("[ab]", 0..2_u8, "[ab]", "[ab]", "[ab]"), ("[ab]", 0..2_u8, "[ab]", "[ab]", "[ab]")]) {
            let parts = parts.map(|(upstream, account, route, path, query)| KeyParts {
                upstream: upstream.as_str().into(),
                account: AccountHash([account; 16]),
                place: Arc::new(Place { route: route.as_str().into(), path: path.into() }),
                query: CanonicalQuery::new(&query),
            });
            let [one, other] = parts.clone().map(PageKey::new);
            prop_assert_eq!(one == other, parts[0] == parts[1]);
            let hasher = RandomState::default();
            prop_assert!(one != other || hasher.hash_one(&one) == hasher.hash_one(&other));
        }

        #[test]
        fn canonical_is_a_fixed_point(raw in "([a-c=&%+0-9A-F~.]|%[46][0-9a-f]){0,16}") {
            let once = canonical(&raw);
            prop_assert_eq!(canonical(&once), once);
        }

        #[test]
        fn equal_keys_mean_the_same_multiset_of_pairs(mut pairs in proptest::collection::vec("[a-c]=[%+A-F0-9]{0,6}", 1..6)) {
            let raw = pairs.join("&");
            pairs.sort_by(|a, b| name_of(a).cmp(name_of(b)));
            prop_assert_eq!(canonical(&raw), canonical(&pairs.join("&")));
        }

        #[test]
        fn a_reserved_character_and_its_encoding_never_meet(head in "[a-z]{0,4}", reserved in "[+/=:@ !*'(),;&#?]", tail in "[a-z]{0,4}") {
            let encoded = format!("cursor={head}%{:02X}{tail}", reserved.as_bytes()[0]);
            let bare = format!("cursor={head}{reserved}{tail}");
            prop_assert_ne!(canonical(&encoded), canonical(&bare));
        }
    }
}
