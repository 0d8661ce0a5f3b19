//! `demo`: where it listens, and that nobody else can reach it.

use std::process::ExitCode;

use super::say::is_enough;
use super::signals::stop_signal;
use super::{fail, run_to_end, wrong};
use crate::app::descriptors;
use crate::config::address::ListenAddress;
use crate::demo::run::{self, DemoError};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Make this many requests, print where their answers came from, and end
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Where the proxy listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = local_address)]
    listen: ListenAddress,
    /// Where its admin listener is
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081", value_parser = local_address)]
    admin: ListenAddress,
}

/// An address for the demo, which anybody who reaches it may use.
fn local_address(text: &str) -> Result<ListenAddress, String> {
    match ListenAddress::parse(text) {
        Ok(address @ ListenAddress::Tcp { .. }) if address.is_local() => Ok(address),
        Ok(ListenAddress::Tcp { .. }) => {
            Err("the demo is for this machine alone: localhost, 127.0.0.1 or [::1]".into())
        }
        Ok(ListenAddress::Unix(_)) => Err("the demo listens on TCP: write host:port, as in 127.0.0.1:8080".into()),
        Err(_) if text.parse::<u16>().is_ok() => Err(format!("write host:port, as in 127.0.0.1:{text}")),
        Err(message) => Err(message),
    }
}

pub(super) fn run(Arguments { requests, listen, admin }: Arguments) -> ExitCode {
    // A tour is over before anybody could use its addresses, so it takes any that are free.
    let free = |address| match address {
        ListenAddress::Tcp { host, .. } if requests.is_some() => ListenAddress::Tcp { host, port: 0 },
        address => address,
    };
    let (listen, admin) = (free(listen), free(admin));
    if listen.clashes_with(&admin) {
        return wrong(&format!("--listen and --admin are both {listen}; give one of them another port"));
    }
    descriptors::raise();
    let options = run::Options { listen, admin, requests };
    let result = run_to_end(2, async {
        let stop = stop_signal()?;
        Ok(run::run(options, stop, &mut anstream::stdout()).await)
    });
    match result.flatten() {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(DemoError::Io(error))) if is_enough(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}
