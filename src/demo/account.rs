//! A simulated linked account: its name, token, models and rhythm; and the standard set of them.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::dice;
use super::models::{Fate, SimModel, standard};
use super::schedule::Schedule;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A linked account as the simulation is told about it.
#[derive(Clone, Debug)]
pub struct SimAccount {
    /// What tests and the proxy call it; also its end user's origin id.
    pub name: String,
    /// What `X-Account-Token` has to say.
    pub token: String,
    /// As in `ats`.
    pub category: String,
    /// As in `Greenhouse`.
    pub integration: String,
    /// What its pages list.
    pub models: Vec<SimModel>,
    seed: u64,
    every: Option<Duration>,
    length: Duration,
    age: Duration,
    paused: bool,
    selective: bool,
}

impl SimAccount {
    /// An `ats` account on Greenhouse, linked a month ago, that syncs for about a minute every five.
    pub fn new(name: impl Into<String>, token: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            seed: dice::seed(name.as_bytes()),
            name,
            token: token.into(),
            category: "ats".to_owned(),
            integration: "Greenhouse".to_owned(),
            models: standard("ats"),
            every: Some(minutes(5)),
            length: minutes(1),
            age: DAY * 30,
            paused: false,
            selective: false,
        }
    }

    /// Another category, with that one's models.
    #[must_use]
    pub fn category(mut self, category: &str) -> Self {
        category.clone_into(&mut self.category);
        self.models = standard(category);
        self
    }

    /// Another integration.
    #[must_use]
    pub fn integration(mut self, integration: &str) -> Self {
        integration.clone_into(&mut self.integration);
        self
    }

    /// Exactly these models.
    #[must_use]
    pub fn models(mut self, models: impl IntoIterator<Item = SimModel>) -> Self {
        self.models = models.into_iter().collect();
        self
    }

    /// How the runs of one model end.
    #[must_use]
    pub fn fate(mut self, model: &str, fate: Fate) -> Self {
        let mut models = self.models.iter_mut();
        let model = models.find(|known| known.name == model || known.id == model);
        model.expect("the account has this model").fate = fate;
        self
    }

    /// A run every so often, of roughly this length, in simulated time.
    #[must_use]
    pub fn every(mut self, every: Duration, length: Duration) -> Self {
        assert!(!every.is_zero(), "an account cannot sync all the time");
        self.every = Some(every);
        self.length = length;
        self
    }

    /// No plan: every model was done long ago, and syncs start and end only when the test says so.
    #[must_use]
    pub fn by_hand(mut self) -> Self {
        self.every = None;
        for model in &mut self.models {
            model.fate = Fate::Steady;
        }
        self
    }

    /// Linked at the very start: its first run is the initial sync.
    #[must_use]
    pub fn freshly_linked(mut self) -> Self {
        self.age = Duration::ZERO;
        self
    }

    /// Paused two weeks ago.
    #[must_use]
    pub fn paused(mut self) -> Self {
        self.paused = true;
        self
    }

    /// A selective sync configuration was saved just before the start.
    #[must_use]
    pub fn selective(mut self) -> Self {
        self.selective = true;
        self
    }

    /// Other dice than those that its name makes.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Merge's id of the linked account, as webhooks and account-details give it.
    pub fn id(&self) -> Uuid {
        let name = self.name.as_bytes();
        let bits = u128::from(dice::seed(name)) << 64 | u128::from(dice::roll(dice::seed(name), 0));
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }

    /// Its rhythm, for a simulation that starts at `start`.
    pub fn schedule(&self, start: SystemTime) -> Schedule {
        // Accounts do not sync in step: each is a different part of its interval into a run at the start.
        let phase = self.every.filter(|_| !self.age.is_zero()).unwrap_or_default();
        let phase = phase * u32::try_from(dice::roll(self.seed, 0) % 100).expect("less than a hundred") / 100;
        let mut schedule = Schedule::new(self.seed, start - self.age - phase, self.every, self.length);
        if self.paused {
            schedule = schedule.paused_from(start - DAY * 14);
        }
        if self.selective {
            schedule = schedule.selective_from(start);
        }
        schedule
    }
}

/// The API key of the standard set.
pub const DEMO_API_KEY: &str = "demo-production-key";

/// The accounts of the demo: four categories, and among them every status that Merge knows.
pub fn demo_accounts() -> Vec<SimAccount> {
    vec![
        SimAccount::new("acme-greenhouse", "demo-token-acme-greenhouse")
            .every(minutes(5), minutes(2))
            .fate("EEOC", Fate::Disabled),
        SimAccount::new("globex-lever", "demo-token-globex-lever")
            .integration("Lever")
            .every(minutes(20), minutes(8))
            .fate("ScreeningQuestion", Fate::Disabled)
            .freshly_linked(),
        SimAccount::new("initech-bamboohr", "demo-token-initech-bamboohr")
            .category("hris")
            .integration("BambooHR")
            .every(minutes(10), minutes(3))
            .fate("BankInfo", Fate::Failing),
        SimAccount::new("umbrella-workday", "demo-token-umbrella-workday")
            .category("hris")
            .integration("Workday")
            .every(minutes(60), minutes(15))
            .fate("PayrollRun", Fate::Partial)
            .fate("TimesheetEntry", Fate::Disabled),
        SimAccount::new("hooli-salesforce", "demo-token-hooli-salesforce")
            .category("crm")
            .integration("Salesforce")
            .every(minutes(3), minutes(1))
            .selective(),
        SimAccount::new("stark-netsuite", "demo-token-stark-netsuite")
            .category("accounting")
            .integration("NetSuite")
            .every(minutes(60), minutes(10))
            .paused(),
    ]
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::models::Status;

    #[test]
    fn the_demo_shows_every_status_within_two_hours() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_776_000_000);
        let mut missing = vec![
            Status::Syncing,
            Status::Done,
            Status::Failed,
            Status::Disabled,
            Status::Paused,
            Status::PartiallySynced,
        ];
        for account in demo_accounts() {
            let schedule = account.schedule(start);
            for minute in 0..120 {
                for state in schedule.states(&account.models, start + minutes(minute)) {
                    missing.retain(|status| *status != state.status);
                }
            }
        }
        assert_eq!(missing, []);
    }

    #[test]
    fn only_a_fresh_account_starts_with_its_initial_sync() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_776_000_000);
        for account in demo_accounts() {
            let states = account.schedule(start).states(&account.models, start);
            let initial = states.iter().any(|state| state.is_initial_sync);
            assert_eq!(initial, account.name == "globex-lever", "{}", account.name);
        }
    }

    #[test]
    fn ids_are_stable_and_differ() {
        let [one, two] = ["one", "two"].map(|name| SimAccount::new(name, name).id());
        assert_eq!(one, SimAccount::new("one", "another-token").id());
        assert_ne!(one, two);
        assert_eq!(one.get_version_num(), 4);
    }
}
