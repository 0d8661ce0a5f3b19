//! The Merge dialect: what a sync-status body says. The only file that knows its JSON.
//!
//! Nothing in a body can make this fail: what cannot be read counts as changing, and the bytes pass through untouched anyhow.

use std::time::{Duration, SystemTime};

use memchr::memchr_iter;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::received::{Run, SyncDigest};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads `body`; `date` is the upstream's clock when it answered.
pub fn digest(body: &[u8], date: SystemTime) -> SyncDigest {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let Ok(text) = str::from_utf8(text) else { return SyncDigest::default() };
    match Page::read(text) {
        Some(page) => {
            let mut clocks = Clocks::default();
            of_results(page.results.iter().map(|model| Model::read(model, date, &mut clocks)))
        }
        None => digest_any(text, date),
    }
}

/// Finds out what a body is that is not a page as Merge writes it.
fn digest_any(text: &str, date: SystemTime) -> SyncDigest {
    let Ok(json) = serde_json::from_str::<Value>(text) else { return SyncDigest::default() };
    match json.get("results").and_then(Value::as_array) {
        Some(results) => {
            let mut clocks = Clocks::default();
            of_results(results.iter().map(|model| Model::read(&Fields::of(model), date, &mut clocks)))
        }
        None => SyncDigest { json: true, ..SyncDigest::default() },
    }
}

fn of_results(models: impl Iterator<Item = Model>) -> SyncDigest {
    let mut runs = Vec::with_capacity(models.size_hint().0);
    let (mut changing, mut next_start) = (false, None::<Duration>);
    for model in models.filter(|model| model.counts) {
        changing |= model.changing;
        next_start = next_start.into_iter().chain(model.next_start).min();
        runs.extend(model.run);
    }
    SyncDigest { json: true, results: true, changing, next_start, runs }
}

/// A page as Merge writes it.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    results: Vec<Fields<'a>>,
}

impl<'a> Page<'a> {
    /// Reads it without a copy of anything; `None` if it is any other.
    fn read(text: &'a str) -> Option<Self> {
        // An array would be taken for an object whose fields have no names, so there may be none but the results.
        let is_object = text.trim_ascii_start().starts_with('{') && memchr_iter(b'[', text.as_bytes()).count() == 1;
        is_object.then(|| serde_json::from_str(text).ok()).flatten()
    }
}

/// What a page says of a model; what it does not say, or not as Merge does, is `None`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    model_id: Option<&'a str>,
    status: Option<&'a str>,
    is_initial_sync: Option<bool>,
    last_sync_start: Option<&'a str>,
    last_sync_finished: Option<&'a str>,
    next_sync_start: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn of(model: &'a Value) -> Self {
        let text = |field: &str| model.get(field).and_then(Value::as_str);
        Self {
            model_id: text("model_id"),
            status: text("status"),
            is_initial_sync: model.get("is_initial_sync").and_then(Value::as_bool),
            last_sync_start: text("last_sync_start"),
            last_sync_finished: text("last_sync_finished"),
            next_sync_start: text("next_sync_start"),
        }
    }
}

struct Model {
    counts: bool,
    changing: bool,
    next_start: Option<Duration>,
    run: Option<Run>,
}

impl Model {
    fn read<'a>(model: &Fields<'a>, date: SystemTime, clocks: &mut Clocks<'a>) -> Self {
        let Fields { model_id, status, is_initial_sync, last_sync_start, last_sync_finished, next_sync_start } = *model;
        let initial = is_initial_sync.unwrap_or(false);
        let started = last_sync_start.and_then(|text| clocks.start.read(text));
        let under_way =
            started.filter(|_| status == Some("SYNCING")).and_then(|started| date.duration_since(started).ok());
        let at_rest = matches!(status, Some("DONE" | "FAILED" | "PARTIALLY_SYNCED" | "DISABLED" | "PAUSED"));
        Self {
            counts: !matches!(status, Some("DISABLED" | "PAUSED")),
            changing: under_way.is_none() && (initial || !at_rest),
            // What is overdue is due now. While a model syncs its next start says nothing of when it will end.
            next_start: next_sync_start
                .and_then(|text| clocks.next.read(text))
                .filter(|_| under_way.is_none())
                .map(|start| start.duration_since(date).unwrap_or_default()),
            run: model_id.map(|id| Run {
                model: fingerprint(id),
                under_way,
                finished: whole_run(started, last_sync_finished.and_then(|text| clocks.finish.read(text)))
                    .filter(|_| at_rest),
            }),
        }
    }
}

/// One model of a page, as Merge reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// Its name without the category, such as `Candidate`.
    pub name: Box<str>,
    /// Its status; empty if there is none.
    pub status: Box<str>,
    /// When its next sync is due.
    pub next_sync: Option<SystemTime>,
}

/// Categories have some ten models; this many are shown of a page that claims to have more.
const MOST_MODELS: usize = 64;

/// The longest text that is shown of a page, in characters.
const LONGEST_TEXT: usize = 48;

/// The models of `body`; none if it is not what it should be.
pub fn models(body: &[u8]) -> Vec<ModelStatus> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let Ok(json) = serde_json::from_slice::<Value>(text) else { return Vec::new() };
    let results = json.get("results").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let model = |model: &Value| {
        let text = |field: &str| model.get(field).and_then(Value::as_str);
        let short = |text: &str| text.chars().take(LONGEST_TEXT).collect::<String>().into_boxed_str();
        let id = text("model_name").or_else(|| text("model_id")).unwrap_or_default();
        ModelStatus {
            name: short(id.rsplit_once('.').map_or(id, |(_, name)| name)),
            status: short(text("status").unwrap_or_default()),
            next_sync: text("next_sync_start").and_then(instant),
        }
    };
    results.iter().take(MOST_MODELS).map(model).collect()
}

/// Start and length of a run; `None` if the two times belong to different runs, which shows in an end before the start.
fn whole_run(started: Option<SystemTime>, finished: Option<SystemTime>) -> Option<(u32, Duration)> {
    let (started, finished) = (started?, finished?);
    let epoch = started.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some((u32::try_from(epoch).ok()?, finished.duration_since(started).ok()?))
}

/// FNV-1a: a name for a model in four bytes. Two models of one page that share it would only share their history.
fn fingerprint(id: &str) -> u32 {
    id.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The times that models of one page have in common: most begin together and are due together, so most are those of the model before.
#[derive(Default)]
struct Clocks<'a> {
    start: Clock<'a>,
    finish: Clock<'a>,
    next: Clock<'a>,
}

/// The last time that was read, and what it says.
#[derive(Default)]
struct Clock<'a>(Option<(&'a str, Option<SystemTime>)>);

impl<'a> Clock<'a> {
    fn read(&mut self, text: &'a str) -> Option<SystemTime> {
        match self.0 {
            Some((last, time)) if last == text => time,
            _ => {
                let time = instant(text);
                self.0 = Some((text, time));
                time
            }
        }
    }
}

/// An RFC 3339 time; `None` for what is none or lies outside what a clock can show.
fn instant(text: &str) -> Option<SystemTime> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    timestamp.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn date() -> SystemTime {
        instant("2026-04-15T10:00:00Z").expect("a time")
    }

    fn read(models: &Value) -> SyncDigest {
        digest(json!({"next": null, "results": models}).to_string().as_bytes(), date())
    }

    fn model(status: &str, next: &str) -> Value {
        json!({"status": status, "next_sync_start": next, "is_initial_sync": false})
    }

    #[test]
    fn the_earliest_start_of_the_models_that_count() {
        let page = read(&json!([
            model("DONE", "2026-04-15T11:00:00Z"),
            model("FAILED", "2026-04-15T10:30:00.5Z"),
            model("PAUSED", "2026-04-15T10:00:01Z"),
            model("DISABLED", "2026-04-15T10:00:01Z"),
            json!({"status": "PARTIALLY_SYNCED", "next_sync_start": null}),
            json!({"status": "DONE", "next_sync_start": "soon"}),
        ]));
        assert!(!page.changing);
        assert_eq!(page.next_start, Some(Duration::from_millis(1_800_500)));
    }

    #[test]
    fn what_is_overdue_is_due_now() {
        assert_eq!(read(&json!([model("DONE", "2026-04-15T09:00:00Z")])).next_start, Some(Duration::ZERO));
    }

    #[test]
    fn anything_but_rest_counts_as_changing() {
        for changing in [
            model("SYNCING", "2026-04-15T11:00:00Z"),
            model("IDLE", "2026-04-15T11:00:00Z"),
            json!({}),
            json!({"status": null}),
            json!({"status": 7}),
            json!("text"),
            json!({"status": "DONE", "is_initial_sync": true}),
        ] {
            assert!(read(&json!([model("DONE", "2026-04-15T11:00:00Z"), changing])).changing, "{changing}");
        }
    }

    #[test]
    fn json_without_results_is_json_without_results() {
        for body in ["{}", "[]", "7", "{\"results\":null}", "{\"results\":{}}", "\u{feff}{}"] {
            assert_eq!(digest(body.as_bytes(), date()), SyncDigest { json: true, ..SyncDigest::default() }, "{body}");
        }
        for body in ["", "<html>", "{\"results\":[", "\u{feff}"] {
            assert_eq!(digest(body.as_bytes(), date()), SyncDigest::default(), "{body}");
        }
    }

    #[test]
    fn a_run_is_timed_if_both_its_ends_are_its_own() {
        let model = |status: &str, started: &str, finished: &str| {
            json!({"model_id": "ats.Job", "status": status, "last_sync_start": started, "last_sync_finished": finished,
                   "next_sync_start": "2026-04-15T10:00:30Z"})
        };
        let only = |model: Value| {
            let digest = read(&json!([model]));
            (digest.changing, digest.next_start, digest.runs[0].under_way, digest.runs[0].finished.map(|run| run.1))
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let done = model("DONE", "2026-04-15T09:00:00Z", "2026-04-15T09:04:00Z");
        assert_eq!(only(done), (false, seconds(30), None, seconds(240)));
        let syncing = model("SYNCING", "2026-04-15T09:59:00Z", "2026-04-15T09:04:00Z");
        assert_eq!(only(syncing), (false, None, seconds(60), None));
        let other_run = model("DONE", "2026-04-15T09:00:00Z", "2026-04-15T08:04:00Z");
        assert_eq!(only(other_run), (false, seconds(30), None, None));
        let future = model("SYNCING", "2026-04-15T10:01:00Z", "");
        assert_eq!(only(future), (true, seconds(30), None, None));
    }

    #[test]
    fn models_are_told_as_merge_reports_them_within_bounds() {
        let body = json!({"results": [
            {"model_name": "Candidate", "model_id": "ats.Candidate", "status": "FAILED", "next_sync_start": "2026-04-15T10:00:00Z"},
            {"model_id": "ats.Job", "status": null, "next_sync_start": "soon"},
            {"model_id": "x".repeat(1_000), "status": "y".repeat(1_000)},
            7,
        ]});
        let models = models(body.to_string().as_bytes());
        let told = |at: usize| (&*models[at].name, &*models[at].status, models[at].next_sync);
        assert_eq!(told(0), ("Candidate", "FAILED", Some(date())));
        assert_eq!(told(1), ("Job", "", None));
        assert_eq!((models[2].name.len(), models[2].status.len(), told(3)), (48, 48, ("", "", None)));
        assert_eq!(super::models(json!({"results": vec![1; 1_000]}).to_string().as_bytes()).len(), MOST_MODELS);
        assert_eq!(super::models(b"<html>"), []);
    }

    /// Any value that a field may have, the usual ones more often.
    fn value() -> impl Strategy<Value = String> {
        let text = prop::sample::select(vec![
            r#""DONE""#,
            r#""SYNCING""#,
            r#""PAUSED""#,
            r#""2026-01-01T00:00:00Z""#,
            r#""2027-06-01T00:00:00.5Z""#,
            "null",
            "true",
            "false",
            "7",
            "1e3",
            r#""a\u0062\"""#,
            "[]",
            r#"["DONE"]"#,
            "{}",
            r#"{"status":"DONE"}"#,
            r#""[""#,
            "x",
        ]);
        text.prop_map(str::to_owned)
    }

    fn object() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "status",
            "model_id",
            "is_initial_sync",
            "last_sync_start",
            "last_sync_finished",
            "next_sync_start",
            "other",
            "results",
        ]);
        let fields = prop::collection::vec((name, value()), 0..6);
        fields.prop_map(|fields| {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
            format!("{{{}}}", fields.join(", "))
        })
    }

    #[test]
    fn a_page_as_merge_writes_it_is_known_as_one() {
        let text =
            json!({ "next": null, "previous": null, "results": [model("DONE", "2026-01-01T00:00:00Z")] }).to_string();
        assert_eq!(Page::read(&text).map(|page| page.results.len()), Some(1));
    }

    proptest! {
        #[test]
        fn a_page_as_merge_writes_it_says_what_it_says_to_who_looks_closely(
            models in prop::collection::vec(prop_oneof![8 => object(), 1 => value()], 0..4),
            around in prop_oneof![8 => Just(("{\"next\":null,\"results\":[", "]}")), 1 => Just(("[[", "]]")), 1 => Just((" {\"results\":", "}"))],
        ) {
            let text = format!("{}{}{}", around.0, models.join(","), around.1);
            prop_assert_eq!(digest(text.as_bytes(), date()), digest_any(&text, date()), "{}", text);
        }

        #[test]
        fn no_body_makes_it_fail(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            digest(&body, date());
            models(&body);
        }

        #[test]
        fn no_value_makes_it_fail(status in "[A-Z]{0,8}", next in "[0-9TZ:+.-]{0,30}") {
            read(&json!([model(&status, &next)]));
        }
    }
}
