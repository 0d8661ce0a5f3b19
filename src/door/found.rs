//! What has been found out about a request that may pass, and what goes on: an [`Ask`] or a [`Relay`].

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use http::request::Parts;
use http_body::Body;

use super::fields::Fields;
use super::pass_on;
use crate::domain::arrival::Arrived;
use crate::domain::ask::{Again, Ask, Question, deadline};
use crate::domain::body;
use crate::domain::cache_control::Wants;
use crate::domain::caller::Caller;
use crate::domain::exchange::{Policy, Reason, Target};
use crate::domain::follow::Follow;
use crate::domain::gist::Gist;
use crate::domain::key::PageKey;
use crate::domain::peer::Asker;
use crate::domain::relay::{Call, Relay};
use crate::domain::rules::RequestHeaders;
use crate::domain::trace::Trace;

/// See the module.
pub(super) struct Found {
    pub(super) caller: Arc<Caller>,
    pub(super) target: Target,
    pub(super) key: PageKey,
    pub(super) policy: Arc<Policy>,
    pub(super) wants: Wants,
}

impl Found {
    /// A request for a page that all share. Its words are remembered if they will mean the same the next time.
    pub(super) fn ask<B>(self, edition: u64, head: &Parts, fields: &Fields<'_>, body: &Arrived<B>) -> Ask {
        let Self { caller, target, key, policy, wants } = self;
        let words = body.words().filter(|_| is_repeatable(fields, &caller));
        let question = Arc::new(Question {
            quota: caller.quota.clone(),
            edition,
            has_codings: fields.has_codings,
            again: words.map(|words| Again::new(words, Gist::of(head))),
            caller,
            key,
            target,
            query: head.uri.query().map(Arc::from),
            policy,
        });
        if question.again.is_some() {
            body.remember(&question);
        }
        // A page is kept fresh for those who follow it, and who wants no call made causes none.
        let may_follow = fields.may_follow && !wants.only_if_cached;
        let follow = may_follow.then(|| Follow::read(&head.method, &head.headers)).flatten().map(Box::new);
        Ask { question, recalled: None, wants, follow, at: body.at(), trace: traced(&head.extensions) }
    }

    /// A request that passes through as itself, with those of its fields that are `allowed`; `resync` is who spends a sync credit by it.
    pub(super) fn relay<B>(
        self,
        head: Parts,
        body: Arrived<B>,
        allowed: &RequestHeaders,
        resync: Option<Asker>,
    ) -> Relay
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        let Self { caller, target, key, policy, wants } = self;
        let call = Call {
            payer: caller.payer.clone(),
            headers: pass_on::choose(&head.headers, allowed),
            reason: Reason::Miss,
            deadline: deadline(&target, body.at()),
            trace: traced(&head.extensions),
            target,
            key,
            uri: head.uri,
            method: head.method,
            body: body::stream(body),
        };
        Relay { caller, call, asked: head.headers, wants, policy, resync }
    }
}

/// Its place in a distributed trace, if it has one.
pub(super) fn traced(extensions: &Extensions) -> Trace {
    extensions.get::<Trace>().cloned().unwrap_or_default()
}

/// Whether the same words will mean the same until the rules change: they say nothing but what is asked for, and the
/// caller's keys do not expire.
fn is_repeatable(fields: &Fields<'_>, caller: &Caller) -> bool {
    !fields.has_wants && !fields.may_follow && caller.consumer.keys.iter().all(|key| key.expires.is_none())
}
