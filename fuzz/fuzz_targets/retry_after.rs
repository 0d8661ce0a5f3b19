//! Whatever `Retry-After` says, the pause is none or from one second to ten minutes.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use merge_sync_proxy::upstream::retry_after::pause;

fuzz_target!(|input: (u64, &str)| {
    let (date, value) = input;
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(date % (1 << 40));
    if let Some(pause) = pause(value, date) {
        assert!((Duration::from_secs(1)..=Duration::from_secs(600)).contains(&pause), "{pause:?}");
        assert!(value.contains(|letter: char| letter.is_ascii_digit()));
    }
});
