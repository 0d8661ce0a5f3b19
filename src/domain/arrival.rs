//! How a request has come in: over which connection, when, and whether the same has been said before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::ask::Question;
use super::gist::Gist;
use super::heads::{Heads, Row, Said, Words};
use super::page::FreshPage;
use super::peer::Peer;

/// A connection as its requests know it.
#[derive(Debug)]
pub struct Conversation {
    peer: Peer,
    /// What has been said over all connections; `None` where repetitions are not recognised.
    heads: Option<Heads>,
}

impl Conversation {
    /// A connection of `peer`.
    pub fn new(peer: Peer, heads: Option<Heads>) -> Self {
        Self { peer, heads }
    }

    /// What `head` says, which has come whole and by itself; `row` is that of this connection.
    pub fn hear(&self, row: &mut Row, head: &[u8]) -> Said {
        self.heads.as_ref().map(|heads| row.hear(heads, &self.peer, head)).unwrap_or_default()
    }

    /// The gist of the head that asks `question`, and the page, if it can be answered by heart `now`: it was admitted by the rules that
    /// are in force, and the page that was found for it before is still stored and fresh.
    pub fn recall<'a>(&self, question: &'a Question, now: Instant) -> Option<(&'a Gist, FreshPage)> {
        let again = question.again.as_ref()?;
        let gist = again.gist.as_ref()?;
        self.heads.as_ref().filter(|heads| heads.is_in_force(question))?;
        Some((gist, again.fresh_page(now)?))
    }

    /// What `words` say on a connection of HTTP/2, where requests come side by side and not in a row.
    pub fn hear_apart(&self, words: &[u8]) -> Said {
        self.heads.as_ref().map(|heads| heads.hear(&self.peer, words)).unwrap_or_default()
    }
}

pin_project! {
    /// A request's body together with how the request has come. It goes with the body, since extensions would have to be allocated for
    /// each request.
    #[derive(Debug)]
    pub struct Arrived<B> {
        #[pin]
        body: B,
        over: Option<Arc<Conversation>>,
        at: Instant,
        said: Said,
    }
}

impl<B> Arrived<B> {
    /// Over a connection, at this moment, with a head that says this.
    pub fn over(conversation: Arc<Conversation>, at: Instant, said: Said, body: B) -> Self {
        Self { body, over: Some(conversation), at, said }
    }

    /// From within this process, now; on behalf of `peer`, if there is one.
    pub fn within(peer: Option<Peer>, body: B) -> Self {
        Self {
            body,
            over: peer.map(|peer| Arc::new(Conversation::new(peer, None))),
            at: Instant::now(),
            said: Said::Once,
        }
    }

    /// Who sent it; `None` if it came over no connection.
    pub fn peer(&self) -> Option<&Peer> {
        Some(&self.over.as_deref()?.peer)
    }

    /// When its head was there: the moment as of which it is answered.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// The path that was asked for, if the request was recalled and so has no target; any other has its own.
    pub fn recalled_path(&self) -> Option<&str> {
        match &self.said {
            Said::Recalled(question, _) => question.again.as_ref()?.gist.as_ref().map(Gist::path),
            _ => None,
        }
    }

    /// Takes out what it asks, if its very words were admitted before by this edition of the rules, and with it the page if it was
    /// recalled. Both are moved, so that no reference count has to change.
    pub fn take_question(&mut self, edition: u64) -> Option<(Arc<Question>, Option<FreshPage>)> {
        match std::mem::take(&mut self.said) {
            Said::Known(question) if question.edition == edition => Some((question, None)),
            // By the rules that were in force when it came, a moment ago.
            Said::Recalled(question, page) => Some((question, Some(page))),
            other => {
                self.said = other;
                None
            }
        }
    }

    /// Its words, if they may come again.
    pub fn words(&self) -> Option<Words> {
        match &self.said {
            Said::Once => None,
            Said::Twice(words) => Some((**words).clone()),
            Said::Known(question) | Said::Recalled(question, _) => Some(question.again.as_ref()?.words.clone()),
        }
    }

    /// Whoever says the same from now on asks this.
    pub fn remember(&self, question: &Arc<Question>) {
        if let Some(heads) = self.over.as_ref().and_then(|over| over.heads.as_ref()) {
            heads.remember(question);
        }
    }
}

impl<B: Body> Body for Arrived<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
