//! Why calls to Merge fail is told, in words and not too often.

use std::time::Duration;

use merge_sync_proxy::demo::fault::Fault;
use tokio::time::advance;

use crate::audit::Log;
use crate::support::{SYNC_STATUS, World, merge};

/// Where these warnings come from.
const TARGET: &str = "merge_sync_proxy::upstream::trouble";

const PATIENT: &str = "[upstreams.us.budget]\n\
    per_account = 'unlimited'\nerrors = 'unlimited'\nbreaker = 'unlimited'\n";

/// Asks so often while Merge has this fault, and says what the log has said meanwhile.
async fn told(world: &World, log: &Log, fault: Fault, times: usize) -> Vec<(String, u64)> {
    world.merge.set(fault);
    for number in 0..times {
        // Each time another page: one that has just failed is not fetched again at once.
        world.get(&format!("{SYNC_STATUS}?cursor={}-{number}", world.merge.calls())).await;
    }
    let lines = log.of(TARGET);
    for line in &lines {
        assert_eq!([&line["level"], &line["upstream"], &line["account"]], ["WARN", "us", "acme"], "{line}");
        let cause = line["cause"].as_str().expect("a cause");
        assert_eq!(line["message"], format!("a call to upstream us failed: {cause}"));
    }
    let cause = |line: &serde_json::Value| line["cause"].as_str().unwrap_or_default().to_owned();
    lines.iter().map(|line| (cause(line), line["times"].as_u64().unwrap_or_default())).collect()
}

#[tokio::test(start_paused = true)]
async fn each_cause_is_warned_of_in_its_own_words_and_once_a_minute() {
    let world = World::with(merge(), PATIENT);
    let (log, _guard) = Log::begin();
    for (fault, words) in [
        (Fault::Status(500), "status 500"),
        (Fault::Status(503), "status 503"),
        (Fault::ResetBeforeHeaders, "the connection was closed before an answer"),
        (Fault::TruncateLength, "the answer was cut short"),
        (Fault::Html, "the answer is not JSON"),
        (Fault::NoContent, "a status that makes no sense here: 204"),
        (Fault::Delay(Duration::from_secs(3_600)), "no answer in time"),
    ] {
        let lines = told(&world, &log, fault, 2).await;
        let [(cause, 1)] = &lines[..] else { panic!("{words}: {lines:?}") };
        assert!(cause.starts_with(words), "{cause} and not {words}");
    }
    assert_eq!(told(&world, &log, Fault::Status(404), 5).await, [], "that is an answer");
    advance(Duration::from_secs(61)).await;
    let lines = told(&world, &log, Fault::Status(500), 4).await;
    assert_eq!(lines, [("status 500".to_owned(), 2)], "one more before, and the first of these");
}
