//! The text of the file and its tree: reads the schema from it with every mistake of shape at once, and names any place in it.
//!
//! Serde stops at the first mistake. So the entry that it stumbled over is cut out of a copy of the tree, and what is left is
//! read again, until nothing is wrong with the shape.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::fault::Fault;
use super::item::{NOWHERE, Place};
use super::places::Places;
use super::schema::File;

/// One file, parsed as TOML.
pub(super) struct Source<'t> {
    origin: Arc<Path>,
    text: &'t str,
    tree: Spanned<DeTable<'t>>,
    /// What stands where. A file of thousands of accounts may have as much to be said of it, and a search for each would take seconds.
    places: OnceCell<Places<'t>>,
    /// Where its lines begin.
    lines: OnceCell<Vec<usize>>,
}

/// The keys whose values may hold a secret, be it by mistake, so that no message quotes them.
const PRIVATE: [&str; 8] = ["api_key", "token", "key_sha256", "secret", "url", "base_url", "proxy", "otlp"];

impl<'t> Source<'t> {
    /// Parses `text`; a mistake in the TOML itself is the only one that can be told then.
    pub(super) fn parse(text: &'t str, origin: &Path) -> Result<Self, Fault> {
        let origin: Arc<Path> = origin.into();
        match DeTable::parse(text) {
            Ok(tree) => Ok(Self { origin, text, tree, places: OnceCell::new(), lines: OnceCell::new() }),
            Err(error) => Err(Fault {
                position: Some(position(text, &lines(text), error.span().unwrap_or(NOWHERE).start)),
                message: format!("this is not TOML: {}", explain_value(error.message())),
                ..Fault::of_file(&origin, "")
            }),
        }
    }

    /// Reads the schema; `None` if the shape is beyond repair. Each mistake comes with its place.
    pub(super) fn read(&self) -> (Option<File>, Vec<(Place, Fault)>) {
        let mut tree = self.tree.clone();
        let mut mistakes = Vec::new();
        loop {
            match File::deserialize(Deserializer::from(tree.clone())) {
                Ok(file) => return (Some(file), mistakes),
                Err(error) => {
                    let place = error.span().unwrap_or(NOWHERE);
                    mistakes.push((place.clone(), self.fault_of_shape(&place, error.message())));
                    if !cut(tree.get_mut(), &place) {
                        return (None, mistakes);
                    }
                }
            }
        }
    }

    /// The fault that `message` is about what stands at `place`.
    pub(super) fn fault(&self, place: &Place, message: impl Into<String>) -> Fault {
        self.fault_of(self.places().at(place).last(), place, message)
    }

    /// Where the top-level `key` stands, if the file has it.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.tree.get_ref().get(key).map_or(NOWHERE, Spanned::span)
    }

    /// The fault that serde's `message` is about. A list of tables stands where its first table stands, and here the list is
    /// meant. What stands where a table belongs is not quoted, for nobody knows what it is.
    fn fault_of_shape(&self, place: &Place, message: &str) -> Fault {
        let found = self.places().at(place).next();
        match explain(message) {
            Some(explained) => Fault { written: None, ..self.fault_of(found, place, explained) },
            None => self.fault_of(found, place, message),
        }
    }

    fn places(&self) -> &Places<'t> {
        self.places.get_or_init(|| Places::of(self.tree.get_ref()))
    }

    fn fault_of(&self, found: Option<(String, bool)>, place: &Place, message: impl Into<String>) -> Fault {
        let lines = self.lines.get_or_init(|| lines(self.text));
        let position = Some(position(self.text, lines, place.start));
        let fault = Fault { position, ..Fault::of_file(&self.origin, message) };
        let Some((key, is_value)) = found else { return fault };
        let quoted = is_value && !key.split(['.', '[']).any(|part| PRIVATE.contains(&part));
        let written = self.text.get(place.clone()).filter(|text| quoted && !text.contains('\n') && text.len() <= 80);
        Fault { key, written: written.map(Into::into), ..fault }
    }
}

/// Where the lines of `text` begin.
fn lines(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Line and column of a byte, both from 1, the column in characters. `lines` is where lines begin.
fn position(text: &str, lines: &[usize], offset: usize) -> (usize, usize) {
    let offset = if text.is_char_boundary(offset) { offset } else { text.len() };
    let line = lines.partition_point(|begin| *begin <= offset);
    let begin = lines.get(line - 1).copied().unwrap_or_default();
    (line, text.get(begin..offset).map_or(0, |before| before.chars().count()) + 1)
}

/// Removes the outermost entry at `place`; false if there is none.
fn cut(table: &mut DeTable<'_>, place: &Place) -> bool {
    let at_place = |(key, value): (&Spanned<_>, &Spanned<_>)| key.span() == *place || value.span() == *place;
    if let Some(key) = table.iter().find(|&entry| at_place(entry)).map(|(key, _)| key.clone()) {
        return table.remove(&key).is_some();
    }
    table.iter_mut().any(|(_, value)| cut_inside(value, place))
}

fn cut_inside(value: &mut Spanned<DeValue<'_>>, place: &Place) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => cut(table, place),
        DeValue::Array(items) if items.iter().any(|item| item.span() == *place) => {
            *items =
                std::mem::replace(items, DeArray::new()).into_iter().filter(|item| item.span() != *place).collect();
            true
        }
        DeValue::Array(items) => items.iter_mut().any(|item| cut_inside(item, place)),
        _ => false,
    }
}

/// The parser's message, in the words of this program where it is about a value that is none.
fn explain_value(message: &str) -> String {
    let what = match message.split_once(", expected ").map(|(what, _)| what) {
        Some("unexpected leading zero") => "a number cannot begin with 0",
        Some("string values must be quoted" | "invalid boolean" | "invalid float" | "invalid integer") => {
            "this is neither a number nor `true` or `false`"
        }
        _ => return message.into(),
    };
    format!("{what}; text stands in quotes, as in \"20s\" or \"0660\"")
}

/// Serde's message in the words of this program; `None` if it came from a [`Setting`](super::item::Setting).
fn explain(message: &str) -> Option<String> {
    if let Some(unknown) = message.strip_prefix("unknown field `") {
        let (key, expected) = unknown.split_once("`, expected ").unwrap_or((unknown, ""));
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return Some(match closest(key, known.iter().copied()) {
            Some(near) => format!("unknown key, did you mean `{near}`?"),
            None => format!("unknown key, the keys here are {}", known.join(", ")),
        });
    }
    let (_, expected) = message.strip_prefix("invalid type: ")?.rsplit_once(", expected ")?;
    Some(match expected {
        "a sequence" => "must be tables, each under a header in double brackets".into(),
        "a table" | "a map" => "must be one table, under a header in single brackets".into(),
        _ => "is too large a number".into(),
    })
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(word, known);
    let near = known.into_iter().min_by_key(distance)?;
    // A third of the word: `lsten` is a slip, `limit` for `listen` is another word.
    (distance(&near) <= (word.chars().count() / 3).max(1)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{UPSTREAM, expect_faults, faults_of};
    use super::*;

    #[test]
    fn every_mistake_of_shape_is_told_where_it_is() {
        let too_large = "[server]\nmax_connections = 9223372036854775808";
        let too_long = format!("[upstreams.us.budget]\nerrors = '{}'", "x".repeat(100));
        expect_faults(&[
            ("[server]\nlsten = ''", "2:1  server.lsten: unknown key, did you mean `listen`?"),
            ("server.lsten = ''", "1:8  server.lsten: unknown key, did you mean `listen`?"),
            ("sever = {}", "1:1  sever: unknown key, did you mean `server`?"),
            ("[admin]\nnonsense = 1", "2:1  admin.nonsense: unknown key, the keys here are listen, token"),
            ("server = 5", "1:10  server: must be one table, under a header in single brackets"),
            ("[[server]]", "1:1  server: must be one table, under a header in single brackets"),
            ("[[cache.ttl]]", "1:1  cache.ttl: must be one table, under a header in single brackets"),
            ("[accounts]", "1:1  accounts: must be tables, each under a header in double brackets"),
            ("consumers = ['x']", "1:14  consumers[0]: must be one table, under a header in single brackets"),
            ("[server]\ndrain = 20", "2:9  server.drain  20: needs a unit: ms, s, min or h"),
            ("[server]\ndrain = true", "2:9  server.drain  true: must be a duration in quotes, as in \"5s\""),
            ("# é\nserver = { drain = '5x' }", "2:20  server.drain  '5x': unit must be ms, s, min or h"),
            (too_large, "2:19  server.max_connections: is too large a number"),
            ("[telemetry]\naccess_log = 1.5", "2:14  telemetry.access_log  1.5: must be true or false, without quotes"),
            (
                "[server]\nlisten = ['127.0.0.1:1', '8080']",
                "2:26  server.listen[1]  '8080': must be host:port, [v6]:port or unix:/path, as in 127.0.0.1:8080",
            ),
            (
                "[server]\nlisten = [5]",
                "2:11  server.listen[0]  5: must be host:port, [v6]:port or unix:/path, in quotes",
            ),
        ]);
        let told = faults_of(&format!("{UPSTREAM}{too_long}"));
        assert_eq!(
            told,
            "proxy.toml:6:10  upstreams.us.budget.errors: must be a number per time, as in 100/min or 10/10s; \
             or \"unlimited\""
        );
    }

    #[test]
    fn many_mistakes_are_told_at_once_and_in_order() {
        let told = faults_of(
            "[server]\nworkers = 0\nlsten = []\n[cache.ttl]\nmin = '2'\n[[consumers]]\nname = 'a b'\nweigth = 1\n[upstreams.us]\n\
             api_key = 5\nhttp2 = 'on'",
        );
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "proxy.toml:2:11  server.workers  0: must be \"auto\" or a whole number from 1 to 1024",
                "proxy.toml:3:1  server.lsten: unknown key, did you mean `listen`?",
                "proxy.toml:5:7  cache.ttl.min  '2': needs a unit: ms, s, min or h",
                "proxy.toml:6:1  consumers[0].key_sha256: is missing: `merge-sync-proxy key new NAME` makes a key and prints \
                 its hash; or set unix_uid or client_cert",
                "proxy.toml:7:8  consumers[0].name  'a b': must be 1 to 64 letters, digits, dots, dashes or underscores",
                "proxy.toml:8:1  consumers[0].weigth: unknown key, did you mean `weight`?",
                "proxy.toml:9:12  upstreams.us.base_url: is missing: \"https://api.merge.dev\", or the host of Merge's EU or \
                 AP region",
                "proxy.toml:10:11  upstreams.us.api_key: must be { env = \"NAME\" }, { file = \"path\" } or a string",
                "proxy.toml:11:9  upstreams.us.http2  'on': must be \"auto\" or \"off\"",
            ]
        );
    }

    #[test]
    fn what_is_no_toml_is_one_fault() {
        assert!(faults_of("[server]\nlisten = canary").starts_with("proxy.toml:2:10: this is not TOML: "));
        let in_quotes = "text stands in quotes, as in \"20s\" or \"0660\"";
        for value in
            ["20s", "127.0.0.1:8080", "60/min", "64KiB", "json", "unix:/p.sock", "True", "5acme", "/etc/key", ""]
        {
            let told = faults_of(&format!("[server]\ndrain = {value}"));
            let said = format!(": this is not TOML: this is neither a number nor `true` or `false`; {in_quotes}");
            assert!(told.starts_with("proxy.toml:2:") && told.ends_with(&said), "{value}: {told}");
        }
        let told = format!("proxy.toml:2:8: this is not TOML: a number cannot begin with 0; {in_quotes}");
        assert_eq!(faults_of("[server.unix]\nmode = 0660"), told);
        assert!(faults_of("[server]\n[server]").starts_with("proxy.toml:2:2: this is not TOML: duplicate key"));
    }

    #[test]
    fn what_may_be_a_secret_is_never_quoted() {
        for text in [
            "[admin]\ntoken = ['canary']",
            "[admin]\ntoken = { vale = 'canary' }",
            "[admin]\ntoken = '$canary'",
            "[[accounts]]\ntoken = '${canary}'",
            "[webhook]\nsecret = ['$canary']",
            "[[accounts]]\ntoken = { env = ['canary'] }",
            "[[consumers]]\nkey_sha256 = 'canary'",
            "[[consumers]]\nkey_sha256 = ['canary', { sha256 = 'canary' }]",
            "[webhook]\nsecret = []",
            "[shared]\nurl = ['redis://canary@host']",
            "[upstreams.eu]\nbase_url = 'https://user:canary@host'",
            "[upstreams.eu]\nproxy = 'ftp://user:canary@host'",
            "upstreams = 'canary'",
            "[upstreams]\nus = 'canary'",
            "[telemetry]\notlp = ['http://canary@host']",
        ] {
            assert!(faults_of(text).starts_with("proxy.toml:"));
        }
    }

    #[test]
    fn columns_are_characters() {
        let position = |text: &str, offset| position(text, &lines(text), offset);
        assert_eq!(position("# é\né = 'é' + ", "# é\né = 'é' ".len()), (2, 9));
        assert_eq!((position("a\nb\n", 1), position("a\nb\n", 2), position("a\nb\n", 4)), ((1, 2), (2, 1), (3, 1)));
        assert_eq!(position("", 5), (1, 1));
    }

    #[test]
    fn a_slip_is_told_from_another_word() {
        let known = ["listen", "workers", "api_key"];
        assert_eq!(closest("lsiten", known), Some("listen"));
        assert_eq!(closest("api-key", known), Some("api_key"));
        assert_eq!(closest("limit", known), None);
        assert_eq!(closest("x", []), None);
    }
}
