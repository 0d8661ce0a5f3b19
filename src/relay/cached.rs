//! A GET or HEAD on a route with `cache = "http"`: answered from the store if RFC 9111 allows, or by a call that many may share.

use std::sync::Arc;

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use tokio::time::{Instant, timeout_at};
use tower::Service;

use super::answer::{from_store, unless_known};
use super::fetch::{self, Brought, Fetching, Place, pass};
use super::meeting::{self, Role, Topic};
use super::service::Http;
use super::store::Found;
use super::stored::Stored;
use super::verdict::Verdict;
use crate::domain::exchange::{Forward, Reason, Served, Why};
use crate::domain::problem::{Cause, Problem};
use crate::domain::relay::{Call, Called, Relay, Relayed};

/// The conditions that a cache does not evaluate.
const FOR_THE_ORIGIN: [HeaderName; 2] = [IF_MATCH, IF_UNMODIFIED_SINCE];

/// Those that it does.
const FOR_CACHES: [HeaderName; 2] = [IF_NONE_MATCH, IF_MODIFIED_SINCE];

/// Whether a request has conditions that only the origin may evaluate (RFC 9110 §13.2.1).
fn is_for_the_origin(asked: &HeaderMap) -> bool {
    FOR_THE_ORIGIN.iter().any(|name| asked.contains_key(name))
}

/// Has all of it asked for.
fn without_parts(fields: &mut HeaderMap) {
    for name in [RANGE, IF_RANGE] {
        fields.remove(name);
    }
}

/// A GET or HEAD on a route with `cache = "http"`. Where the store has no answer both are fetched with GET: what that brings answers
/// either, is shared, and may be stored.
pub struct Cached<S> {
    pub(super) inner: S,
    pub(super) http: Http,
    pub(super) relay: Relay,
}

/// What the store says to a request.
enum Look {
    /// It has an answer.
    Answer(Arc<Stored>, Served),
    /// Ask the upstream, with what is known.
    Ask(Forward, Option<Arc<Stored>>),
}

impl<S> Cached<S>
where
    S: Service<Call, Response = Called, Error = Problem, Future: Send> + Clone + Send + 'static,
{
    /// From the store, or by a call.
    pub async fn answer(mut self) -> Result<Relayed, Problem> {
        let mut spent = false;
        if is_for_the_origin(&self.relay.asked) {
            if self.relay.wants.only_if_cached {
                return Err(Problem::NotCached);
            }
            if self.may_force() {
                return self.pass().await;
            }
            // It is answered as if it had not insisted.
            spent = true;
        }
        // The caller's conditions are evaluated here, against a whole response that others may have too.
        for name in FOR_CACHES.iter().chain(&FOR_THE_ORIGIN) {
            self.relay.call.headers.remove(name);
        }
        if self.relay.call.method == Method::HEAD {
            // Parts are for GET alone (RFC 9110 §14.2).
            [&mut self.relay.call.headers, &mut self.relay.asked].into_iter().for_each(without_parts);
        }
        let mut look = self.look(Instant::now())?;
        let forced = matches!(look, Look::Ask(Forward::Request, _)) || self.relay.wants.no_store;
        spent |= forced && matches!(look, Look::Ask(..)) && !self.may_force();
        if spent {
            self.relay.wants = self.relay.wants.unforced();
            look = self.look(Instant::now())?;
        }
        let relayed = match look {
            Look::Answer(stored, served) => {
                if served == Served::Stale(Why::Revalidating) && !stored.is_set_back(Instant::now()) {
                    self.refresh(&stored);
                }
                from_store(&stored, &self.relay.asked, served, Instant::now())
            }
            Look::Ask(forward, known) => self.miss(forward, known).await?,
        };
        Ok(Relayed { refresh_limited: spent, ..relayed })
    }

    /// Has the origin evaluate conditions that only it may.
    async fn pass(self) -> Result<Relayed, Problem> {
        let asks = FOR_CACHES.iter().any(|name| self.relay.call.headers.contains_key(name));
        let (place, _) = self.relay.caller.place(self.relay.call.deadline).await?;
        let relayed = pass(self.inner, self.relay.call, place, Forward::Request).await?;
        if relayed.status == StatusCode::NOT_MODIFIED && !asks {
            return Err(Problem::UpstreamFailed(Cause::Unexpected(304)));
        }
        Ok(relayed)
    }

    fn look(&self, now: Instant) -> Result<Look, Problem> {
        let Call { key, headers, .. } = &self.relay.call;
        let wants = &self.relay.wants;
        let miss = |forward| if wants.only_if_cached { Err(Problem::NotCached) } else { Ok(Look::Ask(forward, None)) };
        let stored = match self.http.responses.get(key, headers) {
            Found::Nothing => return miss(Forward::UriMiss),
            Found::Others => return miss(Forward::VaryMiss),
            Found::This(stored) => stored,
        };
        match stored.judge(wants, now) {
            Verdict::Fresh => Ok(Look::Answer(stored, Served::Hit)),
            Verdict::Stale(why) => Ok(Look::Answer(stored, Served::Stale(why))),
            Verdict::Ask(forward) => Ok(Look::Ask(forward, Some(stored))),
            Verdict::NotCached => Err(Problem::NotCached),
        }
    }

    fn may_force(&self) -> bool {
        self.relay.caller.forced_refreshes.as_ref().is_none_or(|bucket| bucket.reserve(Instant::now()).is_ok())
    }

    /// The fields that go with a call. Whether something that is known has changed is asked of the whole.
    fn fields(&self, is_known: bool) -> HeaderMap {
        let mut fields = self.relay.call.headers.clone();
        if is_known {
            without_parts(&mut fields);
        }
        fields
    }

    fn join(&self, is_known: bool) -> Role {
        let topic = Topic::new(&self.relay.call.key, &self.fields(is_known));
        let payer = &self.relay.call.payer.name;
        self.http.meetings.join(topic, payer, |key, began| self.http.responses.outdated_since(key, began))
    }

    /// Calls or waits, with one of the consumer's places. It is taken before the meeting begins, as those who come to a meeting whose
    /// first has no place would wait for that too.
    async fn miss(self, forward: Forward, mut known: Option<Arc<Stored>>) -> Result<Relayed, Problem> {
        let (place, waited) = self.relay.caller.place(self.relay.call.deadline).await?;
        if waited {
            // Those who had the places before may have brought it, or may have failed to.
            match self.look(Instant::now()) {
                Ok(Look::Answer(stored, Served::Stale(Why::Revalidating))) => known = Some(stored),
                Ok(Look::Answer(stored, served)) => {
                    return Ok(from_store(&stored, &self.relay.asked, served, Instant::now()));
                }
                Ok(Look::Ask(_, newer)) => known = newer,
                Err(_) => {}
            }
        }
        if self.relay.wants.no_store {
            return self.fetch(None, forward, known, place).await;
        }
        self.meet(forward, known, place).await
    }

    /// Calls, or waits for what somebody else's call brings.
    async fn meet(self, forward: Forward, known: Option<Arc<Stored>>, place: Place) -> Result<Relayed, Problem> {
        loop {
            let (mut result, payer) = match self.join(known.is_some()) {
                Role::First(first) => {
                    // Whoever missed just before another call landed comes here just after it.
                    return match self.look(Instant::now()) {
                        Ok(Look::Answer(stored, served @ Served::Hit)) => {
                            first.end(meeting::Result::Shared(stored.clone()));
                            Ok(from_store(&stored, &self.relay.asked, served, Instant::now()))
                        }
                        _ => self.fetch(Some(first), forward, known, place).await,
                    };
                }
                Role::Waiting(result, payer) => (result, payer),
            };
            let ended = timeout_at(self.relay.call.deadline, result.wait_for(Option::is_some)).await;
            let Ok(ended) = ended.map(|ended| ended.map(|result| result.clone())) else { return self.late(known) };
            return match ended {
                // The one who called has gone without a word.
                Err(_) | Ok(None) => continue,
                Ok(Some(meeting::Result::Shared(stored))) => {
                    Ok(from_store(&stored, &self.relay.asked, Served::Collapsed { forward }, Instant::now()))
                }
                Ok(Some(meeting::Result::StandIn(stored))) => Ok(self.instead(&stored)),
                Ok(Some(meeting::Result::Apart)) => self.fetch(None, forward, known, place).await,
                // Who pays for the call is held back, which says nothing about one of our own.
                Ok(Some(meeting::Result::Failed(problem)))
                    if problem.is_of_the_payer() && payer != self.relay.call.payer.name =>
                {
                    continue;
                }
                Ok(Some(meeting::Result::Failed(problem))) => Err(problem),
            };
        }
    }

    /// What stands in for an upstream that fails.
    fn instead(&self, known: &Stored) -> Relayed {
        from_store(known, &self.relay.asked, Served::Stale(Why::UpstreamError), Instant::now())
    }

    /// What the caller gets whose time is up.
    fn late(&self, known: Option<Arc<Stored>>) -> Result<Relayed, Problem> {
        let known = known.filter(|known| known.stands_in(Instant::now())).ok_or(Problem::UpstreamTimeout)?;
        Ok(self.instead(&known))
    }

    fn fetching(&self, known: Option<Arc<Stored>>, place: Option<Place>) -> Fetching<S> {
        let Relay { call, wants, policy, .. } = &self.relay;
        let mut call = call.with(Method::GET, self.fields(known.is_some()));
        if !wants.no_store {
            // Those who wait for it may have more time than the first, who may have waited for a place before.
            let upstream = &call.target.upstream;
            call.deadline = Instant::now() + upstream.budget.max_wait + upstream.client.timeout;
        }
        Fetching {
            inner: self.inner.clone(),
            responses: self.http.responses.clone(),
            call,
            place,
            known,
            no_store: wants.no_store,
            most: policy.max_page_bytes,
        }
    }

    /// Calls, in a task of its own, so that a caller who leaves takes nothing from those who wait; tells `first`'s meeting.
    async fn fetch(
        self,
        first: Option<meeting::First>,
        forward: Forward,
        known: Option<Arc<Stored>>,
        place: Place,
    ) -> Result<Relayed, Problem> {
        let task = tokio::spawn(self.fetching(known.clone(), Some(place)).fetch(first));
        let Ok(brought) = timeout_at(self.relay.call.deadline, task).await else { return self.late(known) };
        let brought = brought.unwrap_or(Err(Problem::UpstreamFailed(Cause::Died)))?;
        let asked = &self.relay.asked;
        match brought {
            Brought::Stored { stored, status, kept, own, .. } => {
                let served = Served::Fetched { forward, status, stored: kept };
                let mut relayed = from_store(&stored, asked, served, Instant::now());
                relayed.headers.extend(own);
                Ok(relayed)
            }
            Brought::StandIn(known) => Ok(self.instead(&known)),
            Brought::Passing(response) => {
                let relayed = fetch::relayed(response, forward);
                Ok(unless_known(relayed, asked))
            }
        }
    }

    /// Fetches what `stored` has become, for those who will ask.
    fn refresh(&self, stored: &Arc<Stored>) {
        if let Role::First(first) = self.join(true) {
            let mut fetching = self.fetching(Some(stored.clone()), None);
            fetching.call.reason = Reason::Refresh;
            tokio::spawn(fetching.fetch(Some(first)));
        }
    }
}
