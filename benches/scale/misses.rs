//! What a miss adds to going direct.

use std::net::SocketAddr;

use super::support::child::{self, Awake, Server, this_program};
use super::support::drive::End;
use super::support::foreign::{self, Setting};
use super::support::ground;
use super::support::role::{Layout, Role};
use super::support::rounds::{spread, spread_of};
use super::support::upstream;
use super::support::wire::Speech;
use super::wide::{ACCOUNTS, Wide};
use super::{ROUNDS, run};

/// How many misses a turn has.
const TURN: u64 = 3_000;

/// Where whoever stands in between runs, and where Merge does; the client is always on the last core.
///
/// Two who talk on different cores wake each other's, which on a virtual machine can take longer than all else. With all on one core nobody
/// wakes any, and what is added is what the server takes. With Merge on the server's core, who goes direct wakes as many as who goes through
/// the server, which begins with the cold caches of a core that has slept. With the server on a core of its own, who goes direct wakes none.
/// Cores that are kept awake show what is left of it where cores do not sleep.
struct Place {
    title: &'static str,
    server: usize,
    merge: usize,
    awake: bool,
}

/// One that stands in between.
struct Between {
    name: &'static str,
    server: Server,
    mix: Wide,
}

/// What a turn showed, in microseconds.
struct Turn {
    /// Median and 99 % of what was added to the turn of who went direct.
    added: [f64; 2],
    /// Median of the whole time.
    whole: f64,
    /// Processor time of a miss.
    cpu: f64,
}

/// For each place, the proxy, that of the `other` build if there is one, nginx where it is installed, and whoever passes on bytes and does
/// nothing else: so much is the machine's.
pub(crate) fn misses(other: Option<&str>) {
    let last = child::cores() - 1;
    let place = |title, server, merge, awake| Place { title, server, merge, awake };
    let places = [
        place("everybody's", last, last, false),
        place("Merge's", 0, 0, false),
        place("Merge's, awake", 0, 0, true),
        place("its own", 0, last, false),
        place("its own, awake", 0, last, true),
    ];
    println!(
        "\nmisses, one connection: what is added to going direct to the simulated Merge; medians of {ROUNDS} rounds that take turns"
    );
    let against = if other.is_some() {
        format!(" {:>20} {:>20}", "time × the other", "CPU × the other")
    } else {
        String::new()
    };
    println!("{:>18} {:>16} {:>18} {:>18} {:>22}{against}", "", "on a core", "p50 µs", "p99 µs", "CPU µs");
    // With one core there is one place.
    for place in &places[..if last == 0 { 1 } else { places.len() }] {
        let awake = if place.awake { Awake::begin() } else { None };
        if awake.is_some() == place.awake {
            show(place, &added(place, other), other.is_some());
        }
    }
}

/// Lets them take turns in this place.
fn added(place: &Place, other: Option<&str>) -> Vec<(&'static str, Vec<Turn>)> {
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
    // Each asks for what it has not been asked for: a cache would not miss what the round before has brought.
    let many = 1_000_000;
    let proxy = |name, program: &str| Between {
        name,
        server: Server::play_by(program, Role::Proxy, &layout, setting.cores),
        mix: Wide::new(many, ACCOUNTS),
    };
    let foreign = |name, server| Between { name, server, mix: Wide::direct(many) };
    let mut between = vec![proxy(Role::Proxy.name(), &this_program())];
    between.extend(other.map(|other| proxy("the other build", other)));
    between.push(foreign(Role::Relay.name(), Server::play(Role::Relay, &layout, setting.cores)));
    between.extend(foreign::start("nginx", &setting).map(|server| foreign("nginx", server)));

    let turn = |target: SocketAddr, mix: &mut Wide| {
        let report = run(target, 1, End::Requests(TURN), mix);
        [0.5, 0.99].map(|at| report.microseconds(at))
    };
    let mut direct = Wide::direct(many);
    turn(upstream, &mut direct);
    for Between { server, mix, .. } in &mut between {
        turn(server.address, mix);
    }
    let mut rounds: Vec<(_, Vec<Turn>)> = between.iter().map(|between| (between.name, Vec::new())).collect();
    for _ in 0..ROUNDS {
        let direct = turn(upstream, &mut direct);
        for (Between { server, mix, .. }, (_, turns)) in between.iter_mut().zip(&mut rounds) {
            let before = server.cpu();
            let through = turn(server.address, mix);
            let cpu = server.cpu().saturating_sub(before).as_secs_f64() * 1e6 / TURN as f64;
            turns.push(Turn { added: [0, 1].map(|at| through[at] - direct[at]), whole: through[0], cpu });
        }
    }
    rounds
}

/// A line for each; with `against`, the second is what the others are compared with.
fn show(place: &Place, rounds: &[(&'static str, Vec<Turn>)], against: bool) {
    for (name, turns) in rounds {
        let [p50, p99] = [0, 1].map(|at| spread_of(turns.iter().map(|turn| turn.added[at]).collect(), 0));
        let cpu = spread_of(turns.iter().map(|turn| turn.cpu).collect(), 1);
        let ratio = |of: &dyn Fn(&Turn) -> f64| {
            let pairs = turns.iter().zip(&rounds[1].1);
            format!(" {:>20}", spread(pairs.map(|(mine, other)| of(mine) / of(other)).collect()))
        };
        let ratios = if against { ratio(&|turn| turn.whole) + &ratio(&|turn| turn.cpu) } else { String::new() };
        println!("{name:>18} {:>16} {p50:>18} {p99:>18} {cpu:>22}{ratios}", place.title);
    }
}
