//! The command `merge-sync-proxy`; everything that it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    merge_sync_proxy::cli::run()
}
