//! The text of the file and its tree: reads the schema from it with every mistake of shape at once, and names any place in it.
//!
//! Serde stops at the first mistake. So the entry that it stumbled over is cut out of a copy of the tree, and what is left is
//! read again, until nothing is wrong with the shape.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::fault::Fault;
use super::item::{NOWHERE, Place};
use super::schema::File;

/// One file, parsed as TOML.
pub(super) struct Source<'t> {
    origin: Arc<Path>,
    text: &'t str,
    tree: Spanned<DeTable<'t>>,
}

/// The keys whose values may hold a secret, be it by mistake, so that no message quotes them.
const PRIVATE: [&str; 8] = ["api_key", "token", "key_sha256", "secret", "url", "base_url", "proxy", "otlp"];

impl<'t> Source<'t> {
    /// Parses `text`; a mistake in the TOML itself is the only one that can be told then.
    pub(super) fn parse(text: &'t str, origin: &Path) -> Result<Self, Fault> {
        let origin: Arc<Path> = origin.into();
        match DeTable::parse(text) {
            Ok(tree) => Ok(Self { origin, text, tree }),
            Err(error) => Err(Fault {
                position: Some(position(text, error.span().unwrap_or(NOWHERE).start)),
                message: format!("this is not TOML: {}", error.message()),
                ..Fault::of_file(&origin, "")
            }),
        }
    }

    /// Reads the schema; `None` if the shape is beyond repair. Each mistake comes with its place.
    pub(super) fn read(&self) -> (Option<File>, Vec<(Place, String)>) {
        let mut tree = self.tree.clone();
        let mut mistakes = Vec::new();
        loop {
            match File::deserialize(Deserializer::from(tree.clone())) {
                Ok(file) => return (Some(file), mistakes),
                Err(error) => {
                    let place = error.span().unwrap_or(NOWHERE);
                    mistakes.push((place.clone(), explain(error.message())));
                    if !cut(tree.get_mut(), &place) {
                        return (None, mistakes);
                    }
                }
            }
        }
    }

    /// The fault that `message` is about what stands at `place`.
    pub(super) fn fault(&self, place: &Place, message: impl Into<String>) -> Fault {
        let fault = Fault::of_file(&self.origin, message);
        let Some((key, is_value)) = find(self.tree.get_ref(), "", place) else { return fault };
        let quoted = is_value && !key.split(['.', '[']).any(|part| PRIVATE.contains(&part));
        let written = self.text.get(place.clone()).filter(|text| quoted && !text.contains('\n') && text.len() <= 80);
        Fault { position: Some(position(self.text, place.start)), key, written: written.map(Into::into), ..fault }
    }
}

/// Line and column of a byte, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// The full key of what stands at `place`, and whether that is a value and neither a key nor a table.
fn find(table: &DeTable<'_>, path: &str, place: &Place) -> Option<(String, bool)> {
    table.iter().find_map(|(key, value)| {
        let dot = if path.is_empty() { "" } else { "." };
        let here = format!("{path}{dot}{}", key.get_ref());
        // What is inside comes first: the place of an array of tables is that of its first table.
        find_value(value, &here, place).or_else(|| (key.span() == *place).then_some((here, false)))
    })
}

fn find_value(value: &Spanned<DeValue<'_>>, here: &str, place: &Place) -> Option<(String, bool)> {
    let inside = match value.get_ref() {
        DeValue::Table(table) => find(table, here, place),
        DeValue::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| find_value(item, &format!("{here}[{index}]"), place))
        }
        _ => None,
    };
    inside.or_else(|| (value.span() == *place).then(|| (here.to_owned(), !value.get_ref().is_table())))
}

/// Removes the entry at `place`, by the same order of search as [`find`]; false if there is none.
fn cut(table: &mut DeTable<'_>, place: &Place) -> bool {
    let mut found = None;
    for (key, value) in &mut *table {
        if cut_inside(value, place) {
            return true;
        }
        if key.span() == *place || value.span() == *place {
            found = Some(key.clone());
        }
    }
    found.is_some_and(|key| table.remove(&key).is_some())
}

fn cut_inside(value: &mut Spanned<DeValue<'_>>, place: &Place) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => cut(table, place),
        DeValue::Array(items) => {
            let count = items.len();
            items.iter_mut().any(|item| cut_inside(item, place)) || {
                *items =
                    std::mem::replace(items, DeArray::new()).into_iter().filter(|item| item.span() != *place).collect();
                items.len() < count
            }
        }
        _ => false,
    }
}

/// Serde's message in the words of this program, without the value that serde quotes.
fn explain(message: &str) -> String {
    if let Some(unknown) = message.strip_prefix("unknown field `") {
        let (key, expected) = unknown.rsplit_once("`, expected ").unwrap_or((unknown, ""));
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return match closest(key, known.iter().copied()) {
            Some(near) => format!("unknown key, did you mean `{near}`?"),
            None => format!("unknown key, the keys here are {}", known.join(", ")),
        };
    }
    let Some((_, expected)) = message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "))
    else {
        return message.into();
    };
    match expected {
        "a sequence" => "must be tables, each under a header in double brackets".into(),
        "a table" | "a map" => "must be one table, under a header in single brackets".into(),
        _ => "is too large a number".into(),
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(word, known);
    let near = known.into_iter().min_by_key(distance)?;
    // A third of the word: `lsten` is a slip, `limit` for `listen` is another word.
    (distance(&near) <= (word.chars().count() / 3).max(1)).then_some(near)
}
