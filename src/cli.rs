//! The command line.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use self::say::{complain, is_enough, print};
use self::signals::Signals;
use crate::app::{App, Listeners, StartError, descriptors, watch};
use crate::config::address::ListenAddress;
use crate::config::effective::Config;
use crate::config::fault::Faults;
use crate::config::report;
use crate::config::words::{LogFormat, parse_name};
use crate::domain::key::TokenHasher;
use crate::door::consumer_key;
use crate::listen::accept::{Drained, Listener};
use crate::listen::bind::Presence;
use crate::telemetry::{log, redact};

mod demo;
mod say;
mod signals;
mod status;
mod usage;

/// Something failed while running.
const FAILED: u8 = 1;

/// The usage or the configuration is wrong.
const WRONG: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  merge-sync-proxy demo                      see it work, without account or network
  merge-sync-proxy check --config proxy.toml say what a start would do, or what is wrong
  merge-sync-proxy --config proxy.toml       run the proxy
  merge-sync-proxy status --watch            see what a running proxy does
  merge-sync-proxy --replace                 run it beside the one that it replaces, which is then stopped
  merge-sync-proxy key new recruiting-sync   make a key for a team";

/// A local caching reverse proxy for the sync-status calls of Merge's unified API.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    file: File,
    /// Listen beside a proxy that still runs at the same addresses, to replace it; without this that is an error
    #[arg(long, env = "MERGE_SYNC_PROXY_REPLACE")]
    replace: bool,
}

#[derive(Debug, clap::Args)]
struct File {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "proxy.toml", env = "MERGE_SYNC_PROXY_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy; the default
    Serve(Serve),
    /// Read and check everything that a start would, and print what was understood
    Check(File),
    /// Run the proxy in front of a simulated Merge; needs nothing
    Demo(demo::Arguments),
    /// Show what a running proxy does: accounts, consumers, budgets, cache, events
    Status(status::Arguments),
    /// Keys for consumers
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print a fresh key, once, and the stanza with its hash for the configuration
    New {
        /// The consumer's name
        name: String,
    },
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    signals::survive_full_files();
    let arguments = usage::parse();
    match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(Serve { file, replace }) => {
            serve(&file.config, if replace { Presence::Beside } else { Presence::Alone })
        }
        Command::Check(file) => check(&file.config),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Key { command: KeyCommand::New { name } } => new_key(&name),
    }
}

fn load(path: &Path) -> Result<(Config, TokenHasher), Faults> {
    let hasher = TokenHasher::new();
    Ok((Config::load(path, &hasher)?, hasher))
}

fn refuse(faults: &Faults) -> ExitCode {
    complain(faults);
    ExitCode::from(WRONG)
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    // After the lines of the log, which may say more about it.
    log::tell(&format!("merge-sync-proxy: {error}"));
    log::finish();
    ExitCode::from(FAILED)
}

/// The usage is wrong in a way that only a look at the surroundings shows.
fn wrong(message: &str) -> ExitCode {
    complain(format_args!("merge-sync-proxy: {message}"));
    ExitCode::from(WRONG)
}

/// The end of a command that has no more to do than to say something.
fn said(written: io::Result<()>) -> ExitCode {
    match written {
        Err(error) if !is_enough(&error) => fail(&error),
        _ => ExitCode::SUCCESS,
    }
}

fn check(path: &Path) -> ExitCode {
    let (config, _) = match load(path) {
        Ok(loaded) => loaded,
        Err(faults) => return refuse(&faults),
    };
    // As a start would.
    descriptors::raise();
    if let Err(error) = App::could_connect(&config) {
        return wrong(&error.to_string());
    }
    let reported = report::report(&config, io::stdout().is_terminal(), &mut anstream::stdout());
    // After the report, which may be long: what stands last is read.
    if let Some(warning) = descriptors::warning(config.server.max_connections, descriptors::limit()) {
        complain(format_args!("warning: {warning}"));
    }
    for warning in &config.warnings {
        complain(format_args!("warning: {warning}"));
    }
    said(reported)
}

fn serve(path: &Path, presence: Presence) -> ExitCode {
    let (config, hasher) = match load(path) {
        Ok(loaded) => loaded,
        Err(faults) => return refuse(&faults),
    };
    let pretty = config.telemetry.log.map_or_else(|| io::stderr().is_terminal(), |log| log == LogFormat::Pretty);
    redact::conceal(config.secrets());
    if let Err(error) = log::start(pretty, &config.telemetry.filter, config.telemetry.access_log) {
        return fail(&error);
    }
    descriptors::raise();
    if let Some(warning) = descriptors::warning(config.server.max_connections, descriptors::limit()) {
        tracing::warn!(%warning, "configuration");
    }
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let workers = config.server.workers.get();
    let ended = run_to_end(workers, serve_with(config, &hasher, path, presence));
    log::finish();
    ended.unwrap_or_else(|error| fail(&error))
}

/// Serves by `config` until it is told to stop, and drains.
async fn serve_with(config: Config, hasher: &TokenHasher, path: &Path, presence: Presence) -> ExitCode {
    let app = match App::new(config, hasher) {
        Ok(app) => app,
        Err(error) => {
            let failed = fail(&error);
            // What keeps it from an upstream stands in the configuration or the environment.
            return if matches!(error, StartError::Upstream { .. }) { ExitCode::from(WRONG) } else { failed };
        }
    };
    app.reads_file(path.to_owned());
    let (mut signals, follow) = match (Signals::new(), watch::follow(app.clone(), path.to_owned())) {
        (Ok(signals), Ok(follow)) => (signals, follow),
        (Err(error), _) | (_, Err(error)) => return fail(&error),
    };
    // Last of all that may fail: with it, it takes the place of whoever is to be replaced.
    let config = app.config();
    let listeners = match Listeners::bind_with(&config, presence).await {
        Ok(listeners) => listeners,
        Err(error) => return fail(&error),
    };
    let listen: Vec<_> = config.server.listen.iter().zip(&listeners.proxy).map(told).collect();
    let (listen, admin) = (listen.join(", "), told((&config.admin.listen, &listeners.admin)));
    tokio::spawn(follow);
    let stop = async {
        signals.next().await;
        let seconds = app.config().server.drain.as_secs_f64();
        tracing::info!(seconds, "told to stop: what runs may finish, for at most that long");
        let app = app.clone();
        tokio::spawn(async move {
            signals.next_wish().await;
            tracing::warn!("told to stop again: what still runs is cut");
            app.cut_short();
        });
    };
    tracing::info!(listen, admin, "serving");
    match app.serve(listeners, stop).await {
        Drained { cut: 0 } => {
            tracing::info!("drained: everything finished");
            ExitCode::SUCCESS
        }
        Drained { cut } => {
            tracing::warn!(cut, "drained: connections that were still busy were cut");
            ExitCode::from(FAILED)
        }
    }
}

/// How the log calls a place where the process listens: by the port that it has got, where it has asked for any.
fn told((address, listener): (&ListenAddress, &Listener)) -> String {
    listener.tcp_address().map_or_else(|| address.to_string(), |bound| bound.to_string())
}

fn new_key(name: &str) -> ExitCode {
    if let Err(message) = parse_name(name) {
        return wrong(&format!("the name '{name}' {message}"));
    }
    let key = consumer_key::generate();
    said(print(&format!(
        "\
The key of {name}; it is shown this once, so hand it over now:

  {key}

For the configuration, which holds only its hash:

[[consumers]]
name = \"{name}\"
key_sha256 = \"{}\"
accounts = []              # names and globs of the accounts that it may ask for
",
        consumer_key::hash(&key)
    )))
}

/// Runs `future` to its end, on so many threads. What else is still under way then is not waited for: to look up a name or to read a file
/// may take for ever.
fn run_to_end<F: Future>(workers: usize, future: F) -> io::Result<F::Output> {
    let runtime = Builder::new_multi_thread().worker_threads(workers).thread_name("proxy").enable_all().build()?;
    let ended = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(ended)
}
