//! The state as text for a terminal: aligned, and coloured where colours are shown; on a narrow one without what matters less.

use std::fmt::{self, Write};

use anstyle::{AnsiColor, Style};

use super::columns::{Cell, lines, wrapped};
use super::state::{AccountRow, Condition, ConsumerRow, Millis, ModelRow, Now, State, UpstreamRow};
use super::words::{counted, duration, latency, left, percent, size};

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// How many consumers and events are printed.
const MOST: usize = 10;

/// The whole state as text; the lines are at most so many characters wide, if there is a `width`.
pub fn table(state: &State, width: Option<usize>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(state, width, &mut text);
    width.map_or_else(|| text.clone(), |width| wrapped(&text, width))
}

fn write(state: &State, width: Option<usize>, out: &mut String) -> fmt::Result {
    let head = &state.head;
    let now = head.proxy.time;
    let ready = head.proxy.condition == "ready";
    let style = if ready { color(AnsiColor::Green) } else { color(AnsiColor::Yellow) };
    writeln!(
        out,
        "{BOLD}merge-sync-proxy{BOLD:#} {}   {style}{}{style:#}, up {}",
        head.proxy.version,
        head.proxy.condition,
        duration(now.saturating_sub(head.proxy.started_at))
    )?;
    if let Some(reload) = head.proxy.last_reload.as_ref().filter(|reload| !reload.succeeded) {
        let style = color(AnsiColor::Red);
        writeln!(
            out,
            "{style}the last reload failed{style:#} {} ago: {}",
            duration(now.saturating_sub(reload.at)),
            reload.text
        )?;
    }
    let waiting = &head.proxy.needs_restart;
    if !waiting.is_empty() {
        let style = color(AnsiColor::Yellow);
        writeln!(out, "{style}needs a restart{style:#}, and stays as it was until then: {}", waiting.join(", "))?;
    }
    // In the first lines, which a small screen shows as well.
    for row in &head.upstreams {
        if let Some(stopped) = stopped(row, now) {
            let style = color(AnsiColor::Red);
            writeln!(out, "{style}no calls go to {}{style:#}: {stopped}", row.name)?;
        }
    }
    pace(&head.now, out)?;
    let cache = &head.cache;
    writeln!(
        out,
        "{BOLD}cache{BOLD:#}      {}, {} of {}; {} under way, {} for them",
        counted(cache.entries, "page", "pages"),
        size(cache.bytes),
        size(cache.capacity),
        counted(cache.flights, "fetch", "fetches"),
        counted(cache.waiters, "request waits", "requests wait")
    )?;
    accounts(state, width, out)?;
    consumers(&head.consumers, width, out)?;
    upstreams(&head.upstreams, now, width, out)?;
    if !head.events.is_empty() {
        writeln!(out, "\n{BOLD}events{BOLD:#}")?;
    }
    let rows = head.events.iter().take(MOST).map(|event| {
        let times = if event.count > 1 { format!(" ({} times)", event.count) } else { String::new() };
        vec![
            cell(format!("{} ago", duration(now.saturating_sub(event.at)))),
            cell(&event.kind),
            cell(event.subject.as_deref().unwrap_or("-")),
            cell(format!("{}{times}", event.text)),
        ]
    });
    lines(&[], rows.collect(), &[1], width, out)
}

/// What happens now; of what has not been measured, nothing.
fn pace(now: &Now, out: &mut String) -> fmt::Result {
    if now.requests_total == 0 {
        return writeln!(out, "\n{BOLD}now{BOLD:#}        nothing has been asked yet");
    }
    let saved = counted(now.calls_saved_today, "call", "calls");
    let ratio = now.hit_ratio.map_or_else(String::new, |share| format!(", {} needed no call", percent(Some(share))));
    let (requests, calls) = (now.requests_per_second, now.calls_per_second);
    writeln!(
        out,
        "\n{BOLD}now{BOLD:#}        {requests:.1} requests/s{ratio}; {calls:.1} calls/s to Merge, {saved} saved today"
    )?;
    let times = [("hits", now.hit_p99_microseconds), ("misses", now.miss_p99_microseconds)];
    let times = times.into_iter().filter(|(_, time)| time.is_some());
    let times: Vec<_> = times.map(|(what, time)| format!("{what} within {}", latency(time))).collect();
    if times.is_empty() { Ok(()) } else { writeln!(out, "           99 of 100 {}", times.join(", ")) }
}

fn accounts(state: &State, width: Option<usize>, out: &mut String) -> fmt::Result {
    let (accounts, now) = (&state.accounts, state.head.proxy.time);
    let counts = &accounts.conditions;
    writeln!(
        out,
        "\n{BOLD}accounts{BOLD:#}   {}: {}, {}, {} ok, {} idle",
        accounts.total,
        counted(counts.problem, "problem", "problems"),
        counted(counts.warning, "warning", "warnings"),
        counts.ok,
        counts.idle
    )?;
    let rows = accounts.rows.iter().map(|row| account(row, now)).collect();
    let head = ["STATE", "ACCOUNT", "UPSTREAM", "CATEGORY", "MODELS", "AGE", "NEXT SYNC", "BUDGET", "BECAUSE"];
    // The upstream, the category, the next sync, the models, the budget and the age can be left out, in this order.
    lines(&head, rows, &[2, 3, 6, 4, 7, 5], width, out)?;
    let left = accounts.matching.saturating_sub(accounts.offset + accounts.rows.len());
    if accounts.matching == 0 && accounts.total > 0 {
        writeln!(out, "  {DIM}none has the words of --filter{DIM:#}")?;
    }
    if left > 0 {
        writeln!(out, "  {DIM}and {left} more; --limit N shows more, --filter WORDS chooses{DIM:#}")?;
    }
    Ok(())
}

fn account(row: &AccountRow, now: Millis) -> Vec<Cell> {
    let style = match row.condition {
        Condition::Problem => color(AnsiColor::Red),
        Condition::Warning => color(AnsiColor::Yellow),
        Condition::Ok => color(AnsiColor::Green),
        Condition::Idle => DIM,
    };
    let next = row.next_sync.map(|at| if at > now { format!("in {}", left(at - now)) } else { "due".to_owned() });
    let budget = at_once(row.budget_left, row.budget_burst, row.budget.as_deref());
    let mut because = match &row.last_error {
        Some(error) if error.text == row.because => {
            format!("{}, {} ago", row.because, duration(now.saturating_sub(error.at)))
        }
        Some(error) => {
            format!("{}; {} ago: {}", row.because, duration(now.saturating_sub(error.at)), error.text)
        }
        None => row.because.clone(),
    };
    because.push_str(&obstacle(row, now));
    vec![
        Cell { text: row.condition.slug().to_owned(), style },
        cell(&row.name),
        cell(&row.upstream),
        cell(if row.categories.is_empty() { "-".to_owned() } else { row.categories.join(",") }),
        cell(models(&row.models)),
        cell(row.fetched_at.map_or_else(|| "-".to_owned(), |at| duration(now.saturating_sub(at)))),
        cell(next.unwrap_or_else(|| "-".to_owned())),
        cell(budget),
        cell(because),
    ]
}

/// What keeps calls from going, where that has not been said, and when the next may go.
fn obstacle(row: &AccountRow, now: Millis) -> String {
    let Some(obstacle) = &row.obstacle else { return String::new() };
    let what = if *obstacle == row.because { String::new() } else { format!("; {obstacle}") };
    // What is gone within a second is not worth a word.
    let until = row.obstacle_until.filter(|until| *until >= now + 1_000);
    let when = until.map_or_else(String::new, |until| format!("; the next call may go in {}", left(until - now)));
    format!("{what}{when}")
}

/// What is left of a rate, of which only a part may come at once.
fn at_once(left: Option<u32>, burst: Option<u32>, rate: Option<&str>) -> String {
    match (left, burst, rate) {
        (Some(left), Some(burst), Some(rate)) => format!("{left} of {burst} at once ({rate})"),
        _ => "unlimited".to_owned(),
    }
}

/// How many models have which status, those that need a look first.
fn models(models: &[ModelRow]) -> String {
    let order = ["FAILED", "PARTIALLY_SYNCED", "SYNCING", "DONE"];
    let place = |status: &str| order.iter().position(|known| *known == status).unwrap_or(order.len());
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for model in models {
        match counts.iter_mut().find(|(status, _)| *status == model.status) {
            Some((_, count)) => *count += 1,
            None => counts.push((&model.status, 1)),
        }
    }
    counts.sort_by_key(|(status, _)| place(status));
    let words: Vec<String> =
        counts.iter().map(|(status, count)| format!("{count} {}", status.to_lowercase().replace('_', " "))).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn consumers(rows: &[ConsumerRow], width: Option<usize>, out: &mut String) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{BOLD}consumers{BOLD:#}  those who make most calls first")?;
    let row = |row: &ConsumerRow| {
        let refused: Vec<String> =
            row.refused.iter().map(|refused| format!("{} {}", refused.count, refused.reason)).collect();
        let quota = at_once(row.quota_left, row.quota_burst, row.quota.as_deref());
        vec![
            cell(&row.name),
            cell(format!("{:.1}", row.requests_per_second)),
            cell(percent(row.hit_ratio)),
            cell(format!("{:.1}", row.calls_per_second)),
            cell(row.calls_total.to_string()),
            cell(quota),
            cell(if refused.is_empty() { "-".to_owned() } else { refused.join(", ") }),
        ]
    };
    let head = ["CONSUMER", "REQUESTS/S", "FROM CACHE", "CALLS/S", "CALLS", "QUOTA LEFT", "REFUSED"];
    lines(&head, rows.iter().take(MOST).map(row).collect(), &[4, 3, 5, 1], width, out)?;
    let left = rows.len().saturating_sub(MOST);
    if left > 0 {
        writeln!(out, "  {DIM}and {left} more{DIM:#}")?;
    }
    Ok(())
}

fn upstreams(rows: &[UpstreamRow], now: Millis, width: Option<usize>, out: &mut String) -> fmt::Result {
    writeln!(out, "\n{BOLD}upstreams{BOLD:#}")?;
    let row = |row: &UpstreamRow| {
        let of = |count: usize, most: Option<u32>| {
            most.map_or_else(|| count.to_string(), |most| format!("{count} of {most}"))
        };
        let state = match (stopped(row, now), row.held_back.as_deref()) {
            (Some(text), _) => Cell { text, style: color(AnsiColor::Red) },
            (None, Some(held_back)) => {
                Cell { text: format!("some are held back: {held_back}"), style: color(AnsiColor::Yellow) }
            }
            (None, None) => Cell { text: "calls may go".to_owned(), style: color(AnsiColor::Green) },
        };
        vec![
            cell(&row.name),
            cell(of(row.in_flight, row.concurrency)),
            cell(row.failures.map_or_else(|| "unlimited".to_owned(), |failures| of(failures, row.failures_allowed))),
            cell(row.waiting.to_string()),
            cell(row.per_account.as_deref().unwrap_or("unlimited")),
            state,
        ]
    };
    let head = ["UPSTREAM", "IN FLIGHT", "FAILURES", "WAITING", "PER ACCOUNT", "STATE"];
    lines(&head, rows.iter().map(row).collect(), &[4, 3, 1], width, out)
}

/// Why no call goes to an upstream; `None` while some may.
fn stopped(row: &UpstreamRow, now: Millis) -> Option<String> {
    let allowed = row.failures_allowed.and_then(|allowed| usize::try_from(allowed).ok());
    let is_spent = row.failures.zip(allowed).is_some_and(|(failures, allowed)| failures >= allowed);
    let blocked = row.blocked_until.filter(|until| *until > now);
    match (blocked, row.breaker.as_deref()) {
        (Some(until), _) => Some(format!("stopped for {}", left(until - now))),
        (None, _) if is_spent => Some("stopped, too many failed".to_owned()),
        (None, Some(breaker)) if breaker != "closed" => Some(format!("breaker {breaker}")),
        _ => None,
    }
}

fn cell(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), style: PLAIN }
}

fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(color.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::state::{EventRow, Failure, Refused};
    use crate::admin::view::View;
    use crate::admin::view::tests::{account, read, snapshot};

    #[test]
    fn columns_stand_below_each_other_and_nothing_is_left_out() {
        let broken = AccountRow {
            last_error: Some(Failure { at: 4_000, text: "Merge answered 500".into() }),
            next_sync: Some(190_000),
            ..account("globex-long-name", Condition::Problem)
        };
        let mut state = View::default().of(&snapshot(vec![account("acme", Condition::Ok), broken]));
        state.head.consumers.push(ConsumerRow {
            name: "team".into(),
            requests_per_second: 12.0,
            hit_ratio: Some(0.975),
            calls_per_second: 0.3,
            requests_total: 100,
            calls_total: 3,
            quota_left: Some(7),
            quota_burst: Some(120),
            quota: Some("600/min".into()),
            waiting: 0,
            refused: vec![Refused { reason: "quota-exceeded".into(), count: 2 }],
        });
        let event = |count| EventRow {
            id: 1,
            at: 9_000,
            kind: "purge".into(),
            subject: Some("acme".into()),
            text: "1 page made stale".into(),
            count,
        };
        state.head.events = vec![event(1), event(3)];
        let text = anstream::adapter::strip_str(&table(&state, None)).to_string();
        let line =
            |part: &str| text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {text}"));
        let (globex, acme) = (line("globex-long-name"), line(" acme  "));
        assert_eq!(globex.find(" us "), acme.find(" us "), "{text}");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words(globex)
                .ends_with("1 done 9 s in 3 min 20 of 20 at once (100/min) in sync; 6 s ago: Merge answered 500"),
            "{globex:?}"
        );
        assert_eq!(words(line("team")), "team 12.0 97.5 % 0.3 3 7 of 120 at once (600/min) 2 quota-exceeded");
        assert_eq!(words(line("(3 times)")), "1 s ago purge acme 1 page made stale (3 times)");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
        for width in [60, 80, 100] {
            let narrow = anstream::adapter::strip_str(&table(&state, Some(width))).to_string();
            assert!(narrow.lines().all(|line| line.chars().count() <= width), "{narrow}");
            let kept = ["globex-long-name", "STATE", "ACCOUNT", "BECAUSE", "team", "97.5 %", "1 page made stale"];
            assert!(kept.iter().all(|part| narrow.contains(part)), "{narrow}");
        }
    }

    #[test]
    fn what_concerns_all_accounts_of_an_upstream_stands_in_the_first_lines() {
        let mut state = View::default().of(&snapshot(vec![account("acme", Condition::Ok)]));
        let upstream = |name: &str, blocked_until, failures, breaker: &str| UpstreamRow {
            name: name.into(),
            per_account: None,
            in_flight: 0,
            concurrency: None,
            waiting: 0,
            failures: Some(failures),
            failures_allowed: Some(10),
            failure_budget: Some("10/10s".into()),
            blocked_until,
            held_back: None,
            breaker: Some(breaker.into()),
        };
        state.head.upstreams = vec![
            upstream("us", None, 9, "closed"),
            upstream("eu", Some(24_000), 5, "open"),
            upstream("ap", None, 10, "closed"),
            upstream("sandbox", None, 0, "half-open"),
        ];
        let text = anstream::adapter::strip_str(&table(&state, Some(60))).to_string();
        let first: Vec<&str> = text.lines().skip(1).take(4).collect();
        assert_eq!(
            first,
            [
                "no calls go to eu: stopped for 14 s",
                "no calls go to ap: stopped, too many failed",
                "no calls go to sandbox: breaker half-open",
                ""
            ]
        );
    }

    #[test]
    fn what_needs_a_restart_is_told_in_the_first_lines() {
        let mut state = View::default().of(&snapshot(vec![]));
        let second = |state: &State| {
            let text = anstream::adapter::strip_str(&table(state, None)).to_string();
            text.lines().nth(1).expect("a line").to_owned()
        };
        assert_eq!(second(&state), "");
        state.head.proxy.needs_restart = vec!["server.listen".into(), "server.workers".into()];
        let told = "needs a restart, and stays as it was until then: server.listen, server.workers";
        assert_eq!(second(&state), told);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        let told = |now| {
            let mut state = View::default().of(&snapshot(vec![]));
            state.head.now = now;
            let text = anstream::adapter::strip_str(&table(&state, None)).to_string();
            let lines =
                text.lines().skip_while(|line| !line.starts_with("now ")).take_while(|line| !line.starts_with("cache"));
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(told(Now::default()), ["now nothing has been asked yet"]);
        let quiet = Now { requests_total: 9, calls_saved_today: 1, ..Now::default() };
        assert_eq!(told(quiet.clone()), ["now 0.0 requests/s; 0.0 calls/s to Merge, 1 call saved today"]);
        let misses = Now { hit_ratio: Some(0.0), miss_p99_microseconds: Some(2_500.0), ..quiet };
        let asked = "now 0.0 requests/s, 0.0 % needed no call; 0.0 calls/s to Merge, 1 call saved today";
        assert_eq!(told(misses.clone()), [asked, "99 of 100 misses within 2.5 ms"]);
        let both = Now { hit_p99_microseconds: Some(85.0), ..misses };
        assert_eq!(told(both), [asked, "99 of 100 hits within 85 µs, misses within 2.5 ms"]);
    }

    #[test]
    fn an_empty_choice_says_so() {
        let all = snapshot(vec![account("acme", Condition::Ok)]);
        let text = |query: &str| {
            let state = read(query).expect("a view").of(&all);
            anstream::adapter::strip_str(&table(&state, None)).to_string()
        };
        assert!(text("filter=globex").contains("\n  none has the words of --filter\n"), "{}", text("filter=globex"));
        assert!(!text("filter=acme").contains("--filter") && !text("").contains("--filter"));
        assert!(text("limit=0").contains("\n  and 1 more; --limit N shows more, --filter WORDS chooses\n"));
    }
}
