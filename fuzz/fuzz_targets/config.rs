//! Any text is a configuration or a list of faults, and no fault says a secret.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::config::effective::Config;
use merge_sync_proxy::domain::key::TokenHasher;

const SECRET: &str = "canary-2f9b61";

fuzz_target!(|text: &str| {
    let hasher = TokenHasher::from_key([7; 32]);
    // Of a proxy in the environment only the password is one.
    let environment = |name: &str| match name.to_ascii_uppercase().as_str() {
        "NO_PROXY" => None,
        name if name.ends_with("_PROXY") => Some(format!("http://user:{SECRET}@proxy.test:3128").into()),
        _ => Some(SECRET.into()),
    };
    let said = match Config::parse(text, Path::new("fuzz.toml"), &environment, &hasher) {
        Ok(config) => format!("{config:?}"),
        Err(faults) => format!("{faults}"),
    };
    assert!(!said.contains(SECRET) || text.contains(SECRET), "a secret is said");
});
