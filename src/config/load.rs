//! From the text of the file to a [`Config`]: the only way, and it tells all faults at once.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::accounts::accounts;
use super::consumers::consumers;
use super::effective::{Config, Sources};
use super::fault::{Fault, Faults};
use super::findings::Findings;
use super::routes::routes;
use super::schema::File;
use super::secret::{Environment, NO_TEXT, SecretSource, Surroundings};
use super::sections::{admin, cache, server, telemetry};
use super::source::Source;
use super::upstreams::upstreams;
use super::webhook::webhook;
use crate::domain::access::Name;
use crate::domain::key::TokenHasher;

impl Config {
    /// Reads the file at `path`, and what it refers to.
    pub fn load(path: &Path, hasher: &TokenHasher) -> Result<Self, Faults> {
        let missing = "there is no such file; copy the proxy.toml of merge-sync-proxy, name one with --config, \
                       or try `merge-sync-proxy demo`, which needs none";
        Self::load_or(missing, path, hasher)
    }

    /// The same for a proxy that runs with what stood there before.
    pub fn load_again(path: &Path, hasher: &TokenHasher) -> Result<Self, Faults> {
        Self::load_or("the file is gone; everything stays as it was", path, hasher)
    }

    fn load_or(missing: &str, path: &Path, hasher: &TokenHasher) -> Result<Self, Faults> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Fault::of_file(path, missing),
            ErrorKind::InvalidData => Fault::of_file(path, NO_TEXT),
            _ => Fault::of_file(path, format!("cannot be read: {error}")),
        })?;
        Self::parse(&text, path, &|name| std::env::var_os(name), hasher)
    }

    /// Reads `text` as if it stood in `origin`, with variables from `env`.
    pub fn parse(text: &str, origin: &Path, env: Environment<'_>, hasher: &TokenHasher) -> Result<Self, Faults> {
        let source = Source::parse(text, origin)?;
        let (file, mistakes) = source.read();
        let around = Surroundings { env, folder: origin.parent().unwrap_or(Path::new("")) };
        let mut findings = Findings::new(&source, mistakes, around);
        let Some(file) = file else { return Err(findings.into_faults()) };

        // The file may name it already, so that nothing that is written is ignored.
        if let Some(shared) = &file.shared {
            findings.fault(shared.place(), "the shared store is not available in this version");
        }
        let server = server(&file.server, &mut findings);
        let admin = admin(&file, &mut findings);
        let mut proxies = BTreeMap::new();
        let upstreams = upstreams(&file, &mut proxies, &mut findings);
        let accounts = accounts(&file, &upstreams, hasher, &mut findings);
        let consumers = consumers(&file, &mut findings);
        let routes = routes(&file, &mut findings);
        let cache = cache(&file.cache, &mut findings);
        let webhook = webhook(&file, &accounts, &mut findings);
        let telemetry = telemetry(&file.telemetry, &mut findings);

        let (Some(default_upstream), true) = (upstreams.first().cloned(), findings.is_clean()) else {
            return Err(findings.into_faults());
        };
        let (warnings, files) = findings.into_warnings();
        let sources = sources(&file, proxies, files);
        Ok(Self {
            server,
            admin,
            upstreams,
            accounts,
            default_upstream,
            consumers,
            routes,
            cache,
            webhook,
            telemetry,
            sources,
            warnings,
        })
    }
}

/// Where the secrets of the file are from.
fn sources(file: &File, proxies: BTreeMap<Name, &'static str>, files: Vec<PathBuf>) -> Sources {
    let api_keys = file
        .upstreams
        .iter()
        .filter_map(|(name, table)| Some((name.get_ref().as_str().into(), table.api_key.as_deref()?.clone())));
    let tokens = file
        .accounts
        .iter()
        .filter_map(|table| Some((table.name.as_deref()?.clone(), table.token.as_deref()?.clone())));
    let webhook = file.webhook.iter().filter_map(|table| table.secret.as_ref());
    let webhook = webhook.flat_map(|secrets| secrets.iter().map(|secret| SecretSource::clone(secret)));
    Sources { api_keys: api_keys.collect(), tokens: tokens.collect(), proxies, webhook: webhook.collect(), files }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::sample::{config, parse};
    use super::super::schema;
    use super::super::whole::Workers;
    use super::*;
    use crate::domain::rules::Route;

    const COMMITTED: &str = include_str!("../../proxy.toml");

    /// The committed file with every setting that is commented out taken in.
    fn uncommented() -> String {
        let is_setting = |rest: &&str| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase());
        let lines = COMMITTED.lines().map(|line| line.strip_prefix('#').filter(is_setting).unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_committed_file_is_sound_and_quiet() {
        let config = parse(COMMITTED).expect("sound");
        assert_eq!(config.warnings, []);
        assert!(config.consumers.is_empty());
        assert_eq!(config.routes, Route::defaults());
    }

    #[test]
    fn the_committed_file_says_the_defaults() {
        let source = Source::parse(COMMITTED, Path::new("proxy.toml")).expect("TOML");
        let file = source.read().0.expect("a file");
        assert_eq!(*file.server, schema::Server::default());
        assert_eq!(*file.cache, schema::Cache::default());
        assert_eq!(*file.telemetry, schema::Telemetry::default());
        assert_eq!(*file.upstreams["us"].budget, schema::Budget::default());
        assert_eq!(*file.admin.listen, *schema::Admin::default().listen);
    }

    #[test]
    fn what_is_commented_out_is_known_and_the_default() {
        let text = uncommented();
        let (head, tls) = text.split_once("[server.tls]").expect("a table that has no defaults");
        let (_, tail) = tls.split_once("[admin]").expect("the next table");
        let text = format!("{head}[admin]{tail}");
        let source = Source::parse(&text, Path::new("proxy.toml")).expect("TOML");
        let (file, mistakes) = source.read();
        let keys: Vec<&str> = mistakes.iter().map(|(_, fault)| &*fault.key).collect();
        assert_eq!(keys, ["consumers[0].key_sha256"], "only the hash is left for the reader to fill in");

        let file = file.expect("a file");
        assert_eq!(*file.server, schema::Server::default());
        assert_eq!(*file.cache, schema::Cache::default());
        let (upstream, defaults) = (&file.upstreams["us"], schema::Upstream::default());
        assert_eq!((&upstream.connect_timeout, &upstream.timeout), (&defaults.connect_timeout, &defaults.timeout));
        assert_eq!((&upstream.http2, &upstream.retries), (&defaults.http2, &defaults.retries));
        let (consumer, defaults) = (&file.consumers[0], schema::Consumer::default());
        assert_eq!((&consumer.quota, &consumer.forced_refreshes), (&defaults.quota, &defaults.forced_refreshes));
        assert_eq!((&consumer.raw_tokens, &consumer.resync), (&defaults.raw_tokens, &defaults.resync));
        assert_eq!(
            (&consumer.max_in_flight_misses, &consumer.weight),
            (&defaults.max_in_flight_misses, &defaults.weight)
        );
        assert_eq!(consumer.max_followers, defaults.max_followers);
        let (route, defaults) = (&file.routes.expect("one")[0], schema::Route::default());
        assert_eq!((&route.methods, &route.cache), (&defaults.methods, &defaults.cache));
        assert_eq!(route.path.as_deref().map(|path| &path.0), Some(&Route::defaults()[0].path));
    }

    #[test]
    fn every_key_is_in_the_committed_file() {
        let text = uncommented();
        let keys: BTreeSet<&str> = text.lines().map(|line| line.split(" = ").next().unwrap_or(line)).collect();
        let tables = [
            "",
            "[server]",
            "[server.tls]",
            "[server.unix]",
            "[admin]",
            "[upstreams.x]",
            "[upstreams.x.budget]",
            "[cache]",
            "[cache.ttl]",
        ];
        let more =
            ["[cache.stale]", "[[accounts]]", "[[consumers]]", "[[routes]]", "[webhook]", "[shared]", "[telemetry]"];
        for table in tables.into_iter().chain(more) {
            let faults = parse(&format!("{table}\nzzzzzzzzzzzzzzzz = 1")).expect_err("an unknown key");
            let known = faults.iter().find_map(|fault| fault.message.strip_prefix("unknown key, the keys here are "));
            for key in known.expect("the keys").split(", ") {
                let header = |opening: &str| text.lines().any(|line| line.starts_with(&format!("{opening}{key}")));
                let nested =
                    header("[") || header("[[") || header("[cache.") || header("[server.") || header("[upstreams.us.");
                assert!(keys.contains(key) || nested, "{key} of {table}");
            }
        }
    }

    /// The keys that the committed file has, and the values that it shows.
    fn committed_keys() -> BTreeMap<String, String> {
        let (mut table, mut keys) = (String::new(), BTreeMap::new());
        for line in uncommented().lines().filter(|line| !line.starts_with('#')) {
            let line = line.split(" #").next().unwrap_or_default().trim();
            if let Some((key, value)) = line.split_once(" = ") {
                keys.insert(format!("{table}.{key}"), value.trim_matches('"').to_owned());
            } else if line.starts_with('[') {
                table = line.trim_matches(['[', ']']).replace("upstreams.us", "upstreams.NAME");
            }
        }
        keys
    }

    /// Those that the README has, and their defaults.
    fn documented_keys() -> BTreeMap<String, String> {
        let readme = include_str!("../../README.md");
        let section = readme.split("## Configuration").nth(1).and_then(|rest| rest.split("\n### ").next());
        let mut keys = BTreeMap::new();
        for line in section.expect("a section").lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let names: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
            let defaults: Vec<&str> = cells[2].split(", ").collect();
            let table = names[0].rsplit_once('.').expect("a key of a table").0;
            for (at, name) in names.iter().enumerate() {
                let key = if name.starts_with('.') { format!("{table}{name}") } else { (*name).to_owned() };
                let default = if defaults.len() == names.len() { defaults[at] } else { cells[2] };
                keys.insert(key, default.to_owned());
            }
        }
        keys
    }

    #[test]
    fn the_readme_lists_every_key_and_its_default() {
        let (committed, documented) = (committed_keys(), documented_keys());
        assert_eq!(committed.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
        let mut compared = 0;
        for (key, default) in documented {
            let written = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
            let Some(written) = written.filter(|text| !text.contains('`')) else { continue };
            // Here the committed file has an example.
            if !["consumers.accounts", "upstreams.NAME.proxy"].contains(&&*key) {
                assert_eq!(written.trim_matches('"'), committed[&key], "{key}");
                compared += 1;
            }
        }
        assert!(compared > 40, "{compared}");
    }

    #[test]
    fn no_file_is_a_fault_that_says_how_to_get_one() {
        let missing = Config::load(Path::new("no/such.toml"), &TokenHasher::new()).map(drop).expect_err("not there");
        assert_eq!(
            missing.to_string(),
            "no/such.toml: there is no such file; copy the proxy.toml of merge-sync-proxy, name one with --config, or try \
             `merge-sync-proxy demo`, which needs none"
        );
        let gone = Config::load_again(Path::new("no/such.toml"), &TokenHasher::new()).map(drop).expect_err("not there");
        assert_eq!(gone.to_string(), "no/such.toml: the file is gone; everything stays as it was");
        let folder = Config::load(Path::new("src"), &TokenHasher::new()).map(drop).expect_err("a folder");
        assert!(folder.to_string().starts_with("src: cannot be read: "));
    }

    #[test]
    fn paths_start_at_the_folder_of_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proxy.toml");
        std::fs::write(folder.path().join("key"), "sk-key\n").expect("written");
        std::fs::write(&path, "[upstreams.us]\nbase_url = 'https://host'\napi_key = { file = 'key' }")
            .expect("written");
        let config = Config::load(&path, &TokenHasher::new()).expect("sound");
        assert_eq!(config.default_upstream.api_key.expose(), "Bearer sk-key");
        assert_eq!(config.sources.files, [folder.path().join("key")]);
    }

    #[test]
    fn the_defaults_are_bounded() {
        let config = config("");
        assert_eq!(config.server.workers, Workers::Auto.count());
        assert_eq!((config.server.max_connections, config.server.max_header_bytes), (10_000, 65_536));
        assert_eq!((config.cache.max_bytes, config.cache.max_page_bytes), (256 << 20, 4 << 20));
        assert!(!format!("{config:?}").contains("canary"));
    }
}
