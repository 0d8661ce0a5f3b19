//! One run of an account, and what a model does in it: it waits its turn, syncs for a while and ends well or badly.

use std::time::{Duration, SystemTime};

use super::dice::roll;
use super::models::{Fate, Reason, Status};

/// One sync of the whole account.
pub(crate) struct Run {
    pub(crate) start: SystemTime,
    /// When the next one began; what had not ended by then never did.
    pub(crate) until: Option<SystemTime>,
    /// `None`: it lasts until somebody ends it.
    pub(crate) length: Option<Duration>,
    pub(crate) seed: u64,
}

/// What one model does in one run.
pub(crate) struct Part {
    begin: SystemTime,
    end: Option<SystemTime>,
    pub(crate) result: Status,
    throttled: bool,
}

impl Run {
    /// The part of the model in this place. It waits half of `turn` at most, and `ended` lists what was ended by hand.
    pub(crate) fn part(&self, fate: Fate, place: u64, turn: Duration, ended: &[(SystemTime, Status)]) -> Part {
        let dice = |question| roll(roll(self.seed, place), question) % 100;
        let result = match (fate, dice(0)) {
            (Fate::Failing, _) | (Fate::Usual, 0..4) => Status::Failed,
            (Fate::Partial, _) | (Fate::Usual, 4..14) => Status::PartiallySynced,
            _ => Status::Done,
        };
        let begin = self.start + percent(turn, dice(1) / 2);
        let end = self.length.map(|length| begin + percent(length, 50 + dice(2)));
        let by_hand = ended.iter().find(|(at, _)| *at >= self.start && end.is_none_or(|end| *at < end));
        match by_hand {
            Some((at, result)) => Part { begin: begin.min(*at), end: Some(*at), result: *result, throttled: false },
            None => Part { begin, end, result, throttled: dice(3) < 20 },
        }
    }

    /// When a part of this run came to its end, if it has by `now` and no later run cut it off.
    pub(crate) fn finished(&self, part: &Part, now: SystemTime) -> Option<SystemTime> {
        part.end.filter(|end| *end <= now && self.until.is_none_or(|until| *end <= until))
    }
}

impl Part {
    /// Why nothing moves although it is syncing: not its turn yet, or in the middle third of a throttled run.
    pub(crate) fn reason(&self, now: SystemTime) -> Option<Reason> {
        if now < self.begin {
            return Some(Reason::WaitingOnOtherModels);
        }
        let third = self.end?.duration_since(self.begin).ok()? / 3;
        let middle = self.begin + third..self.begin + third * 2;
        (self.throttled && middle.contains(&now)).then_some(Reason::RateLimited)
    }
}

/// So many hundredths of a duration.
fn percent(duration: Duration, hundredths: u64) -> Duration {
    duration * u32::try_from(hundredths).expect("a sum of dice is small") / 100
}
