//! Path and method to route. Paths match exactly: no other case, no trailing slash, no encoded slash.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::{HeaderValue, Method};

use crate::domain::access::Name;
use crate::domain::exchange::Policy;
use crate::domain::key::Place;
use crate::domain::problem::Problem;
use crate::domain::rules::{API_PREFIX, CATEGORY, Lifetimes, RequestHeaders, Route};

/// All routes, laid out for one look-up per request.
#[derive(Debug, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Junction, RandomState>,
    /// Routes that end in `/*`, longest first.
    below: Vec<(Box<str>, Junction)>,
    /// A path that no route takes, as it is the proxy's own.
    reserved: Option<&'static str>,
}

/// What is known of one path.
#[derive(Debug, Default)]
struct Junction {
    stops: Vec<(Vec<Method>, Stop)>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The route, and what it asks the upstream for.
    pub place: Arc<Place>,
    /// How its pages are cached.
    pub policy: Arc<Policy>,
    /// The upstream that serves it, where it is not the account's own.
    pub upstream: Option<Name>,
    /// The caller's fields that go upstream, where requests pass through as themselves.
    pub request_headers: Arc<RequestHeaders>,
}

impl Routes {
    /// Lays out `routes`; the first route that takes a path and method has it.
    pub fn new(routes: &[Route], lifetimes: Lifetimes, max_page_bytes: usize) -> Self {
        let mut all = Self::default();
        for route in routes {
            let policy = Arc::new(Policy { rule: route.cache, lifetimes, max_page_bytes });
            let one = [Arc::from("")];
            let categories = if route.path.contains(CATEGORY) { &route.categories[..] } else { &one };
            for category in categories {
                all.add(route, category, &policy);
            }
        }
        all.below.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        all
    }

    /// The same without `path`, whatever the routes say.
    #[must_use]
    pub fn without(mut self, path: &'static str) -> Self {
        self.exact.remove(path);
        self.reserved = Some(path);
        self
    }

    fn add(&mut self, route: &Route, category: &str, policy: &Arc<Policy>) {
        let path = route.path.replace(CATEGORY, category);
        let upstream_path = route.upstream_path.as_deref().unwrap_or(&route.path).replace(CATEGORY, category);
        let mut methods = route.methods.clone();
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        let place = Place { route: route.path.clone(), path: upstream_path.trim_end_matches('*').into() };
        let stop = Stop {
            place: Arc::new(place),
            policy: policy.clone(),
            upstream: route.upstream.clone(),
            request_headers: Arc::new(route.request_headers.clone()),
        };
        // A Merge SDK appends "/ats/v1/sync-status" to its base URL, which may or may not end in "/api".
        let short = path.strip_prefix(API_PREFIX).filter(|rest| rest.starts_with('/'));
        for path in [Some(path.as_str()), short].into_iter().flatten() {
            self.junction(path).stops.push((methods.clone(), stop.clone()));
        }
    }

    fn junction(&mut self, path: &str) -> &mut Junction {
        let Some(prefix) = path.strip_suffix('*') else { return self.exact.entry(path.into()).or_default() };
        let at = self.below.iter().position(|(known, _)| **known == *prefix).unwrap_or_else(|| {
            self.below.push((prefix.into(), Junction::default()));
            self.below.len() - 1
        });
        &mut self.below[at].1
    }

    /// The stop for a request.
    pub fn find(&self, method: &Method, path: &str) -> Result<Stop, Problem> {
        if let Some(junction) = self.exact.get(path) {
            return junction.stop(method).cloned();
        }
        let below = self.below.iter().find(|(prefix, _)| path.len() > prefix.len() && path.starts_with(&**prefix));
        let below = below.filter(|_| is_plain(path) && self.reserved != Some(path));
        let (prefix, junction) = below.ok_or(Problem::NoSuchRoute)?;
        let stop = junction.stop(method)?;
        let rest = &path[prefix.len()..];
        let place = Place { route: stop.place.route.clone(), path: format!("{}{rest}", stop.place.path).into() };
        Ok(Stop { place: Arc::new(place), ..stop.clone() })
    }
}

impl Junction {
    fn stop(&self, method: &Method) -> Result<&Stop, Problem> {
        let found = self.stops.iter().find(|(methods, _)| methods.contains(method));
        found.map(|(_, stop)| stop).ok_or_else(|| Problem::MethodNotAllowed { allow: self.allow() })
    }

    fn allow(&self) -> HeaderValue {
        let mut names: Vec<&str> = self.stops.iter().flat_map(|(methods, _)| methods).map(Method::as_str).collect();
        names.sort_unstable();
        names.dedup();
        HeaderValue::try_from(names.join(", ")).expect("method names are tokens")
    }
}

/// Whether a path means the same to everyone who reads it: no empty or dot segment, nothing encoded that would make one.
fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let hidden = ["%2f", "%2e", "%5c", "%00", "\\", ";"].iter().any(|hidden| lower.contains(hidden));
    !hidden && !path[1..].split('/').any(|segment| matches!(segment, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rules::CacheRule;

    fn routes() -> Routes {
        let mut routes = Route::defaults();
        routes.push(Route {
            path: "/api/{category}/v1/sync-status".into(),
            methods: vec![Method::POST],
            ..Route::defaults().remove(0)
        });
        routes.push(Route {
            path: "/api/ats/v1/*".into(),
            methods: vec![Method::GET],
            cache: CacheRule::Fixed(std::time::Duration::from_secs(9)),
            upstream_path: Some("/deep/*".into()),
            ..Route::defaults().remove(0)
        });
        Routes::new(&routes, Lifetimes::default(), 4 << 20)
    }

    #[test]
    fn both_forms_of_every_category_lead_to_one_place() {
        let routes = routes();
        for category in crate::domain::rules::CATEGORIES {
            let path = format!("/api/{category}/v1/sync-status");
            let long = routes.find(&Method::GET, &path).expect("a route");
            let short = routes.find(&Method::HEAD, &path[4..]).expect("a route");
            assert!(Arc::ptr_eq(&long.place, &short.place));
            assert_eq!(*long.place.path, *path);
        }
    }

    #[test]
    fn whatever_is_not_exactly_a_route_is_none() {
        let routes = routes();
        for path in [
            "/",
            "*",
            "",
            "/api",
            "/api/ats/v1/sync-status/",
            "/API/ats/v1/sync-status",
            "/api//ats/v1/sync-status",
            "/api/mktg/v1/sync-status",
            "/api/{category}/v1/sync-status",
            "/api/hris/v1/sync%2Dstatus",
            "/api/api/ats/v1/sync-status",
            "/api/ats/v1/",
            "/api/ats/v1/a//b",
            "/api/ats/v1/../x",
            "/api/ats/v1/a%2Fb",
            "/api/ats/v1/%2e%2E/b",
            "/api/ats/v1/a\\b",
        ] {
            assert_eq!(routes.find(&Method::GET, path).err(), Some(Problem::NoSuchRoute), "{path}");
        }
    }

    #[test]
    fn what_lies_below_keeps_its_rest() {
        let stop = routes().find(&Method::GET, "/ats/v1/jobs/7").expect("a route");
        assert_eq!(&*stop.place.path, "/deep/jobs/7");
    }

    #[test]
    fn another_method_is_told_which_there_are() {
        let allow = HeaderValue::from_static("GET, HEAD, POST");
        let refused = routes().find(&Method::DELETE, "/ats/v1/sync-status").expect_err("not on the route");
        assert_eq!(refused, Problem::MethodNotAllowed { allow });
    }
}
