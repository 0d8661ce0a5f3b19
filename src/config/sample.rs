//! A small sound file for tests, and what is said about changes to it.

use std::path::Path;

use super::effective::Config;
use super::fault::Faults;
use crate::domain::key::TokenHasher;

/// What every file needs.
pub(super) const UPSTREAM: &str = "
[upstreams.us]
base_url = 'https://api.merge.dev'
api_key = { env = 'MERGE_API_KEY' }
";

/// SHA-256 of nothing that matters.
pub(super) const HASH: &str = "5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456";

/// Parses `text` with four secrets around.
pub(super) fn parse(text: &str) -> Result<Config, Faults> {
    let env = |name: &str| match name {
        "MERGE_API_KEY" => Some("canary-key".into()),
        "TOKEN" => Some("canary-token".into()),
        "OTHER" => Some("canary-other".into()),
        "BROKEN" => Some("canary, broken".into()),
        _ => None,
    };
    Config::parse(text, Path::new("proxy.toml"), &env, &TokenHasher::from_key([7; 32]))
}

/// The configuration that `text` and the upstream make.
pub(super) fn config(text: &str) -> Config {
    parse(&format!("{text}{UPSTREAM}")).expect("sound")
}

/// What is said about `text` alone, and never a secret among it.
pub(super) fn faults_of(text: &str) -> String {
    let told = parse(text).map(drop).expect_err(text).to_string();
    assert!(!told.contains("canary"), "{told}");
    told
}

/// What is said about `text` with the upstream below it.
pub(super) fn faults(text: &str) -> String {
    faults_of(&format!("{text}{UPSTREAM}"))
}

/// The warnings of `text` with the upstream below it.
pub(super) fn warnings(text: &str) -> Vec<String> {
    config(text).warnings.iter().map(ToString::to_string).collect()
}

/// Checks rows of a file and all that is said about it.
pub(super) fn expect_faults(rows: &[(&str, &str)]) {
    for (text, told) in rows {
        assert_eq!(faults(text), format!("proxy.toml:{told}"), "{text}");
    }
}
