//! Routes: which requests are taken, and what is done with them.

use std::sync::Arc;

use http::Method;

use super::findings::Findings;
use super::item::Table;
use super::route_words::{HeaderEntry, PathTemplate};
use super::schema::{self, File};
use super::upstreams::expect_upstream;
use crate::domain::rules::{CATEGORIES, CacheRule, RequestHeaders, Route};

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
        findings.missing_table("routes", "name at least one, or none at all for sync-status of every category");
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
        if !matches!(*table.cache, CacheRule::Off | CacheRule::Http) {
            findings.fault(
                method.place(),
                "only answers to GET and HEAD can be cached; others need cache = \"off\" or \"http\"",
            );
        }
    }
    if let (Some(header), false) =
        (table.request_headers.first(), matches!(*table.cache, CacheRule::Off | CacheRule::Http))
    {
        findings.fault(
            header.place(),
            "a page that many share carries nobody's headers; needs cache = \"off\" or \"http\"",
        );
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

#[cfg(test)]
mod tests {
    use super::super::sample::{config, expect_faults};
    use super::*;

    #[test]
    fn routes_of_the_file_replace_the_defaults() {
        assert_eq!(config("").routes, Route::defaults());
        let routes = config(
            "[[routes]]\npath = '/api/{category}/v1/*'\ncategories = ['mktg', 'ats']\nmethods = ['GET', 'HEAD']\ncache = '30s'\n\
             upstream = 'us'\nupstream_path = '/v2/{category}/*'",
        )
        .routes;
        let [route] = &routes[..] else { panic!("one route") };
        assert_eq!(route.categories.len(), 11);
        assert_eq!(route.cache, CacheRule::Fixed(std::time::Duration::from_secs(30)));
        assert_eq!(route.upstream_path.as_deref(), Some("/v2/{category}/*"));
        let passing = |headers: &str| {
            let route = "[[routes]]\npath = '/a'\nmethods = ['PATCH']\ncache = 'http'\nrequest_headers = ";
            config(&format!("{route}{headers}")).routes.remove(0).request_headers
        };
        assert_eq!(passing("['X-Team']"), RequestHeaders::These(vec![http::HeaderName::from_static("x-team")]));
        assert_eq!(passing("['X-Team', '*']"), RequestHeaders::All);
    }

    #[test]
    fn a_bad_route_is_told_what_is_allowed() {
        expect_faults(&[
            (
                "routes = []",
                "1:10  routes: is missing: name at least one, or none at all for sync-status of every category",
            ),
            ("[[routes]]", "1:1  routes[0].path: is missing: \"/api/{category}/v1/sync-status\" or another path"),
            (
                "[[routes]]\npath = '/a'\nmethods = []",
                "1:1  routes[0].methods: is missing: at least one, as in [\"GET\"]",
            ),
            (
                "[[routes]]\npath = '/a'\nmethods = ['POST']",
                "3:12  routes[0].methods[0]  'POST': only answers to GET and HEAD can be cached; others need cache = \"off\" or \"http\"",
            ),
            (
                "[[routes]]\npath = '/a'\nrequest_headers = ['*']",
                "3:20  routes[0].request_headers[0]  '*': a page that many share carries nobody's headers; needs cache = \"off\" or \"http\"",
            ),
            (
                "[[routes]]\npath = '/a'\n[[routes]]\npath = '/a'",
                "4:8  routes[1].path  '/a': another route takes the same path and method",
            ),
            (
                "[[routes]]\npath = '/a'\nupstream = 'uss'",
                "3:12  routes[0].upstream  'uss': no such upstream, did you mean `us`?",
            ),
            (
                "[[routes]]\npath = '/a'\nupstream = 'other'",
                "3:12  routes[0].upstream  'other': no such upstream, there are us",
            ),
            (
                "[[routes]]\npath = '/a'\nupstream_path = '/b/*'",
                "3:17  routes[0].upstream_path  '/b/*': ends in /*, which path does not",
            ),
            (
                "[[routes]]\npath = '/a'\nupstream_path = '/{category}'",
                "3:17  routes[0].upstream_path  '/{category}': holds {category}, which path does not",
            ),
            (
                "[[routes]]\npath = '/a'\ncategories = ['x']",
                "3:15  routes[0].categories[0]  'x': has no use, since path holds no {category}",
            ),
        ]);
    }
}
