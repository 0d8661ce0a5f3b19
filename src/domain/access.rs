//! Who may ask for what, and with whose credentials: consumers, upstreams, accounts.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue};
use secrecy::zeroize::Zeroizing;
use subtle::ConstantTimeEq;

use super::bucket::Rate;
use super::rules::{BudgetRules, ClientOptions};

/// A name from the configuration; cheap to clone, safe to log and to use as a label.
pub type Name = Arc<str>;

/// A header value that carries a secret. It can be sent and nothing else: it has no text form, and it is marked sensitive,
/// so that HTTP/2 never puts it into a compression table. All copies share the same bytes, which are wiped with the last of them.
#[derive(Clone)]
pub struct Credential(HeaderValue);

impl Credential {
    /// The credential that goes out as `text`; `None` if `text` cannot stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        Self::owned(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// The same, after the name of a scheme such as `Bearer`.
    pub fn in_scheme(scheme: &str, text: &str) -> Option<Self> {
        // In one piece: a buffer that grows leaves what it held behind.
        let mut value = Zeroizing::new(Vec::with_capacity(scheme.len() + 1 + text.len()));
        value.extend_from_slice(scheme.as_bytes());
        value.push(b' ');
        value.extend_from_slice(text.as_bytes());
        Self::owned(value)
    }

    fn owned(bytes: impl AsRef<[u8]> + Send + 'static) -> Option<Self> {
        let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes)).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// The secret alone, without the name of a scheme.
    pub fn secret(&self) -> &str {
        let text = self.0.to_str().unwrap_or_default();
        text.split_once(' ').map_or(text, |(_, secret)| secret)
    }

    /// The value to put on a request to the upstream.
    pub fn expose(&self) -> &HeaderValue {
        &self.0
    }

    /// Whether both are the same secret.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// The header that names a linked account.
pub const X_ACCOUNT_TOKEN: HeaderName = HeaderName::from_static("x-account-token");

/// The keyed hash that stands for an account's token wherever the token itself must not be: HMAC-SHA-256, the first 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountHash(pub [u8; 16]);

impl fmt::Display for AccountHash {
    /// The first 8 hex digits: enough to tell accounts apart in a log, too few to be of other use.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AccountHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountHash({self})")
    }
}

/// A Merge base URL and API key: one credential set.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The name in `[upstreams.NAME]`.
    pub name: Name,
    /// `https`, or `http` for a simulator.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
    /// What stands before `/api/…`; empty for Merge itself, no trailing slash.
    pub prefix: Arc<str>,
    /// `Bearer API_KEY`.
    pub api_key: Credential,
    /// How to connect, how long to wait.
    pub client: ClientOptions,
    /// What may be sent.
    pub budget: BudgetRules,
}

impl Upstream {
    /// Whether `other` is the same server: what one says holds for the other.
    pub fn is_same_origin(&self, other: &Self) -> bool {
        (&self.scheme, &self.authority, &self.prefix) == (&other.scheme, &other.authority, &other.prefix)
    }

    /// The host, in lower case, and the port that its connections go to, also where the URL does not name it.
    pub fn endpoint(&self) -> (String, u16) {
        let usual = if self.scheme == Scheme::HTTP { 80 } else { 443 };
        (self.authority.host().to_ascii_lowercase(), self.authority.port_u16().unwrap_or(usual))
    }
}

/// A linked account of Merge.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name here; `None` for a token that a consumer sent itself.
    pub name: Option<Name>,
    /// What stands for the token in keys and logs.
    pub hash: AccountHash,
    /// The value of `X-Account-Token` upstream.
    pub token: Credential,
    /// The upstream that it belongs to.
    pub upstream: Arc<Upstream>,
    /// Its own limit in place of the upstream's; `Some(None)` is unlimited.
    pub per_account: Option<Option<Rate>>,
    /// Merge's id of the account, to match webhooks.
    pub linked_account_id: Option<Arc<str>>,
}

impl Account {
    /// What to call it in logs: its name, or `raw`.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("raw")
    }

    /// What tells it from others in audit lines: its name, or what stands for its token.
    pub fn audit_label(&self) -> String {
        self.name.as_deref().map_or_else(|| self.hash.to_string(), str::to_owned)
    }

    /// The limit of calls for this account at an upstream, which is its own or that of a route; `None` is unlimited.
    pub fn rate_at(&self, upstream: &Upstream) -> Option<Rate> {
        self.per_account.unwrap_or(upstream.budget.per_account)
    }
}

/// What every consumer key begins with, so that people and secret scanners know one when they see it.
pub const KEY_PREFIX: &str = "msp_";

/// Whether `text` can be an account token, if it is not empty: at most 512 visible ASCII characters without a comma, which is where
/// several values of one field would meet.
pub fn can_be_account_token(text: &[u8]) -> bool {
    text.len() <= 512 && text.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

/// The SHA-256 of a consumer key, and whether and until when it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHash {
    /// SHA-256 of the key's bytes.
    pub sha256: [u8; 32],
    /// After this the key is unknown.
    pub expires: Option<SystemTime>,
    /// Whether the key is unknown already.
    pub disabled: bool,
}

/// A name or a glob such as `acme-*`; `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The pattern as written in the configuration.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether the whole of `name` fits.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, others)) = self.0.split_once('*') else { return *self.0 == *name };
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        if others.is_empty() {
            return true;
        }
        let mut parts = others.split('*');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An internal team or service, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name; `open` when no consumers are configured.
    pub name: Name,
    /// Any of these identifies it.
    pub keys: Vec<KeyHash>,
    /// Over a Unix socket, any of these users is it.
    pub unix_uids: Vec<u32>,
    /// With mutual TLS, a certificate with any of these names is its own.
    pub client_certs: Vec<Box<str>>,
    /// Whether it is unknown, whichever key it shows.
    pub disabled: bool,
    /// The accounts that it may ask for.
    pub accounts: Vec<Pattern>,
    /// Whether it may send a real account token instead of a name.
    pub raw_tokens: bool,
    /// The account when it names none.
    pub default_account: Option<Name>,
    /// How often it may ask; `None` is unlimited.
    pub quota: Option<Rate>,
    /// How often it may make the proxy fetch although the cache could answer.
    pub forced_refreshes: Option<Rate>,
    /// Whether it may spend sync credits with `POST …/resync`.
    pub resync: bool,
    /// How many of its requests may wait for Merge at a time.
    pub max_in_flight_misses: u32,
    /// How many of its requests may follow a page at a time.
    pub max_followers: u32,
    /// Its share where requests queue, against that of others.
    pub weight: NonZeroU32,
}

impl Consumer {
    /// Who everybody is while no consumers are configured.
    pub fn open() -> Self {
        Self {
            name: "open".into(),
            keys: Vec::new(),
            unix_uids: Vec::new(),
            client_certs: Vec::new(),
            disabled: false,
            accounts: vec![Pattern::new("*")],
            raw_tokens: true,
            default_account: None,
            quota: None,
            forced_refreshes: None,
            resync: false,
            max_in_flight_misses: u32::MAX,
            max_followers: u32::MAX,
            weight: NonZeroU32::MIN,
        }
    }

    /// Whether `account` is granted to it.
    pub fn may_use(&self, account: &str) -> bool {
        self.accounts.iter().any(|pattern| pattern.matches(account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, fits) in [
            ("acme", "acme", true),
            ("acme", "acme-eu", false),
            ("acme-*", "acme-eu", true),
            ("acme-*", "acme", false),
            ("*", "", true),
            ("*-eu", "acme-eu", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), fits, "{pattern} against {name}");
        }
    }

    proptest! {
        #[test]
        fn a_star_takes_any_run(head in "[a-z]{0,4}", run in "[a-z-]{0,6}", tail in "[a-z]{0,4}") {
            let pattern = Pattern::new(&format!("{head}*{tail}"));
            let name = format!("{head}{run}{tail}");
            prop_assert!(pattern.matches(&name));
        }
    }

    #[test]
    fn a_credential_is_one_piece_of_memory_that_goes_with_its_last_copy() {
        struct Owner(Arc<AtomicBool>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                b"Bearer sk-canary"
            }
        }
        impl Drop for Owner {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let gone = Arc::new(AtomicBool::new(false));
        let credential = Credential::owned(Owner(gone.clone())).expect("plain ASCII");
        let sent = credential.clone().expose().clone();
        assert!(sent.is_sensitive());
        assert_eq!(sent.as_bytes().as_ptr(), credential.expose().as_bytes().as_ptr(), "nothing was copied");
        drop(credential);
        assert!(!gone.load(Ordering::Relaxed));
        drop(sent);
        assert!(gone.load(Ordering::Relaxed), "its owner, which wipes it, was dropped");
    }

    #[test]
    fn a_credential_knows_its_secret_from_its_scheme() {
        let credential = Credential::in_scheme("Bearer", "sk-canary").expect("plain ASCII");
        assert_eq!((credential.expose().as_bytes(), credential.secret()), (&b"Bearer sk-canary"[..], "sk-canary"));
        assert_eq!(Credential::new("token").expect("plain ASCII").secret(), "token");
        assert!(Credential::in_scheme("Bearer", "a\nb").is_none() && Credential::new("a\nb").is_none());
    }

    #[test]
    fn a_credential_has_no_text_form() {
        let credential = Credential::new("Bearer sk-canary").expect("plain ASCII");
        assert!(!format!("{credential:?} {:?}", credential.expose()).contains("canary"));
    }
}
