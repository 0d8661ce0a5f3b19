//! A new configuration while the proxy runs: read whole, checked whole, and then taken over at once, or not at all.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{App, shares};
use crate::config::address::ListenAddress;
use crate::config::changes::{self, Changes};
use crate::config::effective::Config;
use crate::config::fault::{Fault, Faults};
use crate::domain::access::{Name, Upstream};
use crate::domain::event::Kind;
use crate::domain::key::TokenHasher;
use crate::domain::peer::Asker;
use crate::telemetry::{log, redact};
use crate::upstream::transport;
use crate::upstream::ways::{Transport, Ways};

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP.
    Signal,
    /// The file, or one that it refers to, has changed.
    File,
    /// `POST /api/reload`.
    Operator,
    /// The last reload was refused, and what was wrong may have passed without a change of the file.
    Again,
}

impl Cause {
    /// What logs call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File | Self::Again => "file",
            Self::Operator => "operator",
        }
    }
}

/// How one reload ended.
#[derive(Clone, Debug)]
pub struct Reload {
    /// When.
    pub at: SystemTime,
    /// What it changed, or what is wrong with the file, and then nothing was changed.
    pub result: Result<Changes, Faults>,
}

/// Reads the configuration.
pub type Source = Box<dyn Fn(&TokenHasher) -> Result<Config, Faults> + Send + Sync>;

/// Where the configuration is from, and how the last reload went.
pub(crate) struct Reloads {
    pub(crate) hasher: TokenHasher,
    /// How the bytes of the cache were shared at the start.
    shares: (u64, u64),
    source: OnceLock<Source>,
    /// Held by the one that runs.
    running: Mutex<()>,
    last: ArcSwapOption<Reload>,
    /// What the last sound file says and a restart has to bring about.
    needs_restart: ArcSwap<Vec<String>>,
}

impl Reload {
    /// What people are told of it, in a line.
    pub fn told(&self) -> String {
        match &self.result {
            Ok(Changes { changed, needs_restart, .. }) if changed.is_empty() && needs_restart.is_empty() => {
                "nothing has changed".to_owned()
            }
            Ok(Changes { changed, needs_restart, .. }) if changed.is_empty() => {
                format!("needs a restart: {}", needs_restart.join(", "))
            }
            Ok(Changes { changed, needs_restart, .. }) if needs_restart.is_empty() => {
                format!("changed: {}", changed.join(", "))
            }
            Ok(Changes { changed, needs_restart, .. }) => {
                format!("changed: {}; needs a restart: {}", changed.join(", "), needs_restart.join(", "))
            }
            Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        }
    }
}

impl Reloads {
    pub(crate) fn new(config: &Config, hasher: TokenHasher) -> Self {
        Self {
            hasher,
            shares: shares(&config.routes, config.cache.max_bytes),
            source: OnceLock::new(),
            running: Mutex::new(()),
            last: ArcSwapOption::empty(),
            needs_restart: ArcSwap::default(),
        }
    }
}

impl App {
    /// Lets the configuration be read again from `source`; the first that is given counts.
    pub fn reads(&self, source: Source) {
        let _ = self.reloads.source.set(source);
    }

    /// The same, from the file at `path`.
    pub fn reads_file(&self, path: PathBuf) {
        self.reads(Box::new(move |hasher| Config::load_again(&path, hasher)));
    }

    /// Whether there is a file to read again.
    pub fn is_reloadable(&self) -> bool {
        self.reloads.source.get().is_some()
    }

    /// The keys that stay as they were at the start, although the last sound file says something else.
    pub fn needs_restart(&self) -> Arc<Vec<String>> {
        self.reloads.needs_restart.load_full()
    }

    /// The last reload that changed something, was refused, or came after one that alarmed somebody; `None` before the first.
    pub fn last_reload(&self) -> Option<Arc<Reload>> {
        self.reloads.last.load_full()
    }

    /// Reads the configuration again and takes it over if it is sound. Waits for files, so it is nothing for a thread that serves.
    pub fn reload(&self, cause: Cause) -> Result<Changes, Faults> {
        self.reload_for(cause, &Asker::default())
    }

    /// The same, because `operator` has asked for it.
    pub(crate) fn reload_for(&self, cause: Cause, operator: &Asker) -> Result<Changes, Faults> {
        let _one_at_a_time = self.reloads.running.lock();
        let Some(read) = self.reloads.source.get() else {
            // There is no file that could be wrong, so this is nobody's failed reload.
            return Err(Fault::of_file(Path::new("(none)"), "the proxy was not started from a file").into());
        };
        let result = read(&self.reloads.hasher).and_then(|config| self.take_over(config));
        // A file that was touched, or written again as it was, is no news; unless it was another meanwhile, and somebody is alarmed.
        let last = self.last_reload();
        let refused = last.as_ref().and_then(|last| last.result.as_ref().err());
        let was_alarmed = refused.is_some() || !self.needs_restart().is_empty();
        if let Ok(changes) = &result {
            self.reloads.needs_restart.store(Arc::new(changes.needs_restart.clone()));
        }
        let is_news = match (&result, cause) {
            (Ok(changes), Cause::File | Cause::Again) => was_alarmed || *changes != Changes::default(),
            // As before, and nobody has asked.
            (Err(faults), Cause::Again) => refused != Some(faults),
            _ => true,
        };
        if !is_news {
            return result;
        }
        report(cause, operator, &result);
        let reload = Reload { at: SystemTime::now(), result: result.clone() };
        let kind = if result.is_ok() { Kind::Reload } else { Kind::ReloadFailed };
        self.events.note(kind, None, reload.told());
        self.ground.metrics.reloaded(result.is_ok());
        self.reloads.last.store(Some(Arc::new(reload)));
        result
    }

    /// Takes `config` over: from the next request on it is in force. What requests share stays: pages, flights, budgets, quotas.
    fn take_over(&self, mut config: Config) -> Result<Changes, Faults> {
        let old = self.config();
        let (needs_restart, changed): (Vec<_>, Vec<_>) =
            changes::between(&old, &config).into_iter().partition(|key| is_fixed(key));
        let mut told = Changes { changed, needs_restart, warnings: Vec::new() };
        if self.reloads.shares != shares(&config.routes, old.cache.max_bytes) {
            told.needs_restart.push("routes: how cache.max_bytes is shared between kinds of routes".into());
        }
        if told == Changes::default() {
            return Ok(told);
        }
        told.warnings.clone_from(&config.warnings);
        // What stays as it is goes on being so in all that is told, and the next reload names it again.
        keep_fixed(&mut config, &old);
        refuse_exposure(&config)?;
        let ways = Ways::new(&config.upstreams, &config.accounts, self.transports(&old, &config)?);
        // Before any of them is used.
        redact::conceal(config.secrets());
        if (&config.telemetry.filter, config.telemetry.access_log) != (&old.telemetry.filter, old.telemetry.access_log)
        {
            log::refilter(&config.telemetry.filter, config.telemetry.access_log);
        }
        // In this order, so that whoever is admitted to an upstream finds the way to it.
        let now = Instant::now();
        self.ground.in_force.replace(ways.after(&self.ground.in_force.ways(), now));
        self.ground.budgets.take_over();
        let before = self.ground.house.load_full();
        let house = Self::house(&config, &self.reloads.hasher, Some(&before), now);
        let edition = house.edition;
        self.ground.house.store(Arc::new(house));
        // It was admitted by other rules, and may hold keys that are none any more.
        self.ground.heads.forget(edition);
        self.set_config(config);
        self.ground.demand.forget(edition);
        self.forget(&old);
        // They come again, past the new door.
        self.ground.follows.release();
        Ok(told)
    }

    /// How the upstreams of `new` are reached. One that is as before keeps its connections.
    fn transports(&self, old: &Config, new: &Config) -> Result<HashMap<Name, Transport>, Faults> {
        let connect = |upstream: &Arc<Upstream>| {
            let same = named(old, &upstream.name)
                .is_some_and(|before| before.client.connects_like(&upstream.client) && before.is_same_origin(upstream));
            let known = self.ground.in_force.way(&upstream.name).filter(|_| same).map(|way| way.transport);
            let way = known.map_or_else(|| transport::connect(upstream), Ok).map_err(|reason| {
                let file = upstream.client.ca_file.as_deref().unwrap_or(Path::new("(system)"));
                Fault::of_file(file, format!("upstream {}: {reason}", upstream.name))
            })?;
            Ok((upstream.name.clone(), way))
        };
        new.upstreams.iter().map(connect).collect()
    }

    /// Forgets what does not hold any more: all that another server has said, and refusals that were meant for another key.
    fn forget(&self, old: &Config) {
        let (new, now) = (self.config(), Instant::now());
        let names: BTreeSet<_> = old.upstreams.iter().chain(&new.upstreams).map(|upstream| &upstream.name).collect();
        for name in names {
            let only_refusals = match (named(old, name), named(&new, name)) {
                (Some(before), Some(after)) if after.is_same_origin(before) => {
                    if after.api_key.is_same(&before.api_key) {
                        continue;
                    }
                    true
                }
                // Of one that is new here as well: it may have been here before, and calls have gone out after it was removed.
                _ => false,
            };
            self.ground.store.forget_upstream(name, only_refusals, now);
            self.ground.http.responses.forget_upstream(name, only_refusals, now);
            self.ground.budgets.forget_refusals(name);
        }
    }
}

fn named<'a>(config: &'a Config, name: &Name) -> Option<&'a Arc<Upstream>> {
    config.upstreams.iter().find(|upstream| upstream.name == *name)
}

/// What cannot change while the proxy runs: sockets are bound and threads started once, and the store has one size.
const FIXED: [&str; 11] = [
    "admin.listen",
    "cache.max_bytes",
    "server.listen",
    "server.max_connections",
    "server.max_connections_per_peer",
    "server.tls",
    "server.unix",
    "server.workers",
    "telemetry.log",
    "telemetry.otlp",
    "telemetry.sample",
];

fn is_fixed(key: &str) -> bool {
    FIXED.contains(&key)
}

fn keep_fixed(config: &mut Config, old: &Config) {
    config.admin.listen.clone_from(&old.admin.listen);
    config.cache.max_bytes = old.cache.max_bytes;
    config.server.listen.clone_from(&old.server.listen);
    config.server.max_connections = old.server.max_connections;
    config.server.max_connections_per_peer = old.server.max_connections_per_peer;
    config.server.tls.clone_from(&old.server.tls);
    config.server.unix = old.server.unix;
    config.server.workers = old.server.workers;
    config.telemetry.log = old.telemetry.log;
    config.telemetry.otlp.clone_from(&old.telemetry.otlp);
    config.telemetry.sample = old.telemetry.sample;
}

/// The file may be sound with its own addresses, and still open to a network the sockets that stay.
fn refuse_exposure(config: &Config) -> Result<(), Fault> {
    let fault = |key: &str, address: &ListenAddress, lacks: &str| {
        let message = format!("others can reach {address}, which stays until the restart, so {lacks} must stay too");
        Fault { key: key.into(), ..Fault::of_file(Path::new("(running)"), message) }
    };
    if config.consumers.is_empty()
        && let Some(exposed) = config.server.listen.iter().find(|address| !address.is_local())
    {
        return Err(fault("consumers", exposed, "a consumer"));
    }
    if config.admin.token.is_none() && !config.admin.listen.is_local() {
        return Err(fault("admin.token", &config.admin.listen, "a token"));
    }
    Ok(())
}

fn report(cause: Cause, operator: &Asker, result: &Result<Changes, Faults>) {
    let (cause, peer, id) = (cause.word(), operator.peer(), operator.id());
    match result {
        Ok(told) => {
            for key in &told.needs_restart {
                tracing::warn!(key, "needs a restart; until then it stays as it was");
            }
            for warning in &told.warnings {
                tracing::warn!(%warning, "configuration");
            }
            let changed = if told.changed.is_empty() { "nothing".to_owned() } else { told.changed.join(", ") };
            tracing::info!(target: "audit", cause, changed, peer, id, "configuration reloaded");
        }
        Err(faults) => {
            for fault in faults {
                tracing::error!(%fault, "the configuration is not valid");
            }
            let faults = faults.iter().count();
            tracing::warn!(target: "audit", cause, faults, peer, id, "reload refused: everything stays as it was");
        }
    }
}
