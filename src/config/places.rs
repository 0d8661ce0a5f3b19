//! What stands where in a file: found by its place without a search through the file.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::item::Place;

/// All keys and values of a file. The full key of one is put together when it is asked for: most never are.
pub(super) struct Places<'t> {
    /// Each after what it stands in.
    entries: Vec<Entry<'t>>,
    /// The same in the order of the file; of those in one place the outermost first.
    by_place: Vec<usize>,
}

struct Entry<'t> {
    start: usize,
    end: usize,
    /// What it stands in; `None`: in no other.
    within: Option<usize>,
    part: Part<'t>,
    is_value: bool,
}

/// The last part of a full key.
#[derive(Clone)]
enum Part<'t> {
    Key(Cow<'t, str>),
    Item(usize),
}

impl<'t> Places<'t> {
    pub(super) fn of(table: &DeTable<'t>) -> Self {
        let mut places = Self { entries: Vec::new(), by_place: Vec::new() };
        places.note_table(table, None);
        let entries = &places.entries;
        places.by_place = (0..entries.len()).collect();
        // It is stable, so what came first stays first.
        places.by_place.sort_by_key(|entry| (entries[*entry].start, entries[*entry].end));
        places
    }

    /// The full keys of what stands at `place`, the outermost first, and whether each is a plain value.
    pub(super) fn at(&self, place: &Place) -> impl Iterator<Item = (String, bool)> {
        let begins = |entry: &usize| (self.entries[*entry].start, self.entries[*entry].end);
        let wanted = (place.start, place.end);
        let first = self.by_place.partition_point(|entry| begins(entry) < wanted);
        let here = self.by_place[first..].iter().take_while(move |entry| begins(entry) == wanted);
        here.map(|entry| (self.full_key(*entry), self.entries[*entry].is_value))
    }

    fn full_key(&self, entry: usize) -> String {
        let within = |entry: &usize| self.entries[*entry].within;
        let mut parts: Vec<_> =
            std::iter::successors(Some(entry), within).map(|entry| &self.entries[entry].part).collect();
        parts.reverse();
        let mut key = String::new();
        for part in parts {
            match part {
                Part::Key(name) if key.is_empty() => key.push_str(name),
                Part::Key(name) => key.extend([".", name]),
                Part::Item(index) => key.extend(["[", &index.to_string(), "]"]),
            }
        }
        key
    }

    fn note_table(&mut self, table: &DeTable<'t>, within: Option<usize>) {
        for (key, value) in table {
            let (place, part) = (key.span(), Part::Key(key.get_ref().clone()));
            self.entries.push(Entry {
                start: place.start,
                end: place.end,
                within,
                part: part.clone(),
                is_value: false,
            });
            self.note_value(value, part, within);
        }
    }

    /// Notes a value, and all inside it.
    fn note_value(&mut self, value: &Spanned<DeValue<'t>>, part: Part<'t>, within: Option<usize>) {
        let (place, is_value, entry) = (value.span(), !value.get_ref().is_table(), self.entries.len());
        self.entries.push(Entry { start: place.start, end: place.end, within, part, is_value });
        match value.get_ref() {
            DeValue::Table(table) => self.note_table(table, Some(entry)),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.note_value(item, Part::Item(index), Some(entry));
                }
            }
            _ => {}
        }
    }
}
