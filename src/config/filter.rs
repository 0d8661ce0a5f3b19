//! `telemetry.filter`: which log lines are written.

use tracing::{Level, subscriber};
use tracing_subscriber::EnvFilter;

use super::source::closest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

const ALLOWED: &str = "must be off, error, warn, info, debug or trace, and what differs after it, as in \"info\", \"debug\" or \
                       \"info,merge_sync_proxy::upstream=debug\"";

/// Says what is wrong with `filter`. What it selects by the fields of a span is for others to understand.
pub(super) fn check(filter: &str) -> Result<(), String> {
    let by_levels = !filter.contains(['[', '{']);
    if by_levels && filter.contains(char::is_whitespace) {
        return Err("must be written without blanks, as in \"info,merge_sync_proxy::upstream=debug\"".into());
    }
    for part in filter.split(',').filter(|part| by_levels && !part.is_empty()) {
        // A word alone that is no level would be taken for a part of the program: all its lines would be written, and no others.
        let (target, level) = part.rsplit_once('=').map_or((None, part), |(target, level)| (Some(target), level));
        if is_level(level) {
            continue;
        }
        return Err(match meant(&level.to_lowercase()) {
            Some(near) => format!("`{level}` is no level, did you mean `{near}`?"),
            None if target.is_none() => {
                format!("`{level}` is no level: write \"info,{level}=debug\" for more lines of that part; or {ALLOWED}")
            }
            None => ALLOWED.into(),
        });
    }
    EnvFilter::builder().parse(filter).map(drop).map_err(|_| ALLOWED.into())
}

fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || matches!(word.as_bytes(), [b'0'..=b'5'])
}

/// The level that `word` was probably meant to be: a slip, or a longer word, as `warning` is.
fn meant(word: &str) -> Option<&'static str> {
    closest(word, LEVELS).or_else(|| LEVELS.into_iter().find(|level| word.starts_with(level)))
}

/// Whether `filter` lets the lines of requests through.
pub(super) fn passes_requests(filter: &str) -> bool {
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).finish();
    subscriber::with_default(log, || tracing::enabled!(target: "access", Level::INFO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_parts_of_the_program() {
        for good in [
            "info",
            "WARN",
            "off",
            "3",
            "info,audit=off",
            "warn,hyper=debug",
            "a::b=trace,info,",
            "info,[call{id=7}]=debug",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, told) in [
            ("inof", "`inof` is no level, did you mean `info`?"),
            ("warning", "`warning` is no level, did you mean `warn`?"),
            ("info,audit=of", "`of` is no level, did you mean `off`?"),
            (
                "hyper",
                &*format!("`hyper` is no level: write \"info,hyper=debug\" for more lines of that part; or {ALLOWED}"),
            ),
            ("a=b=c", ALLOWED),
            ("warn, hyper=debug", "must be written without blanks, as in \"info,merge_sync_proxy::upstream=debug\""),
            ("hyper=", ALLOWED),
            ("info,[", ALLOWED),
        ] {
            assert_eq!(check(bad), Err(told.into()), "{bad}");
        }
    }

    #[test]
    fn it_is_known_whether_requests_get_a_line() {
        for (filter, passes) in
            [("info", true), ("warn", false), ("warn,access=info", true), ("info,access=off", false)]
        {
            assert_eq!(passes_requests(filter), passes, "{filter}");
        }
    }
}
