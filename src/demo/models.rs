//! The words of a sync-status page: models, their states, and which models each category has.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// The categories whose API has sync-status.
pub const CATEGORIES: [&str; 10] =
    ["ats", "hris", "accounting", "crm", "ticketing", "filestorage", "knowledgebase", "chat", "calendar", "email"];

/// What Merge says about a model, of now (`status`) or of its last run (`last_sync_result`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Running, or queued to run.
    Syncing,
    /// Everything was read.
    Done,
    /// Nothing was read.
    Failed,
    /// Switched off in the account's scopes.
    Disabled,
    /// Stopped after two weeks without success or interest.
    Paused,
    /// Some fields could not be read; waiting does not mend it.
    PartiallySynced,
}

/// Why a model that is syncing makes no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The integration's own limit is used up.
    RateLimited,
    /// Others come first.
    WaitingOnOtherModels,
}

/// Whether the account's selective sync configuration has been used yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Selective {
    /// It comes into force with the next run.
    InNextSync,
    /// The last run used it.
    InLastSync,
}

/// How a model's runs tend to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Done mostly, partly now and then, rarely not at all.
    Usual,
    /// Always done.
    Steady,
    /// Always partly.
    Partial,
    /// Never.
    Failing,
    /// Switched off.
    Disabled,
}

/// One common model of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimModel {
    /// As in `Candidate`.
    pub name: String,
    /// As in `ats.Candidate`.
    pub id: String,
    /// How its runs end.
    pub fate: Fate,
}

impl SimModel {
    /// The model with this id; its name is what follows the dot.
    pub fn new(id: impl Into<String>, fate: Fate) -> Self {
        let id = id.into();
        let name = id.rsplit_once('.').map_or(&*id, |(_, name)| name).to_owned();
        Self { name, id, fate }
    }
}

/// One entry of `results`, in the order in which it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "Merge's own field names, documented by Merge")]
pub struct ModelState {
    pub model_name: String,
    pub model_id: String,
    #[serde(serialize_with = "time")]
    pub last_sync_start: Option<SystemTime>,
    #[serde(serialize_with = "time")]
    pub next_sync_start: Option<SystemTime>,
    pub last_sync_result: Option<Status>,
    #[serde(serialize_with = "time")]
    pub last_sync_finished: Option<SystemTime>,
    #[serde(serialize_with = "time")]
    pub data_fresh_as_of: Option<SystemTime>,
    pub status: Status,
    pub sync_status_reason: Option<Reason>,
    pub is_initial_sync: bool,
    pub selective_sync_configurations_usage: Option<Selective>,
}

impl ModelState {
    /// What is said of a model that is switched off: nothing but that.
    pub(crate) fn disabled(model: &SimModel) -> Self {
        Self {
            model_name: model.name.clone(),
            model_id: model.id.clone(),
            last_sync_start: None,
            next_sync_start: None,
            last_sync_result: None,
            last_sync_finished: None,
            data_fresh_as_of: None,
            status: Status::Disabled,
            sync_status_reason: None,
            is_initial_sync: false,
            selective_sync_configurations_usage: None,
        }
    }
}

/// Merge writes microseconds, always.
#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn time<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        None => serializer.serialize_none(),
        Some(time) => serializer.serialize_str(&written(*time)),
    }
}

/// A time as Merge writes it.
pub(crate) fn written(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).expect("simulated times lie within a few years of their start");
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The models of a category, each with its usual fate; none for a category that Merge does not have.
pub fn standard(category: &str) -> Vec<SimModel> {
    let names: &[&str] = match category {
        "ats" => &[
            "Candidate",
            "Application",
            "Job",
            "JobPosting",
            "JobInterviewStage",
            "ScheduledInterview",
            "Scorecard",
            "Offer",
            "Department",
            "Office",
            "RemoteUser",
            "Attachment",
            "Tag",
            "Activity",
            "RejectReason",
            "EEOC",
            "ScreeningQuestion",
        ],
        "hris" => &[
            "Employee",
            "Employment",
            "Company",
            "Group",
            "Team",
            "Location",
            "Benefit",
            "EmployerBenefit",
            "Dependent",
            "BankInfo",
            "PayrollRun",
            "EmployeePayrollRun",
            "PayGroup",
            "TimeOff",
            "TimeOffBalance",
            "TimesheetEntry",
        ],
        "accounting" => &[
            "Account",
            "Contact",
            "Invoice",
            "Item",
            "Payment",
            "Transaction",
            "JournalEntry",
            "CreditNote",
            "Expense",
            "PurchaseOrder",
            "VendorCredit",
            "TaxRate",
            "TrackingCategory",
            "CompanyInfo",
            "BalanceSheet",
            "IncomeStatement",
            "CashFlowStatement",
            "Attachment",
        ],
        "crm" => &[
            "Account",
            "Contact",
            "Lead",
            "Opportunity",
            "Stage",
            "Note",
            "Task",
            "Engagement",
            "EngagementType",
            "User",
        ],
        "ticketing" => {
            &["Ticket", "Comment", "Collection", "Contact", "Account", "Attachment", "Tag", "Team", "Role", "User"]
        }
        "filestorage" => &["FileStorageFile", "FileStorageFolder", "Drive", "Group", "User"],
        "knowledgebase" => &["Article", "Container", "Attachment", "Group", "User"],
        "chat" => &["Conversation", "Message", "Member", "User"],
        "calendar" => &["Calendar", "Event", "EventType", "User"],
        "email" => &["Message", "Thread", "Folder", "Attachment"],
        _ => &[],
    };
    names.iter().map(|name| SimModel::new(format!("{category}.{name}"), Fate::Usual)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_category_has_models_and_ats_has_a_dozen() {
        for category in CATEGORIES {
            assert!(!standard(category).is_empty(), "{category}");
        }
        assert!(standard("ats").len() >= 12);
        assert_eq!(standard("ats")[0], SimModel::new("ats.Candidate", Fate::Usual));
        assert!(standard("payroll").is_empty());
    }

    #[test]
    fn times_are_written_with_microseconds() {
        assert_eq!(written(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)), "1970-01-01T00:00:01.500000Z");
    }
}
