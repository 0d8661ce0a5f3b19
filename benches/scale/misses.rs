//! What a miss adds to going direct.

use std::net::SocketAddr;

use super::support::child::{self, Server};
use super::support::drive::End;
use super::support::foreign::{self, Setting};
use super::support::ground;
use super::support::role::{Layout, Role};
use super::support::rounds::spread_of;
use super::support::upstream;
use super::support::wire::Speech;
use super::wide::{ACCOUNTS, Wide};
use super::{ROUNDS, run};

/// Where whoever stands in between runs, and where Merge does; the client is always on the last core.
///
/// Two who talk on different cores wake each other's, which on a virtual machine can take longer than all else. With all on one core nobody
/// wakes any, and what is added is what the server takes. With Merge on the server's core, who goes direct wakes as many as who goes through
/// the server, which begins with the cold caches of a core that has slept. With the server on a core of its own, who goes direct wakes none.
struct Place {
    title: &'static str,
    server: usize,
    merge: usize,
}

/// For each place, the proxy, nginx where it is installed, and whoever passes on bytes and does nothing else: so much is the machine's.
pub(crate) fn misses() {
    let last = child::cores() - 1;
    let places = [
        Place { title: "Merge's", server: 0, merge: 0 },
        Place { title: "everybody's", server: last, merge: last },
        Place { title: "its own", server: 0, merge: last },
    ];
    println!(
        "\nmisses, one connection: what is added to going direct to the simulated Merge; medians of {ROUNDS} rounds that take turns"
    );
    println!("{:>18} {:>12} {:>22} {:>22}", "", "on a core", "p50 µs", "p99 µs");
    let different = if last == 0 { 1..2 } else { 0..3 };
    for place in &places[different] {
        added(place);
    }
}

/// Lets them take turns in this place, and prints what each adds.
fn added(place: &Place) {
    let upstream = upstream::serve_on(place.merge, ground::merge(ACCOUNTS));
    let folder = tempfile::tempdir().expect("a place for files");
    let core = place.server.to_string();
    let setting = Setting {
        folder: folder.path(),
        upstream,
        speech: Speech::Http1,
        tls: false,
        workers: 1,
        lifetime: 3_600,
        cores: Some(&core),
    };
    let layout = Layout { upstream: Some(upstream), ..Layout::default() };
    let play = |role: Role| (role.name(), Some(Server::play(role, &layout, setting.cores)));
    let nginx = foreign::start("nginx", &setting);
    let servers: Vec<_> = [play(Role::Proxy), play(Role::Relay), ("nginx", nginx)]
        .into_iter()
        .filter_map(|(name, server)| Some((name, server?)))
        .collect();
    let turn = |target: SocketAddr, mix: &mut Wide| {
        let report = run(target, 1, End::Requests(3_000), mix);
        [0.5, 0.99].map(|at| report.microseconds(at))
    };
    // Each asks for what it has not been asked for: a cache would not miss what the round before has brought.
    let mut direct = Wide::direct(1_000_000);
    let mut mixes = [Wide::new(1_000_000, ACCOUNTS), Wide::direct(1_000_000), Wide::direct(1_000_000)];
    turn(upstream, &mut direct);
    for ((_, server), mix) in servers.iter().zip(&mut mixes) {
        turn(server.address, mix);
    }
    let mut rounds = vec![Vec::new(); servers.len()];
    for _ in 0..ROUNDS {
        let direct = turn(upstream, &mut direct);
        for (((_, server), mix), rounds) in servers.iter().zip(&mut mixes).zip(&mut rounds) {
            let through = turn(server.address, mix);
            rounds.push([0, 1].map(|at| through[at] - direct[at]));
        }
    }
    for ((name, _), rounds) in servers.iter().zip(&rounds) {
        let [p50, p99] = [0, 1].map(|at| spread_of(rounds.iter().map(|round| round[at]).collect(), 0));
        println!("{name:>18} {:>12} {p50:>22} {p99:>22}", place.title);
    }
}
