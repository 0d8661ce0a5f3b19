//! The operators' side: is it alive, is it ready, what is in the cache and out with it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tower::Service;

use super::observer::{Observer, Snapshot};
use super::parameters::Parameters;
use super::view::View;
use super::{events, guard, page, reloaded};
use crate::config::changes::Changes;
use crate::config::fault::Faults;
use crate::config::secret::Secret;
use crate::domain::arrival::Arrived;
use crate::domain::body::ReplyBody;
use crate::domain::bucket::Rate;
use crate::domain::peer::{Asker, Peer};
use crate::domain::problem::{Objection, Problem, whole_seconds};
use crate::domain::request_id::{self, X_REQUEST_ID};
use crate::door::audit::KeyRefusal;
use crate::door::identify;
use crate::door::strangers::Strangers;
use crate::metrics::exposition;

/// What operators can see and do.
pub trait Operations: Clone + Send + Sync + 'static {
    /// Why no consumer should be sent here now; empty when all is well.
    fn not_ready(&self) -> Vec<&'static str>;

    /// What an operator must show as `Authorization: Bearer TOKEN`, except for health.
    fn token(&self) -> Option<Secret>;

    /// Reads the configuration again, as `operator` asks; waits for files.
    fn reload(&self, operator: &Asker) -> Result<Changes, Faults>;

    /// Purges the pages of one account, or all if none is named, as `operator` asks; says how many there were, or `None` if nobody
    /// is called that.
    fn purge(&self, account: Option<&str>, hard: bool, operator: &Asker) -> Option<usize>;

    /// Takes note of somebody who has not shown the token.
    fn refused(&self, reason: KeyRefusal, asker: Asker);

    /// What the cache holds for a question; `None` if there is no such account or category. An account is meant by its name, or by
    /// what the state calls one that has none.
    fn explain(&self, account: &str, category: &str, query: &str) -> Option<Value>;

    /// Who looks for all who watch.
    fn observer(&self) -> &Arc<Observer>;

    /// How things are. It walks over all pages, so it has no place on a thread that serves.
    fn look(&self) -> Arc<Snapshot>;

    /// All metrics, as Prometheus reads them.
    fn metrics(&self) -> String;
}

/// The service of the admin listener.
#[derive(Clone)]
pub struct Admin<O> {
    operations: O,
    strangers: Arc<Strangers>,
}

/// How often a minute one address may come without the right token: more often than people mistype it and pages ask without it, and
/// too seldom to guess it.
const TRIES: u32 = 60;

/// What is asked, once its path and method have been understood.
enum Question {
    Live,
    Ready,
    Page,
    State,
    Events,
    Metrics,
    Purge { account: Option<String> },
    Reload,
    Explain,
}

impl Question {
    /// The parameters that it takes. Health, metrics and files take none and do not mind any: whoever asks for them has habits.
    fn parameters(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::Live | Self::Ready | Self::Page | Self::Metrics => None,
            Self::State => Some(&["filter", "sort", "order", "offset", "limit", "history"]),
            Self::Events => Some(&["filter", "sort", "order", "offset", "limit"]),
            Self::Purge { .. } => Some(&["hard"]),
            Self::Explain => Some(&["account", "category", "query"]),
            Self::Reload => Some(&[]),
        }
    }
}

const PAGES: &str = "there are GET / for people, GET /livez, GET /readyz, GET /metrics, GET /api/state, GET /api/events, \
                     GET /api/explain?account=NAME&category=NAME&query=QUERY, POST /api/reload, \
                     DELETE /api/cache and DELETE /api/cache/accounts/NAME";

impl<O: Operations> Admin<O> {
    /// Answers for `operations`, to those who have its token if there is one.
    pub fn new(operations: O) -> Self {
        let tries = Rate::new(TRIES, Duration::from_secs(60));
        Self { operations, strangers: Arc::new(Strangers::new(tries, None, Instant::now())) }
    }

    async fn answer(&self, request: Request<()>, peer: Option<Peer>) -> Response<ReplyBody> {
        let id = request_id::name(request.headers().get(X_REQUEST_ID), Instant::now());
        let asker = Asker { peer, id: Some(id) };
        let mut response = self.answer_of(&request, &asker).await;
        if *request.method() == Method::HEAD {
            leave_out_body(&mut response);
        }
        response.headers_mut().extend(asker.id.map(|id| (X_REQUEST_ID, id)));
        response
    }

    async fn answer_of(&self, request: &Request<()>, asker: &Asker) -> Response<ReplyBody> {
        if let Some(Objection(problem)) = request.extensions().get() {
            let row = problem.row();
            return reply(row.status, &json!({ "error": row.detail }));
        }
        let uri = request.uri();
        let question = match ask(request.method(), uri.path()) {
            Ok(question) => question,
            Err(refusal) => return *refusal,
        };
        if let Some(refusal) = self.refuse(&question, request, asker) {
            return refusal;
        }
        self.tell(question, uri, asker).await.unwrap_or_else(|wrong| wrong_query(&wrong))
    }

    /// The answer to `question`; the text says what is wrong with its query.
    async fn tell(&self, question: Question, uri: &Uri, asker: &Asker) -> Result<Response<ReplyBody>, String> {
        let parameters = match question.parameters() {
            Some(known) => Parameters::read(uri.query().unwrap_or_default(), known)?,
            None => Parameters::default(),
        };
        Ok(match question {
            Question::Live => reply(StatusCode::OK, &json!({"alive": true})),
            Question::Ready => {
                let reasons = self.operations.not_ready();
                let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                reply(status, &json!({"ready": reasons.is_empty(), "reasons": reasons}))
            }
            Question::Page => page::file(uri.path()).unwrap_or_else(no_such_page),
            Question::State => self.state(&parameters).await?,
            Question::Events => self.events(&parameters).await?,
            Question::Metrics => self.metrics().await,
            Question::Purge { account } => {
                let hard = parameters.flag("hard")?;
                match self.purge(account, hard, asker.clone()).await {
                    Some(pages) => reply(StatusCode::OK, &json!({"purged": pages, "hard": hard})),
                    None => reply(StatusCode::NOT_FOUND, &json!({"error": "no account has this name"})),
                }
            }
            Question::Explain => self.explain(&parameters).await?,
            Question::Reload => self.reload(asker.clone()).await,
        })
    }

    /// Why this request is not answered, if it is not.
    fn refuse(&self, question: &Question, request: &Request<()>, asker: &Asker) -> Option<Response<ReplyBody>> {
        // Health is for load balancers, which hold no secrets and call us what they like.
        if matches!(question, Question::Live | Question::Ready) {
            return None;
        }
        if self.operations.token().is_none() && !guard::is_own_name(request) {
            return Some(reply(StatusCode::MISDIRECTED_REQUEST, &json!({"error": guard::OTHER_NAME})));
        }
        // The page itself holds nothing, and asks for the token; a link to it may stand anywhere.
        if matches!(question, Question::Page) {
            return None;
        }
        if !guard::is_same_site(request) {
            return Some(reply(StatusCode::FORBIDDEN, &json!({"error": guard::OTHER_SITE})));
        }
        self.refuse_stranger(request.headers(), asker)
    }

    /// Refuses whoever has not shown the token; and after too many tries whatever is shown, unless it has been right before.
    fn refuse_stranger(&self, headers: &HeaderMap, asker: &Asker) -> Option<Response<ReplyBody>> {
        let token = self.operations.token()?;
        let (origin, now) = (asker.peer.as_ref().and_then(Peer::origin), Instant::now());
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let shown = match (lines.next(), lines.next()) {
            (Some(line), None) => identify::shown(line.as_bytes()),
            _ => None,
        };
        if let Err(problem) = self.strangers.check(origin, shown, now) {
            return Some(unwelcome(&problem));
        }
        let reason = match shown {
            Some(shown) if bool::from(shown.ct_eq(token.expose().as_bytes())) => {
                self.strangers.prove(shown);
                return None;
            }
            Some(_) => KeyRefusal::Unknown,
            None => KeyRefusal::Missing,
        };
        self.operations.refused(reason, asker.clone());
        Some(unwelcome(&self.strangers.refuse(origin, now)))
    }

    async fn state(&self, parameters: &Parameters) -> Result<Response<ReplyBody>, String> {
        let (view, history) = (View::read(parameters)?, parameters.flag("history")?);
        let Some(snapshot) = self.look().await else { return Ok(broken()) };
        let mut state = view.of(&snapshot);
        if history {
            state.history = Some(self.operations.observer().history());
        }
        Ok(reply(StatusCode::OK, &json!(state)))
    }

    async fn events(&self, parameters: &Parameters) -> Result<Response<ReplyBody>, String> {
        let (view, operations) = (View::read(parameters)?, self.operations.clone());
        let known = operations.token();
        let is_welcome = move || operations.token().as_ref().map(Secret::expose) == known.as_ref().map(Secret::expose);
        let Some(snapshot) = self.look().await else { return Ok(broken()) };
        let frames = events::stream(self.operations.observer().clone(), view, snapshot, is_welcome);
        let mut response = Response::new(frames);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // A proxy in between that buffers would show the past.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        Ok(response)
    }

    async fn reload(&self, operator: Asker) -> Response<ReplyBody> {
        let operations = self.operations.clone();
        // It reads files; whoever serves must not wait for them.
        let result = tokio::task::spawn_blocking(move || operations.reload(&operator)).await;
        result.map_or_else(|_panic| broken(), |result| reloaded::reply(&result))
    }

    /// It looks at every account; whoever serves must not wait for that.
    async fn metrics(&self) -> Response<ReplyBody> {
        let operations = self.operations.clone();
        let text = tokio::task::spawn_blocking(move || operations.metrics()).await;
        let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
        text.map_or_else(|_panic| broken(), |text| plain(StatusCode::OK, kind, text))
    }

    async fn look(&self) -> Option<Arc<Snapshot>> {
        let operations = self.operations.clone();
        tokio::task::spawn_blocking(move || operations.look()).await.ok()
    }

    /// It walks over all pages; whoever serves must not wait for that.
    async fn purge(&self, account: Option<String>, hard: bool, operator: Asker) -> Option<usize> {
        let operations = self.operations.clone();
        let purge = move || operations.purge(account.as_deref(), hard, &operator);
        tokio::task::spawn_blocking(purge).await.ok().flatten()
    }

    async fn explain(&self, parameters: &Parameters) -> Result<Response<ReplyBody>, String> {
        let value = |name| parameters.get(name).map(str::to_owned);
        let (Some(account), Some(category), asked) = (value("account"), value("category"), value("query")) else {
            return Err("Say account=NAME and category=NAME.".into());
        };
        let operations = self.operations.clone();
        let explain = move || operations.explain(&account, &category, asked.as_deref().unwrap_or_default());
        // An account without a name is looked for among all pages.
        let explained = tokio::task::spawn_blocking(explain).await.ok().flatten();
        Ok(explained.map_or_else(
            || reply(StatusCode::NOT_FOUND, &json!({"error": "no account has this name, or no route this category"})),
            |explanation| reply(StatusCode::OK, &explanation),
        ))
    }
}

/// The answer to a request that has not shown the token.
fn unwelcome(problem: &Problem) -> Response<ReplyBody> {
    if let Problem::TooManyStrangers { retry_after } = problem {
        let mut refused =
            reply(StatusCode::TOO_MANY_REQUESTS, &json!({"error": "too many wrong tokens; try again later"}));
        refused.headers_mut().insert(RETRY_AFTER, whole_seconds(*retry_after).into());
        return refused;
    }
    let mut refused = reply(StatusCode::UNAUTHORIZED, &json!({"error": "send 'Authorization: Bearer TOKEN'"}));
    refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refused
}

/// Path and method to question.
fn ask(method: &Method, path: &str) -> Result<Question, Box<Response<ReplyBody>>> {
    const READ: &[Method] = &[Method::GET, Method::HEAD];
    let (methods, question) = match path {
        "/livez" => (READ, Question::Live),
        "/readyz" => (READ, Question::Ready),
        "/" | "/status.css" | "/status.js" | "/icon.svg" => (READ, Question::Page),
        "/api/state" => (READ, Question::State),
        "/api/events" => (READ, Question::Events),
        "/metrics" => (READ, Question::Metrics),
        "/api/explain" => (READ, Question::Explain),
        "/api/reload" => (&[Method::POST][..], Question::Reload),
        "/api/cache" => (&[Method::DELETE][..], Question::Purge { account: None }),
        _ => match path.strip_prefix("/api/cache/accounts/").filter(|name| !name.is_empty() && !name.contains('/')) {
            Some(name) => {
                let account = Some(percent_decode_str(name).decode_utf8_lossy().into_owned());
                (&[Method::DELETE][..], Question::Purge { account })
            }
            None => return Err(Box::new(no_such_page())),
        },
    };
    if methods.contains(method) {
        return Ok(question);
    }
    let allow = match methods {
        [Method::POST] => "POST",
        [Method::DELETE] => "DELETE",
        _ => "GET, HEAD",
    };
    let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": format!("use {allow}")}));
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    Err(Box::new(refused))
}

/// What is left for HEAD: HTTP/2 would send the body, which its peers take for an error, and a stream would begin for nobody.
fn leave_out_body(response: &mut Response<ReplyBody>) {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    drop(response.body_mut().take());
}

/// The query is not one that is understood.
fn wrong_query(detail: &str) -> Response<ReplyBody> {
    reply(StatusCode::BAD_REQUEST, &json!({ "error": detail }))
}

fn no_such_page() -> Response<ReplyBody> {
    reply(StatusCode::NOT_FOUND, &json!({ "error": PAGES }))
}

/// Looking has failed, which is a fault of this program.
fn broken() -> Response<ReplyBody> {
    reply(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": "the state cannot be told; the log says why"}))
}

pub(super) fn reply(status: StatusCode, body: &Value) -> Response<ReplyBody> {
    plain(status, HeaderValue::from_static("application/json"), format!("{body}\n"))
}

fn plain(status: StatusCode, content_type: HeaderValue, body: String) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl<O: Operations, B> Service<Request<Arrived<B>>> for Admin<O> {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Arrived<B>>) -> Self::Future {
        let (admin, peer) = (self.clone(), request.body().peer().cloned());
        let request = request.map(drop);
        Box::pin(async move { Ok(admin.answer(request, peer).await) })
    }
}
