//! Lines that are to be written, in a form that is short and quickly made: whoever serves only notes what no other line tells, and says
//! of the rest where it stands already. The thread that writes makes lines of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::MOST;
use super::line::{Entry, Moment};
use crate::domain::ask::Logged;

/// The lines since the last time that they were taken.
///
/// Each is a head of fixed length, the name of the request, and then the text of its [`Entry`], unless that stands further up. A line
/// that is not about a request is a head and its text.
pub(super) struct Pending {
    bytes: Vec<u8>,
    /// How often lines have been taken, plus one: places in what was taken before are places no more.
    turn: u64,
}

/// Instant, duration, place and length of the text, length of the name.
const HEAD: usize = 8 + 8 + 4 + 4 + 1;

/// What stands for the length of the name where the text is a line as it is. Names have at most 128 bytes.
const WHOLE: u8 = u8::MAX;

/// How many bits of a [`Logged`]'s place say where in the bytes; the others say in which turn, and last for centuries.
const PLACE_BITS: u32 = 24;

impl Default for Pending {
    fn default() -> Self {
        Self { bytes: Vec::new(), turn: 1 }
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds a line; false if there is no room for it.
    pub(super) fn add<'a>(
        &mut self,
        moment: &Moment<'_>,
        same: Option<&Logged>,
        entry: impl FnOnce() -> Entry<'a>,
    ) -> bool {
        let Moment { at, microseconds, id } = *moment;
        let id = if id.len() < usize::from(WHOLE) { id } else { &[] };
        let before = self.bytes.len();
        let here = before + HEAD + id.len();
        let known = same.and_then(|same| self.place_of(same));
        let (place, length) = known.unwrap_or((here, 0));
        let mut head = [0; HEAD];
        let (instant, rest) = head.split_at_mut(8);
        instant.copy_from_slice(&u64::try_from(at.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
        let (took, rest) = rest.split_at_mut(8);
        took.copy_from_slice(&microseconds.to_le_bytes());
        rest[..4].copy_from_slice(&number(place).to_le_bytes());
        rest[4..8].copy_from_slice(&number(length).to_le_bytes());
        rest[8] = u8::try_from(id.len()).unwrap_or_default();
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(id);
        if known.is_none() {
            self.add_text(before, here, same, entry);
        }
        let fits = self.bytes.len() <= MOST;
        if !fits {
            self.bytes.truncate(before);
        }
        fits
    }

    /// Adds a line that is written as it is; false if there would be more than `most` bytes with it.
    pub(super) fn add_whole(&mut self, line: &[u8], most: usize) -> bool {
        let here = self.bytes.len() + HEAD;
        if here + line.len() > most {
            return false;
        }
        let mut head = [0; HEAD];
        head[16..20].copy_from_slice(&number(here).to_le_bytes());
        head[20..24].copy_from_slice(&number(line.len()).to_le_bytes());
        head[24] = WHOLE;
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(line);
        true
    }

    /// Where the text of `same` stands, and how long it is.
    fn place_of(&self, same: &Logged) -> Option<(usize, usize)> {
        let place = same.place.load(Ordering::Relaxed);
        let text = same.text.get().filter(|_| place >> PLACE_BITS == self.turn)?;
        Some((usize::try_from(place & ((1 << PLACE_BITS) - 1)).ok()?, text.len()))
    }

    /// Adds the text of the line that begins at `before`; it is to stand `here`.
    #[cold]
    fn add_text<'a>(&mut self, before: usize, here: usize, same: Option<&Logged>, entry: impl FnOnce() -> Entry<'a>) {
        match same {
            Some(same) => self.bytes.extend_from_slice(same.text.get_or_init(|| {
                let mut text = Vec::with_capacity(256);
                entry().format(&mut text);
                text.into()
            })),
            None => entry().format(&mut self.bytes),
        }
        let length = number(self.bytes.len() - here).to_le_bytes();
        self.bytes[before + 20..before + 24].copy_from_slice(&length);
        if self.bytes.len() <= MOST
            && let Some(same) = same
        {
            same.place.store(self.turn << PLACE_BITS | here as u64, Ordering::Relaxed);
        }
    }

    /// Takes all lines, and leaves the memory of `taken` for the next ones.
    pub(super) fn take(&mut self, taken: &mut Vec<u8>) {
        std::mem::swap(&mut self.bytes, taken);
        self.turn += 1;
    }
}

/// A place or a length: nothing here has more than a few megabytes.
fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A line that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line<'a> {
    /// That of a request: when it was, and the text of its entry.
    Request(Moment<'a>, &'a [u8]),
    /// Any other.
    Whole(&'a [u8]),
}

/// The lines in bytes that were [taken](Pending::take).
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (head, rest) = bytes.get(at..)?.split_first_chunk::<HEAD>()?;
        let (instant, head) = head.split_first_chunk::<8>()?;
        let (took, head) = head.split_first_chunk::<8>()?;
        let (place, head) = head.split_first_chunk::<4>()?;
        let (length, head) = head.split_first_chunk::<4>()?;
        let is_whole = head[0] == WHOLE;
        let id = rest.get(..if is_whole { 0 } else { usize::from(head[0]) })?;
        let [place, length] = [place, length].map(|number| u32::from_le_bytes(*number) as usize);
        let here = at + HEAD + id.len();
        at = if place == here { here + length } else { here };
        let moment = Moment {
            at: Duration::from_micros(u64::from_le_bytes(*instant)),
            microseconds: u64::from_le_bytes(*took),
            id,
        };
        let text = bytes.get(place..place + length)?;
        Some(if is_whole { Line::Whole(text) } else { Line::Request(moment, text) })
    })
}

#[cfg(test)]
mod tests {
    use super::super::line::tests::{ENTRY, MOMENT};
    use super::*;
    use proptest::prelude::*;

    fn text(entry: &Entry<'_>) -> Vec<u8> {
        let mut text = Vec::new();
        entry.format(&mut text);
        text
    }

    /// What a line is to say, as plain values.
    fn said(line: Line<'_>) -> (Duration, u64, Vec<u8>, Vec<u8>) {
        match line {
            Line::Request(moment, text) => (moment.at, moment.microseconds, moment.id.to_vec(), text.to_vec()),
            Line::Whole(text) => (Duration::ZERO, 0, Vec::new(), text.to_vec()),
        }
    }

    proptest! {
        /// What is taken out is what was put in, in order, whichever lines share what, and however often lines are taken.
        #[test]
        fn what_comes_out_is_what_went_in(
            steps in proptest::collection::vec((0..5_usize, 0..1_000_u64, "[!-~]{0,128}", 0..8_u8), 1..200),
        ) {
            let paths = ["/a", "/b\"", "/c/d", "/e"];
            let same: [Logged; 3] = Default::default();
            let (mut pending, mut taken) = (Pending::default(), Vec::new());
            let (mut put, mut got) = (Vec::new(), Vec::new());
            for (which, microseconds, id, take) in &steps {
                if let Some(path) = paths.get(*which) {
                    let entry = Entry { path, ..ENTRY };
                    let moment = Moment { microseconds: *microseconds, id: id.as_bytes(), ..MOMENT };
                    prop_assert!(pending.add(&moment, same.get(*which), || entry));
                    put.push((moment.at, *microseconds, id.clone().into_bytes(), text(&entry)));
                } else {
                    prop_assert!(pending.add_whole(id.as_bytes(), MOST));
                    put.push((Duration::ZERO, 0, Vec::new(), id.clone().into_bytes()));
                }
                if *take == 0 {
                    pending.take(&mut taken);
                    got.extend(lines(&taken).map(said));
                    taken.clear();
                }
            }
            pending.take(&mut taken);
            got.extend(lines(&taken).map(said));
            prop_assert_eq!(got, put);
        }
    }

    #[test]
    fn what_many_lines_share_is_kept_once() {
        let (mut pending, same) = (Pending::default(), Logged::default());
        let length = |pending: &mut Pending| {
            let before = pending.bytes.len();
            assert!(pending.add(&MOMENT, Some(&same), || ENTRY));
            pending.bytes.len() - before
        };
        let [first, second] = [length(&mut pending), length(&mut pending)];
        assert_eq!(first - second, text(&ENTRY).len());
        pending.take(&mut Vec::new());
        assert_eq!(length(&mut pending), first, "what has been taken cannot be pointed at");
    }

    #[test]
    fn what_does_not_fit_leaves_nothing_behind() {
        let (mut pending, same) = (Pending::default(), Logged::default());
        while pending.add(&MOMENT, None, || ENTRY) {}
        let full = pending.bytes.len();
        assert!(full <= MOST && !pending.add(&MOMENT, Some(&same), || ENTRY));
        assert_eq!(pending.bytes.len(), full);
        pending.take(&mut Vec::new());
        assert!(pending.add(&MOMENT, Some(&same), || ENTRY));
        assert_eq!(lines(&pending.bytes).map(|line| said(line).3).collect::<Vec<_>>(), [text(&ENTRY)]);
        let left = MOST - pending.bytes.len() - HEAD;
        assert!(!pending.add_whole(&vec![b'-'; left + 1], MOST) && pending.add_whole(&vec![b'-'; left], MOST));
    }
}
