//! A caching reverse proxy for Merge's unified API.

/// Words that all parts share.
pub mod domain {
    pub mod access;

    pub mod bucket;

    pub mod rules;
}
