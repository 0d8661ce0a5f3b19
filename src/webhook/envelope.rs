//! What a webhook says, as far as it matters here: what has happened, and to whose account. Read leniently: whatever else is in
//! it, is missing or is of another kind is Merge's business.

use serde_json::Value;

/// What has happened to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A sync, or that of one model, has ended.
    SyncEnded,
    /// It was linked, linked anew or deleted.
    Relinked,
    /// Nothing that its pages would show.
    Other,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What has happened.
    pub news: News,
    /// Merge's id of the account; empty if it has none.
    pub linked_account_id: String,
}

impl Envelope {
    /// What `body` says; `None` if it is no JSON.
    pub fn read(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let text = |pointer| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        Some(Self { news: News::of(text("/hook/event")), linked_account_id: text("/linked_account/id").to_owned() })
    }
}

impl News {
    /// What the event of this name tells. `LinkedAccount.synced` is what `LinkedAccount.sync_completed` was called before; of a
    /// single model it is `Candidate.synced` and the like.
    fn of(event: &str) -> Self {
        match event {
            "LinkedAccount.sync_completed" => Self::SyncEnded,
            "LinkedAccount.linked" | "LinkedAccount.deleted" => Self::Relinked,
            event if event.ends_with(".synced") => Self::SyncEnded,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "7f2b4a1c-0000-4000-8000-000000000001";

    fn body(event: &str) -> String {
        format!(
            r#"{{"hook":{{"id":"a","event":"{event}","target":"https://host/webhooks/merge"}},
                "linked_account":{{"id":"{ID}","category":"ats","status":"COMPLETE"}},
                "data":{{"is_initial_sync":true,"sync_status":{{"ats.Candidate":{{"last_sync_result":"DONE"}}}}}}}}"#
        )
    }

    #[test]
    fn the_ends_of_syncs_are_known_and_all_else_is_let_pass() {
        for (event, news) in [
            ("LinkedAccount.sync_completed", News::SyncEnded),
            ("LinkedAccount.synced", News::SyncEnded),
            ("Candidate.synced", News::SyncEnded),
            ("LinkedAccount.linked", News::Relinked),
            ("LinkedAccount.deleted", News::Relinked),
            ("Candidate.changed", News::Other),
            ("Issue.new", News::Other),
            ("synced", News::Other),
            ("", News::Other),
        ] {
            let expected = Envelope { news, linked_account_id: ID.into() };
            assert_eq!(Envelope::read(body(event).as_bytes()), Some(expected), "{event}");
        }
    }

    #[test]
    fn whatever_is_missing_or_of_another_kind_says_nothing() {
        let nothing = Envelope { news: News::Other, linked_account_id: String::new() };
        for body in [
            r#"{"response":"Success! This URL will be notified."}"#,
            r#"{"hook":"LinkedAccount.synced","linked_account":[]}"#,
            r#"{"hook":{"event":5},"linked_account":{"id":null}}"#,
            "[]",
            "5",
        ] {
            assert_eq!(Envelope::read(body.as_bytes()), Some(nothing.clone()), "{body}");
        }
        let deep = "[".repeat(60_000);
        for body in ["", "{", "hook=a", &deep, "\u{feff}{}"] {
            assert_eq!(Envelope::read(body.as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Envelope::read(&bytes);
        }

        #[test]
        fn what_stands_around_it_does_not_matter(name in "[a-z_]{1,9}", text in "[ -!#-\\[\\]-~]{0,20}") {
            prop_assume!(name != "hook" && name != "linked_account");
            let body = body("Job.synced").replacen('{', &format!("{{\"{name}\":\"{text}\","), 1);
            let expected = Envelope { news: News::SyncEnded, linked_account_id: ID.into() };
            prop_assert_eq!(Envelope::read(body.as_bytes()), Some(expected));
        }
    }
}
