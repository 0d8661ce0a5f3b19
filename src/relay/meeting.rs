//! Where callers meet who miss the same response at once: the first calls, the others wait for what it brings.
//!
//! They meet by key and by all fields that go upstream with the call, so what one gets is what each of the others would have got.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::stored::Stored;
use super::vary::normal;
use crate::domain::access::Name;
use crate::domain::key::PageKey;
use crate::domain::problem::Problem;

/// All meetings. Cheap to clone; all clones share them.
#[derive(Clone, Default)]
pub struct Meetings(Arc<Mutex<HashMap<Topic, Meeting, RandomState>>>);

/// One meeting.
#[derive(Clone)]
struct Meeting {
    began: Instant,
    /// Whom the call is charged to.
    payer: Name,
    result: Awaited,
}

/// Where the result will be.
pub type Awaited = watch::Receiver<Option<Result>>;

/// What a meeting is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    key: PageKey,
    fields: Vec<(HeaderName, Option<Vec<u8>>)>,
}

/// How a meeting ended.
#[derive(Clone, Debug)]
pub enum Result {
    /// With a response that all may have.
    Shared(Arc<Stored>),
    /// With a failure for which this stands in.
    StandIn(Arc<Stored>),
    /// With one that is for the first alone.
    Apart,
    /// With none.
    Failed(Problem),
}

/// What a caller is at a meeting.
pub enum Role {
    /// The one who calls.
    First(First),
    /// One who waits, for a call that is charged to this consumer.
    Waiting(Awaited, Name),
}

/// The duty to say how it ended; a guard that is dropped without a word ends the meeting too.
pub struct First {
    meetings: Meetings,
    topic: Topic,
    result: watch::Sender<Option<Result>>,
}

impl Topic {
    /// The call for `key` with `headers`.
    pub fn new(key: &PageKey, headers: &HeaderMap) -> Self {
        let mut fields: Vec<_> = headers.keys().map(|name| (name.clone(), normal(headers, name))).collect();
        fields.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        Self { key: key.clone(), fields }
    }
}

impl Meetings {
    /// Comes to the meeting about `topic`; the first who comes has the call charged to `payer`. A meeting whose call began so long ago
    /// that what it brings `is_outdated` is for those who came before, and another begins in its place.
    pub fn join(&self, topic: Topic, payer: &Name, is_outdated: impl FnOnce(&PageKey, Instant) -> bool) -> Role {
        let mut meetings = self.0.lock();
        let place = meetings.entry(topic);
        if let Entry::Occupied(meeting) = &place
            && !is_outdated(&meeting.key().key, meeting.get().began)
        {
            return Role::Waiting(meeting.get().result.clone(), meeting.get().payer.clone());
        }
        let (sender, result) = watch::channel(None);
        let topic = place.key().clone();
        place.insert_entry(Meeting { began: Instant::now(), payer: payer.clone(), result });
        Role::First(First { meetings: self.clone(), topic, result: sender })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl First {
    /// Ends the meeting. What is stored must be stored by now: whoever comes later finds it or begins anew.
    pub fn end(self, result: Result) {
        self.close();
        self.result.send_replace(Some(result));
    }

    /// Nobody comes to this meeting any more. After a purge another may be about the same.
    fn close(&self) {
        let mut meetings = self.meetings.0.lock();
        if meetings.get(&self.topic).is_some_and(|meeting| meeting.result.same_channel(&self.result.subscribe())) {
            meetings.remove(&self.topic);
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.close();
    }
}
