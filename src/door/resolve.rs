//! `X-Account-Token` to target: whose data, and with which credentials it is fetched.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::fields::Field;
use crate::domain::access::{Account, AccountHash, Consumer, Credential, Name, Upstream, can_be_account_token};
use crate::domain::exchange::Target;
use crate::domain::key::TokenHasher;
use crate::domain::problem::Problem;

/// All accounts that have a name, and what is needed to take in a raw token.
#[derive(Debug)]
pub struct Accounts {
    // Callers look up and never insert, so none can make their keys collide.
    by_name: HashMap<Name, Arc<Account>, RandomState>,
    by_token: HashMap<AccountHash, Arc<Account>, RandomState>,
    /// By Merge's ids, in lower case. An account that is asked for with two API keys is there twice.
    by_linked_id: HashMap<String, Vec<Arc<Account>>, RandomState>,
    upstreams: HashMap<Name, Arc<Upstream>, RandomState>,
    /// Where an account lives of which only the token is known.
    default_upstream: Arc<Upstream>,
    hasher: TokenHasher,
}

impl Accounts {
    /// The accounts as configured.
    pub fn new(
        accounts: &[Arc<Account>],
        upstreams: &[Arc<Upstream>],
        default_upstream: Arc<Upstream>,
        hasher: TokenHasher,
    ) -> Self {
        let mut by_linked_id: HashMap<String, Vec<_>, _> = HashMap::default();
        for account in accounts {
            if let Some(id) = &account.linked_account_id {
                by_linked_id.entry(id.to_ascii_lowercase()).or_default().push(account.clone());
            }
        }
        Self {
            by_linked_id,
            by_name: accounts.iter().filter_map(|account| Some((account.name.clone()?, account.clone()))).collect(),
            by_token: accounts.iter().map(|account| (account.hash, account.clone())).collect(),
            upstreams: upstreams.iter().map(|upstream| (upstream.name.clone(), upstream.clone())).collect(),
            default_upstream,
            hasher,
        }
    }

    /// The target that this `X-Account-Token` names, if `consumer` may have it. `route` overrides the upstream.
    ///
    /// An account that is unknown and one that is forbidden are refused alike.
    pub fn resolve(&self, asked: Field<'_>, consumer: &Consumer, route: Option<&Name>) -> Result<Target, Problem> {
        let account = match self.configured(asked) {
            // Nearly all end here: a text that is a name has been checked when it was configured.
            Some((name, account)) if consumer.may_use(name) => account.clone(),
            _ => match named(asked)? {
                Some(text) => self.account(text, consumer)?,
                None => self.default_account(consumer)?,
            },
        };
        let upstream = route.and_then(|name| self.upstreams.get(name)).unwrap_or(&account.upstream).clone();
        Ok(Target { upstream, account })
    }

    /// All accounts that have names.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.by_name.values()
    }

    /// The upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// The account of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Account>> {
        self.by_name.get(name)
    }

    /// The accounts that Merge calls by this id.
    pub fn linked(&self, id: &str) -> &[Arc<Account>] {
        self.by_linked_id.get(&id.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// What the log calls the account that was asked for and not given: a name that is configured, else what stands for the text,
    /// which may be a token.
    pub fn denied(&self, asked: Field<'_>, consumer: &Consumer) -> String {
        let asked = named(asked).ok().flatten().or(consumer.default_account.as_deref()).unwrap_or_default();
        if self.by_name.contains_key(asked) { asked.to_owned() } else { self.stand_in(asked).to_string() }
    }

    /// What stands for a text that may be a secret.
    pub fn stand_in(&self, text: &str) -> AccountHash {
        self.hasher.hash(text)
    }

    /// The account whose name this is.
    fn configured(&self, asked: Field<'_>) -> Option<(&Name, &Arc<Account>)> {
        let Field::Once(line) = asked else { return None };
        self.by_name.get_key_value(std::str::from_utf8(line.as_bytes()).ok()?)
    }

    fn account(&self, text: &str, consumer: &Consumer) -> Result<Arc<Account>, Problem> {
        if let Some(account) = self.by_name.get(text) {
            return consumer.may_use(text).then(|| account.clone()).ok_or(Problem::AccountNotAllowed);
        }
        if !consumer.raw_tokens {
            return Err(Problem::AccountNotAllowed);
        }
        let hash = self.hasher.hash(text);
        if let Some(account) = self.by_token.get(&hash) {
            return Ok(account.clone());
        }
        let token = Credential::new(text).ok_or(Problem::AccountNotAllowed)?;
        Ok(Arc::new(Account {
            name: None,
            hash,
            token,
            upstream: self.default_upstream.clone(),
            per_account: None,
            linked_account_id: None,
        }))
    }

    fn default_account(&self, consumer: &Consumer) -> Result<Arc<Account>, Problem> {
        let missing = || Problem::InvalidRequest("Name the account in 'X-Account-Token'.".into());
        let name = consumer.default_account.as_ref().ok_or_else(missing)?;
        self.by_name.get(name).filter(|_| consumer.may_use(name)).cloned().ok_or(Problem::AccountNotAllowed)
    }
}

/// What `X-Account-Token` says; missing and empty are the same.
fn named(field: Field<'_>) -> Result<Option<&str>, Problem> {
    let line = match field {
        Field::Absent => return Ok(None),
        Field::Once(line) => line,
        Field::Repeated => {
            return Err(Problem::InvalidRequest("Send one 'X-Account-Token' header, not several.".into()));
        }
    };
    if !can_be_account_token(line.as_bytes()) {
        return Err(Problem::InvalidRequest(
            "'X-Account-Token' must be 1 to 512 visible ASCII characters without comma or blank.".into(),
        ));
    }
    Ok(line.to_str().ok().filter(|text| !text.is_empty()))
}
