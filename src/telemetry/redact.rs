//! The last line of defence: no known secret leaves in a line of the log, whatever brought it there.
//!
//! Elsewhere types see to it that secrets cannot be printed. But a caller may put one into a path or an `X-Request-Id`, and an
//! error of a library may quote what it was given. So every line is looked through once before it is written, in steps of several
//! bytes: a step that shares no four bytes with the beginning of a secret, which nearly all do, costs a nanosecond or two.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;
use foldhash::fast::RandomState;
use memchr::memmem::Finder;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::zeroize::Zeroizing;

use crate::domain::access::KEY_PREFIX;

/// What stands where a secret was.
const REDACTED: &[u8] = b"[redacted]";

/// Shorter secrets are not looked for: they would be found within ordinary words, and no line could be read any more.
const SHORTEST: usize = 8;

/// How far into a secret its beginning reaches, at most: the longer, the longer the steps.
const LONGEST_BEGINNING: usize = 16;

/// How many bytes are looked at in a step.
const GRAM: usize = 4;

/// What follows the prefix of a consumer key is 47 characters; one that has lost some is still too good to be read by everybody.
const KEY_TAIL: usize = 24;

/// The secrets that the process knows.
static KNOWN: ArcSwapOption<Known> = ArcSwapOption::const_empty();

static KEYS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY_PREFIX));

/// From now on these secrets are not written. Those of the last time are not either: requests that began with them still run.
pub fn conceal(secrets: impl IntoIterator<Item = Zeroizing<String>>) {
    let current: Vec<_> = secrets.into_iter().filter(|secret| secret.len() >= SHORTEST).collect();
    let before = KNOWN.load();
    let known = Known::new(current, before.as_ref().map_or(&[], |before| &before.current));
    KNOWN.store(Some(Arc::new(known)));
}

/// `text` without secrets, if there are any in it.
pub fn clean(text: &[u8]) -> Option<Vec<u8>> {
    redact(KNOWN.load().as_deref(), text)
}

/// `text` without secrets.
pub fn redacted(text: &str) -> String {
    let written = clean(text.as_bytes());
    // What is cut out begins and ends with ASCII, so what is left is text.
    written.map_or_else(|| text.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Secrets, and what is needed to find them.
struct Known {
    /// As they were given.
    current: Vec<Zeroizing<String>>,
    /// In every form in which they may be written, the longest first.
    forms: Vec<Zeroizing<Vec<u8>>>,
    /// Which forms begin with bytes of that hash. Hashes are keyed, so nothing of a secret is in one.
    by_beginning: HashMap<u64, Vec<usize>, RandomState>,
    hasher: RandomState,
    /// A bit for the hash of every four bytes within the beginning of a form.
    grams: Box<[u64]>,
    /// So many bytes can be gone on without missing a beginning.
    step: usize,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known(…)")
    }
}

impl Known {
    fn new(current: Vec<Zeroizing<String>>, before: &[Zeroizing<String>]) -> Self {
        let mut all: Vec<_> = current.iter().chain(before).flat_map(|secret| forms(secret)).collect();
        all.sort_unstable_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        all.dedup();
        let beginning = all.last().map_or(SHORTEST, |shortest| shortest.len().min(LONGEST_BEGINNING));
        let step = beginning + 1 - GRAM;
        let hasher = RandomState::default();
        // Of so many bits at most one in 32 is set, so a step seldom looks at more.
        let bits = (all.len() * step * 32).next_power_of_two().max(64);
        let mut known = Self {
            current,
            forms: all,
            by_beginning: HashMap::default(),
            hasher,
            grams: vec![0; bits / 64].into_boxed_slice(),
            step,
        };
        for (index, form) in known.forms.iter().enumerate() {
            let hash = known.hasher.hash_one(&form[..SHORTEST]);
            known.by_beginning.entry(hash).or_default().push(index);
            for gram in form[..beginning].windows(GRAM) {
                let (word, bit) = place(&known.hasher, gram, known.grams.len());
                known.grams[word] |= bit;
            }
        }
        known
    }

    /// The first secret in `text` that begins at `from` or later.
    fn find(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        if self.forms.is_empty() {
            return None;
        }
        let mut at = from;
        while let Some(gram) = text.get(at..at + GRAM) {
            let (word, bit) = place(&self.hasher, gram, self.grams.len());
            if self.grams[word] & bit != 0 {
                let earliest = (at + 1).saturating_sub(self.step).max(from);
                let found = (earliest..=at).find_map(|start| Some(start..start + self.length_at(&text[start..])?));
                if found.is_some() {
                    return found;
                }
            }
            at += self.step;
        }
        None
    }

    /// The length of the secret that `text` begins with.
    fn length_at(&self, text: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(text.get(..SHORTEST)?);
        let candidates = self.by_beginning.get(&hash)?.iter().map(|index| &self.forms[*index]);
        candidates.filter(|form| text.starts_with(form)).map(|form| form.len()).next()
    }
}

/// The word and the bit that stand for four bytes.
fn place(hasher: &RandomState, gram: &[u8], words: usize) -> (usize, u64) {
    let gram: [u8; GRAM] = gram.try_into().expect("a step looks at four bytes");
    let hash = hasher.hash_one(u32::from_ne_bytes(gram));
    #[allow(clippy::cast_possible_truncation, reason = "any part of a hash will do, and words are a power of two")]
    let word = (hash >> 6) as usize & (words - 1);
    (word, 1 << (hash & 63))
}

/// What a URL cannot hold as it is (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The ways in which a secret may stand in a line: as it is, within a JSON string, within one that is quoted in another, and in a URL.
fn forms(secret: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let escaped = |text: &str| {
        let mut escaped = Zeroizing::new(String::with_capacity(2 * text.len()));
        for letter in text.chars() {
            if matches!(letter, '"' | '\\') {
                escaped.push('\\');
            }
            escaped.push(letter);
        }
        escaped
    };
    let once = escaped(secret);
    let twice = escaped(&once);
    let in_url = utf8_percent_encode(secret, RESERVED);
    let mut encoded = Zeroizing::new(String::with_capacity(3 * secret.len()));
    encoded.extend(in_url);
    [secret, &once, &twice, &encoded].into_iter().map(|form| Zeroizing::new(form.as_bytes().to_vec())).collect()
}

/// The first consumer key in `text` that begins at `from` or later.
fn find_key(text: &[u8], from: usize) -> Option<Range<usize>> {
    let mut starts = KEYS.find_iter(&text[from..]).map(|at| from + at);
    starts.find_map(|start| {
        let tail = &text[start + KEY_PREFIX.len()..];
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let length = tail.iter().take_while(|byte| fits(byte)).count();
        (length >= KEY_TAIL).then(|| start..start + KEY_PREFIX.len() + length)
    })
}

/// `text` without secrets, if there are any in it.
fn redact(known: Option<&Known>, text: &[u8]) -> Option<Vec<u8>> {
    cut_out(text, |from| known.and_then(|known| known.find(text, from)), |from| find_key(text, from))
}

/// `text` without secrets and keys; of those that overlap the first goes, and of those that begin together the secret. Each search
/// says which is the first that begins at a place or later. It is asked again only when that has been passed: a line may be full of
/// the one kind, and is not to be looked through for the other as often.
fn cut_out(
    text: &[u8],
    mut secret: impl FnMut(usize) -> Option<Range<usize>>,
    mut key: impl FnMut(usize) -> Option<Range<usize>>,
) -> Option<Vec<u8>> {
    let (mut written, mut from) = (None::<Vec<u8>>, 0);
    let (mut next_secret, mut next_key) = (secret(from), key(from));
    loop {
        let found = match (&next_secret, &next_key) {
            (Some(secret), Some(key)) if key.start < secret.start => key,
            (Some(secret), _) => secret,
            (None, Some(key)) => key,
            (None, None) => break,
        };
        let written = written.get_or_insert_with(|| Vec::with_capacity(text.len()));
        written.extend_from_slice(&text[from..found.start]);
        written.extend_from_slice(REDACTED);
        from = found.end;
        let is_passed = |next: &Range<usize>| next.start < from;
        if next_secret.as_ref().is_some_and(is_passed) {
            next_secret = secret(from);
        }
        if next_key.as_ref().is_some_and(is_passed) {
            next_key = key(from);
        }
    }
    written.map(|mut written| {
        written.extend_from_slice(&text[from..]);
        written
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(secrets: &[&str]) -> Known {
        Known::new(secrets.iter().map(|secret| Zeroizing::new((*secret).to_owned())).collect(), &[])
    }

    fn written(known: &Known, text: &str) -> String {
        redact(Some(known), text.as_bytes())
            .map_or_else(|| text.to_owned(), |written| String::from_utf8(written).expect("text stays text"))
    }

    #[test]
    fn a_secret_is_cut_out_wherever_it_stands_and_the_rest_stays() {
        let known = known(&["sk-canary-1", "canary-token-of-an-account"]);
        for (line, expected) in [
            ("sk-canary-1", "[redacted]"),
            ("{\"id\":\"sk-canary-1\"}\n", "{\"id\":\"[redacted]\"}\n"),
            ("Bearer sk-canary-1sk-canary-1.", "Bearer [redacted][redacted]."),
            ("é sk-canary-1 canary-token-of-an-account é", "é [redacted] [redacted] é"),
            ("sk-canary-", "sk-canary-"),
            ("sk-canary-2 canary-token-of-a", "sk-canary-2 canary-token-of-a"),
            ("", ""),
        ] {
            assert_eq!(written(&known, line), expected);
        }
    }

    #[test]
    fn a_secret_is_found_as_json_and_urls_write_it() {
        let known = known(&["a\"b\\c/d+e&f"]);
        for line in ["a\"b\\c/d+e&f", "a\\\"b\\\\c/d+e&f", "a\\\\\\\"b\\\\\\\\c/d+e&f", "a%22b%5Cc%2Fd%2Be%26f"] {
            assert_eq!(written(&known, &format!("<{line}>")), "<[redacted]>");
        }
    }

    #[test]
    fn of_secrets_that_begin_alike_the_longest_is_cut_out() {
        let known = known(&["canary-1", "canary-1-and-more", "canary-1-and"]);
        assert_eq!(
            written(&known, "canary-1-and-more canary-1-and-mor canary-1"),
            "[redacted] [redacted]-mor [redacted]"
        );
    }

    #[test]
    fn short_secrets_shred_no_lines() {
        assert_eq!(written(&Known::new(Vec::new(), &[]), "a secret"), "a secret");
        conceal([Zeroizing::new("a".to_owned()), Zeroizing::new("1234567".to_owned())]);
        assert_eq!(redacted("a line, 1234567 bytes"), "a line, 1234567 bytes");
    }

    #[test]
    fn what_looks_like_a_consumer_key_is_cut_out_although_nobody_knows_it() {
        let key = format!("msp_{}", "aB3-_".repeat(9) + "xy");
        let none = known(&[]);
        assert_eq!(written(&none, &format!("path=/{key}/x {}", &key[..40])), "path=/[redacted]/x [redacted]");
        assert_eq!(written(&none, "an msp_ key of msp_recruiting-sync"), "an msp_ key of msp_recruiting-sync");
    }

    #[test]
    fn what_is_known_has_no_text_form() {
        assert!(!format!("{:?}", known(&["sk-canary-1"])).contains("canary"));
    }

    /// The same, looking for both anew after each.
    fn anew(known: &Known, text: &[u8]) -> Vec<u8> {
        let (mut written, mut from) = (Vec::new(), 0);
        while let Some(found) =
            known.find(text, from).into_iter().chain(find_key(text, from)).min_by_key(|found| found.start)
        {
            written.extend_from_slice(&text[from..found.start]);
            written.extend_from_slice(REDACTED);
            from = found.end;
        }
        written.extend_from_slice(&text[from..]);
        written
    }

    proptest! {
        #[test]
        fn secrets_and_keys_go_alike_and_no_byte_is_looked_at_again_and_again(
            words in proptest::collection::vec("msp_[A-C_]{22,28}/?|canary-of-(acme|msp_)|[a-c]{1,9}|msp_", 0..40),
        ) {
            let known = known(&["canary-of-acme", "AAAABBBBCCCC", "canary-of-msp_ABC", "_BBBBBBBB"]);
            let text = words.concat().into_bytes();
            let looked = std::cell::Cell::new(0);
            let look = |from: usize, found: Option<Range<usize>>| {
                looked.set(looked.get() + found.as_ref().map_or(text.len(), |found| found.start) - from);
                found
            };
            let cut = cut_out(
                &text,
                |from| look(from, known.find(&text, from)),
                |from| look(from, find_key(&text, from)),
            );
            prop_assert_eq!(cut.unwrap_or_else(|| text.clone()), anew(&known, &text));
            prop_assert!(looked.get() <= 2 * text.len(), "{} of {}", looked.get(), text.len());
        }

        #[test]
        fn it_is_what_a_search_for_each_finds(
            secrets in proptest::collection::vec("[ab]{8,24}", 1..5),
            text in "[ab ]{0,120}",
        ) {
            let known = known(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
            let mut rest = text.as_str();
            let mut expected = String::new();
            while let Some(letter) = rest.chars().next() {
                let longest = secrets.iter().filter(|secret| rest.starts_with(secret.as_str())).map(String::len).max();
                match longest {
                    Some(_) => expected.push_str("[redacted]"),
                    None => expected.push(letter),
                }
                rest = &rest[longest.unwrap_or(1)..];
            }
            prop_assert_eq!(written(&known, &text), expected);
        }
    }
}
