//! From the text of the file to a [`Config`]: the only way, and it tells all faults at once.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::access::{accounts, consumers};
use super::effective::{Config, Sources};
use super::fault::{Fault, Faults};
use super::findings::Findings;
use super::item::Place;
use super::schema::File;
use super::secret::Surroundings;
use super::sections::{admin, cache, server, telemetry};
use super::source::Source;
use super::upstreams::{routes, upstreams};
use crate::domain::key::TokenHasher;
use crate::domain::rules::CacheRule;

impl Config {
    /// Reads the file at `path`, and what it refers to.
    pub fn load(path: &Path, hasher: &TokenHasher) -> Result<Self, Faults> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Fault::of_file(
                path,
                "there is no such file; copy the proxy.toml of merge-sync-proxy, name one with --config, \
                 or try `merge-sync-proxy demo`, which needs none",
            ),
            ErrorKind::InvalidData => Fault::of_file(path, "is not UTF-8 text"),
            _ => Fault::of_file(path, format!("cannot be read: {error}")),
        })?;
        Self::parse(&text, path, &|name| std::env::var(name).ok(), hasher)
    }

    /// Reads `text` as if it stood in `origin`, with variables from `env`.
    pub fn parse(
        text: &str,
        origin: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        hasher: &TokenHasher,
    ) -> Result<Self, Faults> {
        let source = Source::parse(text, origin)?;
        let (file, mistakes) = source.read();
        let around = Surroundings { env, folder: origin.parent().unwrap_or(Path::new("")) };
        let mut findings = Findings::new(&source, mistakes, around);
        let Some(file) = file else { return Err(findings.into_faults()) };

        refuse_unavailable(&file, &mut findings);
        let server = server(&file.server, &mut findings);
        let admin = admin(&file, &mut findings);
        let upstreams = upstreams(&file, &mut findings);
        let accounts = accounts(&file, &upstreams, hasher, &mut findings);
        let consumers = consumers(&file, &mut findings);
        let routes = routes(&file, &mut findings);
        let cache = cache(&file.cache, &mut findings);
        let telemetry = telemetry(&file.telemetry, &mut findings);

        let (Some(default_upstream), true) = (upstreams.first().cloned(), findings.is_clean()) else {
            return Err(findings.into_faults());
        };
        let (warnings, files) = findings.into_warnings();
        let sources = sources(&file, files);
        Ok(Self {
            server,
            admin,
            upstreams,
            accounts,
            default_upstream,
            consumers,
            routes,
            cache,
            telemetry,
            sources,
            warnings,
        })
    }
}

/// What the file may hold and this version does not do yet: refused, so that nothing that is written is ignored.
/// A feature takes its line away when it lands.
fn refuse_unavailable(file: &File, findings: &mut Findings<'_>) {
    let mut refuse = |places: Vec<Place>, what: &str| {
        for place in places {
            findings.fault(&place, format!("{what} is not available in this version"));
        }
    };
    let rules = || file.routes.iter().flatten().map(|route| &route.cache);
    let having =
        |rule: CacheRule| rules().filter(|cache| ***cache == rule).map(|cache| cache.place().clone()).collect();
    let resync = file.consumers.iter().map(|consumer| &consumer.resync).filter(|resync| ***resync);

    refuse(file.server.tls.iter().map(|table| table.place().clone()).collect(), "TLS for consumers");
    refuse(file.webhook.iter().map(|table| table.place().clone()).collect(), "the webhook");
    refuse(file.shared.iter().map(|table| table.place().clone()).collect(), "the shared store");
    refuse(file.telemetry.otlp.iter().map(|otlp| otlp.place().clone()).collect(), "the export of traces");
    refuse(having(CacheRule::Http), "caching by the upstream's headers");
    refuse(having(CacheRule::Off), "forwarding without a cache");
    refuse(resync.map(|resync| resync.place().clone()).collect(), "resync");
}

/// Where the secrets of the file are from.
fn sources(file: &File, files: Vec<PathBuf>) -> Sources {
    let api_keys = file
        .upstreams
        .iter()
        .filter_map(|(name, table)| Some((name.get_ref().as_str().into(), table.api_key.as_deref()?.clone())));
    let tokens = file
        .accounts
        .iter()
        .filter_map(|table| Some((table.name.as_deref()?.clone(), table.token.as_deref()?.clone())));
    Sources { api_keys: api_keys.collect(), tokens: tokens.collect(), files }
}
