//! Upstreams and routes: where requests can go, and which requests those are.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use http::Method;
use toml::Spanned;

use super::findings::Findings;
use super::item::{Item, NOWHERE, Table};
use super::route_words::{HeaderEntry, PathTemplate};
use super::schema::{self, File};
use super::source::closest;
use super::words::parse_name;
use crate::domain::access::{Credential, Upstream};
use crate::domain::rules::{BudgetRules, CATEGORIES, CacheRule, ClientOptions, RequestHeaders, Route};

/// The upstreams that are sound, in the order of the file.
pub(super) fn upstreams(file: &File, findings: &mut Findings<'_>) -> Vec<Arc<Upstream>> {
    let mut written: Vec<_> = file.upstreams.iter().collect();
    // Serde hands a table over in the order of its keys, and the first of the file has a meaning.
    written.sort_by_key(|(name, _)| name.span().start);
    if written.is_empty() && !findings.touch("upstreams") {
        let advice =
            "add [upstreams.us] with base_url = \"https://api.merge.dev\" and api_key = { env = \"MERGE_API_KEY\" }";
        findings.missing(&NOWHERE, "upstreams", advice);
    }
    let upstreams = written.into_iter().filter_map(|(name, table)| upstream(name, table, findings));
    upstreams.map(Arc::new).collect()
}

fn upstream(name: &Spanned<String>, table: &schema::Upstream, findings: &mut Findings<'_>) -> Option<Upstream> {
    let place = name.span();
    let name = parse_name(name.get_ref()).map_err(|message| findings.fault(&place, message)).ok();
    if table.base_url.is_none() {
        findings.missing(&place, "base_url", "\"https://api.merge.dev\", or the host of Merge's EU or AP region");
    }
    if let Some(exposed) = table.base_url.as_ref().filter(|url| url.is_exposed()) {
        findings.warn(exposed.place(), "the API key and all tokens will cross the network unencrypted; use https://");
    }
    if table.api_key.is_none() {
        findings.missing(&place, "api_key", "{ env = \"MERGE_API_KEY\" } or { file = \"…\" }");
    }
    let api_key = table.api_key.as_ref().and_then(|source| {
        let secret = findings.secret(source)?;
        let fits = secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
        let credential = Credential::new(&format!("Bearer {}", secret.expose())).filter(|_| fits);
        if credential.is_none() {
            findings
                .fault_unquoted(source.place(), format!("the key ({}) must be visible ASCII without blanks", **source));
        }
        credential
    });
    if let Some(proxy) = table.proxy.as_ref().filter(|proxy| proxy.authorization.is_some()) {
        findings.warn(proxy.place(), "a password stands in the file; HTTPS_PROXY in the environment can hold it");
    }
    let client = ClientOptions {
        ca_file: table.ca_file.as_ref().and_then(|path| ca_file(path, findings)),
        proxy: table.proxy.as_deref().cloned(),
        connect_timeout: findings.positive(&table.connect_timeout),
        timeout: findings.positive(&table.timeout),
        http2: *table.http2,
        retries: findings.within(&table.retries, 0..=10),
    };
    let budget = &table.budget;
    if *budget.concurrency == Some(0) {
        findings.fault(budget.concurrency.place(), "must be at least 1, or \"unlimited\"");
    }
    let budget = BudgetRules {
        per_account: *budget.per_account,
        concurrency: *budget.concurrency,
        errors: *budget.errors,
        max_wait: *budget.max_wait,
    };
    let (name, api_key, url) = (name?, api_key?, table.base_url.as_deref()?.clone());
    Some(Upstream { name, scheme: url.scheme, authority: url.authority, prefix: url.prefix, api_key, client, budget })
}

/// The path of a file with certificates, from the folder of the configuration file.
fn ca_file(path: &Item<PathBuf>, findings: &mut Findings<'_>) -> Option<PathBuf> {
    let full = findings.file(path);
    match fs::read(&full) {
        Err(error) => findings.fault(path.place(), format!("cannot be read: {error}")),
        Ok(text) if !text.windows(27).any(|line| line == b"-----BEGIN CERTIFICATE-----") => {
            findings.fault(path.place(), "holds no certificate in PEM form");
        }
        Ok(_) => return Some(full),
    }
    None
}

/// Says that there is no upstream `name`, unless there is.
pub(super) fn expect_upstream(name: &Item<Arc<str>>, file: &File, findings: &mut Findings<'_>) {
    if file.upstreams.contains_key(&***name) || findings.touch("upstreams") {
        return;
    }
    let known = || file.upstreams.keys().map(|key| key.get_ref().as_str());
    let advice = match closest(name, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
    };
    findings.fault(name.place(), format!("no such upstream, {advice}"));
}

/// The routes of the file, or sync-status of every category.
pub(super) fn routes(file: &File, findings: &mut Findings<'_>) -> Vec<Route> {
    let Some(written) = &file.routes else { return Route::defaults() };
    let mut routes: Vec<Route> = Vec::new();
    for table in written {
        let Some(route) = route(table, file, findings) else { continue };
        let taken =
            |other: &&Route| other.path == route.path && other.methods.iter().any(|m| route.methods.contains(m));
        if let (Some(_), Some(path)) = (routes.iter().find(taken), &table.path) {
            findings.fault(path.place(), "another route takes the same path and method");
        }
        routes.push(route);
    }
    if routes.is_empty() && !findings.touch("routes") {
        findings.missing(&NOWHERE, "routes", "name at least one, or none at all for sync-status of every category");
    }
    routes
}

fn route(table: &Table<schema::Route>, file: &File, findings: &mut Findings<'_>) -> Option<Route> {
    let place = table.place();
    if table.path.is_none() {
        findings.missing(place, "path", "\"/api/{category}/v1/sync-status\" or another path");
    }
    let methods: Vec<Method> = table.methods.iter().map(|method| (**method).clone()).collect();
    if methods.is_empty() {
        findings.missing(place, "methods", "at least one, as in [\"GET\"]");
    }
    for method in table.methods.iter().filter(|method| ![Method::GET, Method::HEAD].contains(method)) {
        if *table.cache != CacheRule::Off {
            findings.fault(method.place(), "only answers to GET and HEAD can be cached; others need cache = \"off\"");
        }
    }
    if let Some(upstream) = &table.upstream {
        expect_upstream(upstream, file, findings);
    }
    let path = table.path.as_deref();
    let lacks = |part: fn(&PathTemplate) -> bool| path.is_some_and(|path| !part(path));
    if let Some(target) = &table.upstream_path {
        if target.has_category() && lacks(PathTemplate::has_category) {
            findings.fault(target.place(), "holds {category}, which path does not");
        }
        if target.has_rest() && lacks(PathTemplate::has_rest) {
            findings.fault(target.place(), "ends in /*, which path does not");
        }
    }
    let mut categories: Vec<Arc<str>> = CATEGORIES.iter().map(|&category| category.into()).collect();
    for category in table.categories.iter().flat_map(|list| list.iter()) {
        if lacks(PathTemplate::has_category) {
            findings.fault(category.place(), "has no use, since path holds no {category}");
        }
        if !categories.contains(&category.0) {
            categories.push(Arc::clone(&category.0));
        }
    }
    Some(Route {
        path: Arc::clone(&path?.0),
        categories,
        methods,
        cache: *table.cache,
        upstream: table.upstream.as_deref().cloned(),
        request_headers: request_headers(table),
        upstream_path: table.upstream_path.as_ref().map(|target| Arc::clone(&target.0)),
    })
}

fn request_headers(table: &schema::Route) -> RequestHeaders {
    let mut these = Vec::new();
    for entry in table.request_headers.iter() {
        match &**entry {
            HeaderEntry::Any => return RequestHeaders::All,
            HeaderEntry::One(name) => these.push(name.clone()),
        }
    }
    if these.is_empty() { RequestHeaders::None } else { RequestHeaders::These(these) }
}
