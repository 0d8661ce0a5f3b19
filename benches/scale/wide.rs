//! What is asked for where many pages are.

use super::support::STRIDE;
use super::support::drive::Mix;
use super::support::ground::key;
use super::support::wire::{self, Speech};

/// How many accounts there are at most.
pub(crate) const ACCOUNTS: usize = 1_000;

/// Requests for many pages: each account has some, told apart by a number in the query.
pub(crate) struct Wide {
    requests: Vec<Vec<u8>>,
    /// Where in each request the number stands.
    digits: std::ops::Range<usize>,
    entries: usize,
    entry: usize,
    stride: usize,
}

impl Wide {
    /// So many pages, one after the other.
    pub(crate) fn new(entries: usize, consumers: usize) -> Self {
        let accounts = entries.min(ACCOUNTS);
        let request = |number: usize| {
            let (authorization, account) = (format!("Bearer {}", key(number % consumers)), format!("account-{number}"));
            let fields = [
                ("user-agent", "merge-python/1.0"),
                ("accept", "application/json"),
                ("authorization", &authorization),
                ("x-account-token", &account),
            ];
            wire::get(Speech::Http1, "proxy.internal:8080", "/api/ats/v1/sync-status?n=0000000", &fields)
        };
        let start = "GET /api/ats/v1/sync-status?n=".len();
        let requests = (0..accounts).map(request).collect();
        Self { requests, digits: start..start + 7, entries, entry: 0, stride: 1 }
    }

    /// None after its neighbour.
    pub(crate) fn scattered(self) -> Self {
        Self { stride: STRIDE, ..self }
    }

    /// For Merge itself, which wants its own key and the token of an account.
    pub(crate) fn direct(entries: usize) -> Self {
        let request = |number: usize| {
            let account = format!("token-{number}");
            let fields = [("authorization", "Bearer test-api-key"), ("x-account-token", &account)];
            wire::get(Speech::Http1, "proxy.internal:8080", "/api/ats/v1/sync-status?n=0000000", &fields)
        };
        Self { requests: (0..ACCOUNTS).map(request).collect(), ..Self::new(entries, 1) }
    }
}

impl Mix for Wide {
    fn next(&mut self) -> &[u8] {
        self.entry = (self.entry + self.stride) % self.entries;
        let accounts = self.requests.len();
        let request = &mut self.requests[self.entry % accounts];
        let mut rest = self.entry / accounts;
        for digit in request[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        request
    }
}
