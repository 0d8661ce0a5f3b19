//! Two teams and those between them, ten thousand requests: nobody sees what is another's, not even that it is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use merge_sync_proxy::admin::routes::Operations;
use merge_sync_proxy::app::App;
use merge_sync_proxy::domain::key::TokenHasher;
use merge_sync_proxy::domain::peer::Asker;
use merge_sync_proxy::upstream::ways::transport;
use tower::ServiceExt;

use self::events::{Asked, Event};
use self::model::Model;
use self::upstream::Upstream;
use crate::support::{Got, config};

mod events;

mod model;

mod upstream;

const SEED: u64 = 0x5eed;
const REQUESTS: usize = 10_000;

/// The proxy, and the upstream behind it.
struct House {
    app: App,
    upstream: Arc<Upstream>,
}

impl House {
    /// Whose pages have as many bytes as `padding` says, and some more.
    fn new(padding: usize) -> Self {
        let hasher = TokenHasher::new();
        let upstream = Arc::new(Upstream::new(padding));
        let more = format!(
            "[cache.ttl]\nsyncing = '20s'\n[cache.stale]\nwhile_revalidate = '10s'\nif_error = '30s'\n{}",
            model::configuration()
        );
        let config = config("http://merge.test", &more, &hasher);
        let transports = [("us".into(), transport(Upstream::service(&upstream)))].into();
        Self { app: App::with_transports(config, &hasher, transports), upstream }
    }

    async fn ask(&self, asked: &Asked) -> Got {
        let Ok(response) = self.app.service().oneshot(asked.request()).await;
        Got::whole(response).await
    }

    /// Does what belongs to one step at once, and waits until nothing is under way. Answers come by the events' numbers.
    async fn step(&self, step: &[(usize, &Event)]) -> Vec<(usize, Got)> {
        let mut asking = Vec::new();
        for (number, event) in step {
            match event {
                Event::Ask(asked) => asking.push(async move { (*number, self.ask(asked).await) }),
                Event::Purge { account, hard } => {
                    self.app.purge(Some(account), *hard, &Asker::default()).expect("the account has a name");
                }
                Event::Change { account } => self.upstream.change(account),
                Event::Pause(length) => tokio::time::advance(*length).await,
            }
        }
        let answers = join_all(asking).await;
        while self.app.ground().flights.count().0 > 0 {
            tokio::task::yield_now().await;
        }
        answers
    }
}

/// Numbers of events, step by step.
fn numbered(steps: &[Vec<Event>]) -> Vec<Vec<(usize, &Event)>> {
    let mut number = 0..;
    steps.iter().map(|step| step.iter().map(|event| (number.next().expect("enough"), event)).collect()).collect()
}

fn requests(steps: &[Vec<Event>]) -> usize {
    steps.iter().flatten().filter(|event| matches!(event, Event::Ask(_))).count()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_show_nobody_what_is_another_s() {
    let house = House::new(600);
    let mut model = Model::new(600);
    let steps = events::generate(SEED, REQUESTS);
    assert!(requests(&steps) >= REQUESTS);
    for step in numbered(&steps) {
        for (_, event) in &step {
            model.before(event);
        }
        for (number, got) in house.step(&step).await {
            let Event::Ask(asked) = step.iter().find(|(other, _)| *other == number).expect("it was asked").1 else {
                panic!("only requests are answered");
            };
            if let Err(why) = model.check(asked, &got) {
                panic!("request {number}: {why}\n{asked:?}\n{got:?}");
            }
        }
        for call in house.upstream.take_calls() {
            model.check_call(&call).unwrap_or_else(|why| panic!("{why}: {call:?}"));
        }
    }
    let seen = model.tally();
    println!("{seen:?}");
    for what in ["200", "304", "400", "401", "403", "404", "504", "hit", "miss", "stale", "collapsed", "encoded", "raw"]
    {
        assert!(seen.get(what).is_some_and(|count| *count >= 10), "{what}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_to_other_accounts_changes_no_answer_about_one() {
    let steps = events::generate(SEED + 1, REQUESTS);
    let steps = numbered(&steps);
    // Short pages have no encoded twins: when a twin is ready is the only thing that other work may delay.
    let full = House::new(0);
    let mut answers = HashMap::new();
    for step in &steps {
        answers.extend(full.step(step).await);
    }
    let mut compared = 0;
    for account in model::ALL_ACCOUNTS {
        let alone = House::new(0);
        for step in &steps {
            let own: Vec<_> = step.iter().filter(|(_, event)| event.concerns(account)).copied().collect();
            for (number, got) in alone.step(&own).await {
                let with_others = &answers[&number];
                assert_eq!(got.status, with_others.status, "request {number} about {account}");
                assert_eq!(got.headers, with_others.headers, "request {number} about {account}");
                assert_eq!(got.body, with_others.body, "request {number} about {account}");
                compared += 1;
            }
        }
    }
    assert!(compared > REQUESTS / 4, "{compared} answers were about some account");
}

#[tokio::test(start_paused = true)]
async fn what_an_answer_takes_of_a_request_is_never_another_s() {
    // One request for each pair of accounts that differ in nothing but the account, hot and cold.
    let house = House::new(600);
    let mut bodies = HashMap::new();
    for _ in 0..3 {
        for (name, _) in model::ACCOUNTS {
            let key = if name.starts_with("red") { "red-key" } else { "blue-key" };
            let request = Request::get(crate::support::SYNC_STATUS)
                .header("authorization", format!("Bearer {key}"))
                .header("x-account-token", name);
            let request = request.body(http_body_util::Full::default()).expect("a request");
            let Ok(response) = house.app.service().oneshot(request).await;
            let got = Got::whole(response).await;
            assert_eq!(got.status, 200, "{name}");
            assert!(String::from_utf8_lossy(&got.body).contains(&format!("\"whose\":\"{name}\"")));
            bodies.insert((name, got.header("etag").to_owned()), got.body);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(bodies.len(), model::ACCOUNTS.len(), "one body and one tag for each account");
}
