//! The upstreams that are in force, each with the way to it.
//!
//! A request may wait for its turn or for a second try for longer than a configuration lasts. So a call is sent with what is in force
//! when it goes, and held back by the rules that are in force then, whatever was in force when it was admitted: a key that was revoked
//! is not used again, and a limit that was lowered is kept from that moment on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};

use crate::domain::access::{Account, AccountHash, Name, Upstream};
use crate::domain::body::{StreamBody, stream};
use crate::domain::bucket::Rate;
use crate::domain::rules::BudgetRules;

/// Sends one request to one upstream and gives back what comes, whatever that is and however it is encoded.
pub type Transport = BoxCloneSyncService<Request<StreamBody>, Response<StreamBody>, BoxError>;

/// Makes a service a [`Transport`], whatever its body and error are.
pub fn transport<S, B>(service: S) -> Transport
where
    S: Service<Request<StreamBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync,
    S: 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    BoxCloneSyncService::new(
        service.map_err(Into::into).map_response(|response: Response<B>| response.map(|body| stream(body))),
    )
}

/// An upstream and the way to it.
#[derive(Clone)]
pub struct Way {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// The way to it.
    pub transport: Transport,
    /// By which rules its calls are held back: its own, but of failures the strictest rule of all upstreams at its address.
    pub rules: BudgetRules,
    /// Since when it is in force no more, and stays only for the requests that were admitted to it.
    gone: Option<Instant>,
}

/// How much longer than a call may wait and take requests to an upstream that is gone may be under way: they are admitted a moment
/// before, and hear of its end a moment after.
const SLACK: Duration = Duration::from_secs(2);

impl Way {
    fn is_in_force(&self) -> bool {
        self.gone.is_none()
    }

    /// Whether a request that was admitted to it may still be under way.
    fn is_of_use(&self, now: Instant) -> bool {
        let longest = self.rules.max_wait + self.upstream.client.timeout + SLACK;
        self.gone.is_none_or(|since| now < since + longest)
    }
}

/// All ways of one configuration.
#[derive(Default)]
pub struct Ways {
    by_name: HashMap<Name, Way, RandomState>,
    /// The limits of accounts that have one of their own; of accounts that share a token, the one that keeps them all.
    rates: HashMap<AccountHash, Option<Rate>, RandomState>,
}

impl Ways {
    /// The ways to `upstreams`, by `transports`; `accounts` are those with names.
    pub fn new(
        upstreams: &[Arc<Upstream>],
        accounts: &[Arc<Account>],
        mut transports: HashMap<Name, Transport>,
    ) -> Self {
        let mut ways = Self::default();
        for upstream in upstreams {
            let neighbours = upstreams.iter().filter(|other| other.endpoint() == upstream.endpoint());
            let errors = neighbours.filter_map(|other| other.budget.errors).reduce(Rate::and);
            let rules = BudgetRules { errors, ..upstream.budget };
            if let Some(transport) = transports.remove(&upstream.name) {
                let way = Way { upstream: upstream.clone(), transport, rules, gone: None };
                ways.by_name.insert(upstream.name.clone(), way);
            }
        }
        for account in accounts {
            if let Some(rate) = account.per_account {
                let known = ways.rates.entry(account.hash).or_insert(rate);
                *known = (*known).into_iter().chain(rate).reduce(Rate::and);
            }
        }
        ways
    }

    /// The same, and those that were in force `before` and are no more, for as long as requests to them are under way: there may be
    /// further reloads meanwhile. One of these may have got another name, so it keeps the limits of all that are at its address now.
    #[must_use]
    pub fn after(mut self, before: &Self, now: Instant) -> Self {
        let missing = |name: &Name| !self.by_name.contains_key(name);
        let gone = before.by_name.iter().filter(|(name, way)| missing(name) && way.is_of_use(now));
        let gone: Vec<_> = gone.map(|(name, way)| (name.clone(), self.gone(way, now))).collect();
        self.by_name.extend(gone);
        self
    }

    fn gone(&self, way: &Way, now: Instant) -> Way {
        let here = || self.by_name.values().filter(|other| other.upstream.endpoint() == way.upstream.endpoint());
        let errors = here().next().map_or(way.rules.errors, |neighbour| neighbour.rules.errors);
        let limits = here().filter_map(|neighbour| neighbour.rules.per_account);
        let per_account = limits.chain(way.rules.per_account).reduce(Rate::and);
        let rules = BudgetRules { per_account, errors, ..way.rules };
        Way { rules, gone: way.gone.or(Some(now)), ..way.clone() }
    }

    /// The way to the upstream of that name.
    pub fn to(&self, upstream: &Name) -> Option<&Way> {
        self.by_name.get(upstream)
    }

    /// Whether the upstream of that name is in force.
    pub fn has(&self, upstream: &Name) -> bool {
        self.to(upstream).is_some_and(Way::is_in_force)
    }

    /// The rules of the upstream of that name, if it is in force and at that address.
    pub fn rules_at(&self, endpoint: &(String, u16), upstream: &Name) -> Option<BudgetRules> {
        let way = self.to(upstream).filter(|way| way.is_in_force() && way.upstream.endpoint() == *endpoint);
        way.map(|way| way.rules)
    }

    /// How many calls there may be for an account at an upstream; `None` is without limit.
    pub fn rate(&self, upstream: &Name, account: AccountHash) -> Option<Rate> {
        let own = self.rates.get(&account).copied();
        own.unwrap_or_else(|| self.to(upstream).and_then(|way| way.rules.per_account))
    }
}

/// The ways that are in force. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct InForce(Arc<ArcSwap<Ways>>);

impl InForce {
    /// These are.
    pub fn new(ways: Ways) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(ways)))
    }

    /// From now on it is these; calls under way end on the old ones.
    pub fn replace(&self, ways: Ways) {
        self.0.store(Arc::new(ways));
    }

    /// Those of this moment.
    pub fn ways(&self) -> Arc<Ways> {
        self.0.load_full()
    }

    /// The way to the upstream of that name at this moment; `None` only if a reload has removed it long ago.
    pub fn way(&self, upstream: &Name) -> Option<Way> {
        self.0.load().to(upstream).cloned()
    }

    /// Whether what `upstream` has said still holds: it is the same server, asked with the same key.
    pub fn still_is(&self, upstream: &Upstream) -> bool {
        self.0
            .load()
            .to(&upstream.name)
            .is_some_and(|way| way.upstream.is_same_origin(upstream) && way.upstream.api_key.is_same(&upstream.api_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::Credential;
    use crate::domain::rules::ClientOptions;

    fn rate(count: u32, seconds: u64) -> Option<Rate> {
        Rate::new(count, Duration::from_secs(seconds))
    }

    fn upstream(name: &str, url: &'static str, errors: Option<Rate>) -> Arc<Upstream> {
        let url = http::Uri::from_static(url);
        Arc::new(Upstream {
            name: name.into(),
            scheme: url.scheme().expect("an absolute URL").clone(),
            authority: url.authority().expect("an absolute URL").clone(),
            prefix: "".into(),
            api_key: Credential::new("Bearer key").expect("ASCII"),
            client: ClientOptions::default(),
            budget: BudgetRules { errors, ..BudgetRules::default() },
        })
    }

    fn account(upstream: &Arc<Upstream>, hash: u8) -> Account {
        Account {
            name: None,
            hash: AccountHash([hash; 16]),
            token: Credential::new("token").expect("ASCII"),
            upstream: upstream.clone(),
            per_account: None,
            linked_account_id: None,
        }
    }

    fn ways(upstreams: &[Arc<Upstream>], accounts: &[Arc<Account>]) -> Ways {
        let nowhere = || tower::service_fn(|_| async { Err::<Response<StreamBody>, _>(BoxError::from("nowhere")) });
        let transports = upstreams.iter().map(|upstream| (upstream.name.clone(), transport(nowhere())));
        Ways::new(upstreams, accounts, transports.collect())
    }

    fn errors(ways: &Ways, name: &str) -> Option<Rate> {
        ways.to(&name.into()).and_then(|way| way.rules.errors)
    }

    #[test]
    fn of_upstreams_at_one_address_every_rule_for_failures_is_kept() {
        let all = [
            upstream("many", "https://merge.test", rate(10, 10)),
            upstream("few", "https://MERGE.test:443", rate(9, 1)),
            upstream("any", "https://merge.test", None),
            upstream("elsewhere", "https://merge.test:444", rate(3, 5)),
            upstream("alone", "http://merge.test:80", None),
        ];
        let ways = ways(&all, &[]);
        for name in ["many", "few", "any"] {
            assert_eq!(errors(&ways, name), rate(9, 10), "{name}");
        }
        assert_eq!((errors(&ways, "elsewhere"), errors(&ways, "alone")), (rate(3, 5), None));
    }

    #[test]
    fn an_account_has_its_own_limit_wherever_it_is_asked_for() {
        let us = upstream("us", "https://us.test", None);
        let eu = upstream("eu", "https://eu.test", None);
        let accounts = [
            account(&us, 1),
            Account { per_account: Some(rate(7, 60)), ..account(&us, 2) },
            Account { per_account: Some(None), ..account(&us, 3) },
            Account { per_account: Some(rate(7, 60)), ..account(&us, 4) },
            Account { per_account: Some(rate(50, 90)), ..account(&eu, 4) },
        ];
        let ways = ways(&[us, eu], &accounts.map(Arc::new));
        for name in ["us", "eu"] {
            let of = |hash| ways.rate(&name.into(), AccountHash([hash; 16]));
            let usual = BudgetRules::default().per_account;
            assert_eq!((of(1), of(2), of(3), of(4)), (usual, rate(7, 60), None, rate(7, 90)), "{name}");
        }
    }

    #[test]
    fn what_is_gone_stays_for_those_who_were_admitted_and_has_no_say() {
        let (us, eu) = (upstream("us", "https://a.test", rate(1, 60)), upstream("eu", "https://a.test", rate(9, 10)));
        let before = ways(&[us, eu.clone()], &[]);
        let (now, only) = (Instant::now(), || ways(std::slice::from_ref(&eu), &[]));
        let after = only().after(&before, now);
        let at = ("a.test".to_owned(), 443);
        assert!(after.rules_at(&at, &"us".into()).is_none() && after.rules_at(&at, &"eu".into()).is_some());
        assert!(after.rules_at(&("b.test".to_owned(), 443), &"eu".into()).is_none());
        assert_eq!((errors(&after, "us"), errors(&after, "eu")), (rate(9, 10), rate(9, 10)));
        let longest = BudgetRules::default().max_wait + ClientOptions::default().timeout;
        let later = (0..10).fold(after, |ways, part| only().after(&ways, now + longest * part / 10));
        assert!(later.to(&"us".into()).is_some() && !later.has(&"us".into()), "requests may be under way");
        assert!(only().after(&later, now + longest + SLACK).to(&"us".into()).is_none());
    }

    #[test]
    fn what_another_server_or_another_key_was_asked_holds_no_more() {
        let us = upstream("us", "https://us.test", None);
        let in_force = InForce::new(ways(std::slice::from_ref(&us), &[]));
        assert!(in_force.still_is(&us));
        let key = Credential::new("Bearer another").expect("ASCII");
        let renamed = Upstream { api_key: key, ..(*us).clone() };
        in_force.replace(ways(&[Arc::new(renamed.clone())], &[]));
        assert!(!in_force.still_is(&us) && in_force.still_is(&renamed));
        in_force.replace(ways(&[upstream("us", "https://elsewhere.test", None)], &[]));
        assert!(!in_force.still_is(&us));
    }
}
