//! What has been found wrong in one file so far, said once for each key.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{Fault, Faults, Warning};
use super::item::{Item, Place};
use super::secret::{Environment, Secret, SecretSource, Surroundings};
use super::source::Source;
use crate::domain::access::Name;

/// Faults and warnings of one file, and what else was read for it.
pub(super) struct Findings<'a> {
    source: &'a Source<'a>,
    around: Surroundings<'a>,
    faults: Vec<(Place, Fault)>,
    warnings: Vec<(Place, Fault)>,
    /// Where secrets stand in the file itself.
    plain: Vec<Place>,
    files: Vec<PathBuf>,
}

impl<'a> Findings<'a> {
    /// Starts with the mistakes of shape that `source` had.
    pub(super) fn new(source: &'a Source<'a>, mistakes: Vec<(Place, Fault)>, around: Surroundings<'a>) -> Self {
        Self { source, around, faults: mistakes, warnings: Vec::new(), plain: Vec::new(), files: Vec::new() }
    }

    /// Reads the secret that `source` names.
    pub(super) fn secret(&mut self, source: &Item<SecretSource>) -> Option<Secret> {
        match &**source {
            SecretSource::File(path) => drop(self.file(path)),
            SecretSource::Plain(_) => self.plain.push(source.place().clone()),
            SecretSource::Env(_) => {}
        }
        self.around.read(source).map_err(|message| self.fault(source.place(), message)).ok()
    }

    /// The full path of a file that the configuration refers to.
    pub(super) fn file(&mut self, path: &Path) -> PathBuf {
        let path = self.around.folder.join(path);
        self.files.push(path.clone());
        path
    }

    /// What stands at `place` is wrong.
    pub(super) fn fault(&mut self, place: &Place, message: impl Into<String>) {
        self.add(place, self.source.fault(place, message));
    }

    /// What stands at `place` is wrong, and is no one's business.
    pub(super) fn fault_unquoted(&mut self, place: &Place, message: impl Into<String>) {
        self.add(place, Fault { written: None, ..self.source.fault(place, message) });
    }

    /// The table at `place` lacks `key`; `advice` says what belongs there.
    pub(super) fn missing(&mut self, place: &Place, key: &str, advice: &str) {
        self.instead(place, key, format!("is missing: {advice}"));
    }

    /// The table at `place` does not say `key`, and what counts in its place is wrong.
    pub(super) fn instead(&mut self, place: &Place, key: &str, message: String) {
        let table = self.source.fault(place, message);
        self.add(place, Fault { key: format!("{}.{key}", table.key), written: None, ..table });
    }

    /// Looks a variable of the environment up.
    pub(super) fn env(&self) -> Environment<'a> {
        self.around.env
    }

    /// The file lacks the top-level `key`, or has nothing in it.
    pub(super) fn missing_table(&mut self, key: &str, advice: &str) {
        let place = self.source.place_of(key);
        let fault = self.source.fault(&place, format!("is missing: {advice}"));
        self.add(&place, Fault { key: key.into(), written: None, ..fault });
    }

    /// The name of the table at `place`, which no other of its kind may have.
    pub(super) fn name(&mut self, place: &Place, name: Option<&Item<Name>>, taken: &mut HashSet<Name>) -> Option<Name> {
        match name {
            None => self.missing(place, "name", "1 to 64 letters, digits, dots, dashes or underscores"),
            Some(name) if !taken.insert(Name::clone(name)) => self.fault(name.place(), "this name is given twice"),
            Some(name) => return Some(Name::clone(name)),
        }
        None
    }

    /// What stands at `place` is allowed and not wise.
    pub(super) fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push((place.clone(), self.source.fault(place, message)));
    }

    /// Whether something under `key` is known to be wrong, so that what seems to follow from it is left unsaid.
    pub(super) fn touch(&self, key: &str) -> bool {
        self.faults.iter().any(|(_, fault)| fault.key.starts_with(key))
    }

    /// Whether `table` or a whole entry of it was so wrong that it is not there any more.
    pub(super) fn lost(&self, table: &str) -> bool {
        let entries = self.faults.iter().filter_map(|(_, fault)| fault.key.strip_prefix(table));
        entries.map(|entry| entry.trim_start_matches(['.', '['])).any(|entry| !entry.contains('.'))
    }

    /// The duration, which must not be zero.
    pub(super) fn positive(&mut self, item: &Item<Duration>) -> Duration {
        if item.is_zero() {
            self.fault(item.place(), "must be longer than zero");
        }
        **item
    }

    /// Whether nothing is wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// All faults, in the order of the file.
    pub(super) fn into_faults(mut self) -> Faults {
        self.faults.sort_by_key(|(place, _)| place.start);
        Faults { faults: self.faults.into_iter().map(|(_, fault)| fault).collect(), files: self.files }
    }

    /// All warnings in the order of the file, and the other files that were read.
    pub(super) fn into_warnings(mut self) -> (Vec<Warning>, Vec<PathBuf>) {
        self.warn_of_plain_secrets();
        self.warnings.sort_by_key(|(place, _)| place.start);
        (self.warnings.into_iter().map(|(_, fault)| Warning(fault)).collect(), self.files)
    }

    /// One warning for all secrets that stand in the file: it is one habit, however many accounts there are.
    fn warn_of_plain_secrets(&mut self) {
        self.plain.sort_by_key(|place| place.start);
        let keys: Vec<String> = self.plain.iter().map(|place| self.source.fault(place, "").key).collect();
        let Some(first) = self.plain.first() else { return };
        let what = if keys.len() == 1 { "a secret stands" } else { "secrets stand" };
        let fault = self.source.fault(first, format!("{what} in the file; use {{ env }} or {{ file }}"));
        self.warnings.push((first.clone(), Fault { key: listed(&keys), written: None, ..fault }));
    }

    /// Keeps the first fault of a key: a value that was cut out would be called missing as well, a list whose entries were
    /// cut out would be called empty.
    fn add(&mut self, place: &Place, fault: Fault) {
        let same =
            |known: &str| known.strip_prefix(&fault.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        if fault.key.is_empty() || !self.faults.iter().any(|(_, known)| same(&known.key)) {
            self.faults.push((place.clone(), fault));
        }
    }
}

/// All of `keys` if they are few, else the first and how many more.
fn listed(keys: &[String]) -> String {
    match keys {
        [] => String::new(),
        [key] => key.clone(),
        [some @ .., last] if keys.len() <= 4 => format!("{} and {last}", some.join(", ")),
        _ => format!("{} and {} more", keys[..3].join(", "), keys.len() - 3),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::super::sample::warnings;

    #[test]
    fn all_secrets_that_stand_in_the_file_are_one_warning() {
        let told = |count: usize| {
            let mut text = String::new();
            for at in 0..count {
                write!(text, "[[accounts]]\nname = 'a{at}'\ntoken = 'canary-{at}'\n").expect("memory takes it");
            }
            warnings(&text)
        };
        assert_eq!(told(0), [""; 0]);
        let one = "proxy.toml:3:9  accounts[0].token: a secret stands in the file; use { env } or { file }";
        assert_eq!(told(1), [one]);
        let some =
            |keys: &str| [format!("proxy.toml:3:9  {keys}: secrets stand in the file; use {{ env }} or {{ file }}")];
        assert_eq!(told(3), some("accounts[0].token, accounts[1].token and accounts[2].token"));
        assert_eq!(told(21), some("accounts[0].token, accounts[1].token, accounts[2].token and 18 more"));
    }
}
