//! RFC 9111 as the public conformance suite for HTTP caches tests it, through a route with `cache = "http"`.

use std::path::Path;
use std::process::Command;

use crate::packages;

/// The script says which tests cannot pass here, and why. It ends by itself, and fails if anything is not as it says.
#[test]
fn every_required_test_of_the_http_caching_suite_passes() {
    if packages::are_left_out() {
        return;
    }
    let suite = packages::node("http-cache");
    let mut command = Command::new("node");
    command.arg(packages::source("http-cache/run.mjs")).arg("--suite").arg(suite);
    let output = command.arg("--bin").arg(Path::new(env!("CARGO_BIN_EXE_merge-sync-proxy"))).output();
    let output = output.expect("it has told its version");
    let [out, err] = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{out}{err}");
    println!("{out}");
}
