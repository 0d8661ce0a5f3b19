//! Several routes may lead to one resource: under which keys a store that goes by route may have it.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;

use super::access::Name;
use super::key::{CanonicalQuery, KeyParts, PageKey, Place};

/// The routes under which anything was ever stored.
#[derive(Debug, Default)]
pub struct ByRoute(RwLock<HashSet<Name>>);

impl ByRoute {
    /// Something is about to be stored under `key`. To be called before it can be seen: whoever leaves a mark and then looks for all keys
    /// of a resource finds this one, or else whoever stores finds the mark.
    pub fn note(&self, key: &PageKey) {
        if !self.0.read().contains(&key.place.route) {
            self.0.write().insert(key.place.route.clone());
        }
    }

    /// The keys under which there may be what is at an upstream path and query, for the account of `key`.
    pub fn keys(&self, key: &PageKey, path: &str, query: &CanonicalQuery) -> Vec<PageKey> {
        let path: Arc<str> = path.into();
        let of = |route: &Name| {
            let KeyParts { upstream, account, .. } = (**key).clone();
            let place = Arc::new(Place { route: route.clone(), path: path.clone() });
            PageKey::new(KeyParts { upstream, account, place, query: query.clone() })
        };
        self.0.read().iter().map(of).collect()
    }
}
