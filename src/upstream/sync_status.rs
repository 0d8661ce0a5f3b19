//! The Merge dialect: what a sync-status body says. The only file that knows its JSON.
//!
//! Nothing in a body can make this fail: what cannot be read counts as changing, and the bytes pass through untouched anyhow.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::domain::page::SyncDigest;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads `body`; `date` is the upstream's clock when it answered.
pub fn digest(body: &[u8], date: SystemTime) -> SyncDigest {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let Ok(json) = serde_json::from_slice::<Value>(text) else { return SyncDigest::default() };
    let Some(results) = json.get("results").and_then(Value::as_array) else {
        return SyncDigest { json: true, ..SyncDigest::default() };
    };
    let counting = || results.iter().map(Model::read).filter(|model| model.counts);
    SyncDigest {
        json: true,
        results: true,
        changing: counting().any(|model| model.changing),
        next_start: counting().filter_map(|model| model.next_start).min().map(|start| until(start, date)),
    }
}

struct Model {
    counts: bool,
    changing: bool,
    next_start: Option<SystemTime>,
}

impl Model {
    fn read(model: &Value) -> Self {
        let status = model.get("status").and_then(Value::as_str);
        let counts = !matches!(status, Some("DISABLED" | "PAUSED"));
        let at_rest = matches!(status, Some("DONE" | "FAILED" | "PARTIALLY_SYNCED" | "DISABLED" | "PAUSED"));
        let initial = model.get("is_initial_sync").and_then(Value::as_bool).unwrap_or(false);
        let next_start = model.get("next_sync_start").and_then(Value::as_str).and_then(instant);
        Self { counts, changing: !at_rest || initial, next_start }
    }
}

/// An RFC 3339 time; `None` for what is none or lies outside what a clock can show.
fn instant(text: &str) -> Option<SystemTime> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    timestamp.try_into().ok()
}

fn until(start: SystemTime, date: SystemTime) -> Duration {
    start.duration_since(date).unwrap_or_default()
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

    proptest! {
        #[test]
        fn no_body_makes_it_fail(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            digest(&body, date());
        }

        #[test]
        fn no_value_makes_it_fail(status in "[A-Z]{0,8}", next in "[0-9TZ:+.-]{0,30}") {
            read(&json!([model(&status, &next)]));
        }
    }
}
