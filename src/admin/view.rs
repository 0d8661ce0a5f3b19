//! Which accounts somebody wants to see: filter, order and part of the table. However many accounts there are, an answer has a bounded
//! number of rows.

use std::cmp::{Ordering, Reverse};

use super::observer::Snapshot;
use super::parameters::Parameters;
use super::state::{AccountRow, Accounts, State};

/// A choice of accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    filter: String,
    sort: Sort,
    descending: bool,
    offset: usize,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Problems,
    Name,
    Upstream,
    Category,
    Age,
    NextSync,
    Budget,
    Error,
}

/// How many rows there are unless somebody says how many.
const USUAL: usize = 50;

/// How many rows there are at most.
const MOST: usize = 200;

/// More than this is no filter.
const LONGEST_FILTER: usize = 200;

impl Default for View {
    fn default() -> Self {
        Self { filter: String::new(), sort: Sort::Problems, descending: false, offset: 0, limit: USUAL }
    }
}

impl View {
    /// The view that `parameters` describe; the text says what is wrong with them.
    pub(super) fn read(parameters: &Parameters) -> Result<Self, String> {
        let filter = parameters.get("filter").unwrap_or_default();
        if filter.len() > LONGEST_FILTER {
            return Err(format!("'filter' has at most {LONGEST_FILTER} bytes."));
        }
        Ok(Self {
            filter: filter.trim().to_lowercase(),
            sort: parameters.get("sort").map_or(Ok(Sort::Problems), Sort::read)?,
            descending: match parameters.get("order") {
                None | Some("asc") => false,
                Some("desc") => true,
                Some(_) => return Err("'order' is asc or desc.".into()),
            },
            offset: parameters.number("offset")?.unwrap_or(0),
            limit: parameters.number("limit")?.unwrap_or(USUAL).min(MOST),
        })
    }

    /// What this view shows of `snapshot`.
    pub fn of(&self, snapshot: &Snapshot) -> State {
        let mut chosen: Vec<&AccountRow> = snapshot.rows.iter().filter(|row| self.fits(row)).collect();
        let matching = chosen.len();
        let end = self.offset.saturating_add(self.limit).min(matching);
        let offset = self.offset.min(matching);
        if end < matching && end > 0 {
            // Only what is shown has to be in order.
            chosen.select_nth_unstable_by(end - 1, |a, b| self.compare(a, b));
            chosen.truncate(end);
        }
        chosen.sort_unstable_by(|a, b| self.compare(a, b));
        let rows = chosen.iter().take(end).skip(offset).map(|row| (*row).clone()).collect();
        let accounts = Accounts { total: snapshot.rows.len(), matching, offset, conditions: snapshot.conditions, rows };
        State { head: snapshot.head.clone(), accounts, history: None }
    }

    /// Every word of the filter must occur somewhere in what the row shows.
    fn fits(&self, row: &AccountRow) -> bool {
        self.filter.split_whitespace().all(|word| {
            let has = |text: &str| text.to_lowercase().contains(word);
            has(&row.name)
                || has(&row.upstream)
                || has(&row.because)
                || row.condition.slug() == word
                || row.categories.iter().any(|category| has(category))
                || row.models.iter().any(|model| has(&model.name) || has(&model.status))
        })
    }

    fn compare(&self, a: &AccountRow, b: &AccountRow) -> Ordering {
        let by_key = match self.sort {
            Sort::Problems => {
                // Tokens that callers make up must not bury the accounts that somebody is responsible for.
                let by_state = a.condition.cmp(&b.condition).then(b.named.cmp(&a.named));
                by_state.then(last(a.last_error_at().map(Reverse), b.last_error_at().map(Reverse)))
            }
            Sort::Name => a.name.cmp(&b.name),
            Sort::Upstream => a.upstream.cmp(&b.upstream),
            Sort::Category => a.categories.cmp(&b.categories),
            // The youngest page was fetched last.
            Sort::Age => return self.directed(a.fetched_at.map(Reverse), b.fetched_at.map(Reverse), a, b),
            Sort::NextSync => return self.directed(a.next_sync, b.next_sync, a, b),
            Sort::Budget => return self.directed(a.budget_left, b.budget_left, a, b),
            Sort::Error => return self.directed(a.last_error_at(), b.last_error_at(), a, b),
        };
        let by_key = if self.descending { by_key.reverse() } else { by_key };
        by_key.then_with(|| a.name.cmp(&b.name))
    }

    /// What has no value comes last in both directions.
    fn directed<T: Ord>(&self, x: Option<T>, y: Option<T>, a: &AccountRow, b: &AccountRow) -> Ordering {
        let by_key = match (x, y) {
            (Some(x), Some(y)) if self.descending => y.cmp(&x),
            (x, y) => last(x, y),
        };
        by_key.then_with(|| a.name.cmp(&b.name))
    }
}

fn last<T: Ord>(x: Option<T>, y: Option<T>) -> Ordering {
    match (x, y) {
        (Some(x), Some(y)) => x.cmp(&y),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
    }
}

impl AccountRow {
    fn last_error_at(&self) -> Option<u64> {
        self.last_error.as_ref().map(|failure| failure.at)
    }
}

impl Sort {
    fn read(text: &str) -> Result<Self, String> {
        Ok(match text {
            "problems" => Self::Problems,
            "name" => Self::Name,
            "upstream" => Self::Upstream,
            "category" => Self::Category,
            "age" => Self::Age,
            "next_sync" => Self::NextSync,
            "budget" => Self::Budget,
            "error" => Self::Error,
            _ => return Err("'sort' is problems, name, upstream, category, age, next_sync, budget or error.".into()),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::admin::state::{Condition, Conditions, Failure, Head, ModelRow, Now, Proxy};

    pub(crate) fn account(name: &str, condition: Condition) -> AccountRow {
        AccountRow {
            name: name.into(),
            named: true,
            upstream: "us".into(),
            categories: vec!["ats".into()],
            condition,
            because: "in sync".into(),
            models: vec![ModelRow { name: "Candidate".into(), status: "DONE".into() }],
            pages: 1,
            fetched_at: Some(1_000),
            freshness: Some("fresh".into()),
            fresh_until: Some(6_000),
            next_sync: None,
            budget_limit: Some(100),
            budget: Some("100/min".into()),
            budget_left: Some(20),
            budget_burst: Some(20),
            waiting: 0,
            paused_until: None,
            obstacle: None,
            obstacle_until: None,
            last_error: None,
            last_success: Some(1_000),
        }
    }

    pub(crate) fn snapshot(rows: Vec<AccountRow>) -> Snapshot {
        let proxy = Proxy {
            version: "1.2.3".into(),
            started_at: 0,
            time: 10_000,
            condition: "ready".into(),
            reloadable: true,
            last_reload: None,
            needs_restart: vec![],
        };
        let head = Head {
            proxy,
            now: Now::default(),
            cache: crate::admin::state::Cache::default(),
            upstreams: vec![],
            consumers: vec![],
            consumers_total: 0,
            events: vec![],
        };
        Snapshot { number: 1, head, rows, conditions: Conditions::default(), sample: (0, None) }
    }

    /// The view that a query describes.
    pub(in crate::admin) fn read(query: &str) -> Result<View, String> {
        View::read(&Parameters::read(query, &["filter", "sort", "order", "offset", "limit"]).expect("they are known"))
    }

    fn names(query: &str, snapshot: &Snapshot) -> Vec<String> {
        let state = read(query).expect("a view").of(snapshot);
        state.accounts.rows.into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn problems_come_first_and_other_orders_are_to_be_had() {
        let old = AccountRow { fetched_at: Some(5), ..account("b", Condition::Ok) };
        let never = AccountRow { fetched_at: None, ..account("c", Condition::Idle) };
        let failure = Failure { at: 9, text: "Merge answered 500".into() };
        let broken = AccountRow { last_error: Some(failure), ..account("d", Condition::Problem) };
        let later = Failure { at: 10, text: "Merge does not know the token (401)".into() };
        let stranger = AccountRow { named: false, last_error: Some(later), ..account("raw:1", Condition::Problem) };
        let rows = vec![account("a", Condition::Ok), stranger, old, never, broken, account("e", Condition::Warning)];
        assert_eq!(names("", &snapshot(rows.clone())), ["d", "raw:1", "e", "a", "b", "c"], "those with a name first");
        let all = snapshot(rows.into_iter().filter(|row| row.named).collect());
        assert_eq!(names("", &all), ["d", "e", "a", "b", "c"]);
        assert_eq!(names("sort=name&order=desc", &all), ["e", "d", "c", "b", "a"]);
        assert_eq!(names("sort=age", &all), ["a", "d", "e", "b", "c"]);
        assert_eq!(names("sort=age&order=desc", &all), ["b", "a", "d", "e", "c"], "what has no page is last");
        assert_eq!(names("sort=error", &all)[0], "d");
        for bad in ["sort=beauty", "order=up", "offset=-1", "limit=many", &format!("filter={}", "x".repeat(201))] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_filter_looks_at_everything_that_is_shown() {
        let failed = AccountRow {
            models: vec![ModelRow { name: "Offer".into(), status: "FAILED".into() }],
            ..account("globex", Condition::Problem)
        };
        let all = snapshot(vec![account("acme", Condition::Ok), failed]);
        assert_eq!(names("filter=ACM", &all), ["acme"]);
        assert_eq!(names("filter=offer+failed", &all), ["globex"]);
        assert_eq!(names("filter=problem", &all), ["globex"]);
        assert_eq!(names("filter=acme+failed", &all), Vec::<String>::new());
    }

    #[test]
    fn however_many_there_are_an_answer_is_small() {
        let rows = (0..5_000).map(|number| account(&format!("account-{number:04}"), Condition::Ok)).collect();
        let all = snapshot(rows);
        let state = read("limit=100000").expect("a view").of(&all);
        assert_eq!((state.accounts.rows.len(), state.accounts.matching, state.accounts.total), (MOST, 5_000, 5_000));
        let usual = serde_json::to_vec(&View::default().of(&all)).expect("JSON");
        assert!(usual.len() < 40_000, "{} bytes", usual.len());
        assert_eq!(names("sort=name&offset=4999", &all), ["account-4999"]);
        assert_eq!(names("sort=name&offset=100&limit=2", &all), ["account-0100", "account-0101"]);
        assert_eq!(names("offset=5000", &all), Vec::<String>::new());
    }
}
