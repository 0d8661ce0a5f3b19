//! The demo: a simulated Merge, the proxy in front of it, and on request a tour that asks by itself.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpListener;

use super::merge::Merge;
use super::tour::Tour;
use crate::app::{ADMIN, App, Listeners, StartError};
use crate::config::address::ListenAddress;
use crate::config::effective::Config;
use crate::domain::key::TokenHasher;
use crate::listen::accept::Listener;

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the proxy listens, on TCP.
    pub listen: ListenAddress,
    /// Where its admin listener is, on TCP.
    pub admin: ListenAddress,
    /// Run so many requests and end.
    pub requests: Option<u64>,
}

/// Why the demo could not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; choose another with {option}")]
    Listen {
        /// The address as given.
        address: String,
        /// The operating system's reason.
        reason: io::Error,
        /// The option that gives the address.
        option: &'static str,
    },
    /// The proxy did not start.
    #[error(transparent)]
    Start(StartError),
    /// A socket or the terminal failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The demo's own configuration is wrong.
    #[error("the demo's configuration is wrong: {0}")]
    Config(String),
    /// Some requests of the tour failed.
    #[error("{0} requests of the tour got no answer")]
    Tour(u64),
}

impl From<StartError> for DemoError {
    /// In the words of the command line: the demo has no file whose keys could be named, and takes over from nobody.
    fn from(error: StartError) -> Self {
        match error {
            StartError::Listen { address, key, reason, .. } => {
                Self::Listen { address, reason, option: if key == ADMIN { "--admin" } else { "--listen" } }
            }
            other => Self::Start(other),
        }
    }
}

/// What the simulated Merge signs its webhooks with.
const WEBHOOK_SECRET: &str = "demo-webhook-secret";

/// Runs the demo until `stop`, or until the tour is over; what it has to say goes to `out`.
///
/// # Errors
/// If the proxy cannot start, or a request of the tour gets no answer.
pub async fn run(options: Options, stop: impl Future, out: &mut impl Write) -> Result<(), DemoError> {
    let merge = Merge::demo();
    let simulated = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let upstream = simulated.local_addr()?;
    let hasher = TokenHasher::new();
    let config = config(&merge, upstream, &options, &hasher)?;
    let listeners = Listeners::bind(&config).await?;
    let app = App::new(config, &hasher)?;
    let bound = (listeners.proxy.iter().find_map(Listener::tcp_address), listeners.admin.tcp_address());
    let (Some(proxy), Some(admin)) = bound else { return Err(DemoError::Config("it listens on TCP".into())) };
    let simulation = tokio::spawn(merge.clone().serve(simulated, std::future::pending::<()>()));
    let webhooks = tokio::spawn(merge.clone().send_webhooks(proxy, WEBHOOK_SECRET));
    let result = match options.requests {
        None => {
            out.write_all(welcome(&merge, upstream, proxy, admin).as_bytes())?;
            out.flush()?;
            app.serve(listeners, stop).await;
            Ok(())
        }
        Some(requests) => {
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            let serving = tokio::spawn(async move { app.serve(listeners, ended).await });
            let tour = Tour::new(&merge, proxy, requests);
            let tally = tokio::select! {
                tally = tour.run(io::stderr().is_terminal()) => Some(tally),
                _ = stop => None,
            };
            drop(end);
            let _ = serving.await;
            let Some(tally) = tally else { return Ok(()) };
            out.write_all(tally.table(merge.calls()).as_bytes())?;
            if tally.failed() == 0 { Ok(()) } else { Err(DemoError::Tour(tally.failed())) }
        }
    };
    webhooks.abort();
    simulation.abort();
    result
}

/// The demo's configuration, written and read as a user's would be.
fn config(merge: &Merge, upstream: SocketAddr, options: &Options, hasher: &TokenHasher) -> Result<Config, DemoError> {
    let Options { listen, admin, .. } = options;
    let mut text = format!(
        "[server]
listen = ['{listen}']
[admin]
listen = '{admin}'
[upstreams.simulated]
base_url = 'http://{upstream}'
api_key = {{ env = 'api_key' }}
# The simulated syncs run sixty times faster than Merge's, so settled pages live shorter too.
[cache.ttl]
settled = '10s'
[webhook]
secret = {{ env = 'webhook' }}
"
    );
    for account in merge.accounts() {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[accounts]]\nname = '{0}'\ntoken = {{ env = '{0}' }}\nlinked_account_id = '{1}'\n",
            account.name,
            account.id()
        );
    }
    let secret = |name: &str| match name {
        "api_key" => Some(merge.api_key().into()),
        "webhook" => Some(WEBHOOK_SECRET.into()),
        _ => merge.accounts().find(|account| account.name == name).map(|account| account.token.as_str().into()),
    };
    Config::parse(&text, Path::new("demo"), &secret, hasher).map_err(|faults| DemoError::Config(faults.to_string()))
}

fn welcome(merge: &Merge, upstream: SocketAddr, proxy: SocketAddr, admin: SocketAddr) -> String {
    let mut text = format!(
        "\
merge-sync-proxy demo

  proxy            http://{proxy}
  status page      http://{admin}/
  simulated Merge  http://{upstream}  (a minute of its syncs passes in a second)

  accounts, to be named in X-Account-Token:
"
    );
    for account in merge.accounts() {
        let _ = writeln!(text, "    {:<18} {:<12} {}", account.name, account.category, account.integration);
    }
    let _ = write!(
        text,
        "
  Try this twice, and compare Cache-Status and Age:

    curl -i -H 'X-Account-Token: acme-greenhouse' http://{proxy}/api/ats/v1/sync-status

  Ctrl-C ends the demo.
"
    );
    text
}
