//! The sockets of one configuration, and why there may be none.

use std::io;

use crate::config::address::ListenAddress;
use crate::config::effective::Config;
use crate::domain::access::Name;
use crate::domain::rules::SocketAccess;
use crate::listen::accept::Listener;
use crate::listen::bind::{self, Presence};
use crate::listen::tls::Tls;
use crate::listen::unix::{self, SocketFile};
use crate::upstream::transport::TransportError;

/// The key of the address for operators.
pub(crate) const ADMIN: &str = "admin.listen";

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key}): {reason}{}", advice(reason, *presence))]
    Listen {
        /// The address as configured.
        address: String,
        /// The key that it is configured with.
        key: &'static str,
        /// Who else was to be allowed there.
        presence: Presence,
        /// The operating system's reason.
        reason: io::Error,
    },
    /// An upstream cannot be reached at all.
    #[error("upstream {upstream}: {reason}")]
    Upstream {
        /// Its name.
        upstream: Name,
        /// What is wrong.
        reason: TransportError,
    },
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] crate::trace::export::ExportError),
}

/// What to do about an address that cannot be had.
fn advice(reason: &io::Error, presence: Presence) -> &'static str {
    match (reason.kind(), presence) {
        (io::ErrorKind::AddrInUse, Presence::Alone) => {
            "; to take over from a proxy that runs there, start with --replace"
        }
        (io::ErrorKind::AddrInUse, Presence::Beside) => {
            "; --replace works only where a merge-sync-proxy of the same user listens"
        }
        _ => "",
    }
}

/// Bound sockets, ready to be served.
#[derive(Debug)]
pub struct Listeners {
    /// Where consumers come in.
    pub proxy: Vec<Listener>,
    /// Where operators come in.
    pub admin: Listener,
    /// What the first of these speak TLS with.
    pub tls: Option<Tls>,
    /// The files of those that are Unix sockets; they go with these.
    pub files: Vec<SocketFile>,
}

impl Listeners {
    /// Binds all that `config` names; nobody else may listen there.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        Self::bind_with(config, Presence::Alone).await
    }

    /// Binds all that `config` names.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub async fn bind_with(config: &Config, presence: Presence) -> Result<Self, StartError> {
        let tls = config.server.tls.as_ref().map(|tls| Tls::new(tls.loaded.server.clone(), tls.handshake_timeout));
        let mut proxy = Vec::new();
        let mut files = Vec::new();
        let key = "server.listen";
        for address in &config.server.listen {
            let (listener, file) = bind(key, address, config.server.unix, presence).await?;
            files.extend(file.map(|file| (key, address, file)));
            proxy.push(match &tls {
                Some(tls) => listener.secured(tls),
                None => listener,
            });
        }
        // Who may ask is not thereby an operator.
        let (admin, file) = bind(ADMIN, &config.admin.listen, SocketAccess::OWNER, presence).await?;
        files.extend(file.map(|file| (ADMIN, &config.admin.listen, file)));
        // Whoever is to be replaced is still found if this fails before.
        for (key, address, file) in &mut files {
            file.take_place().map_err(|reason| failed(key, address, presence, reason))?;
        }
        let files = files.into_iter().map(|(.., file)| file).collect();
        Ok(Self { proxy, admin, tls, files })
    }
}

fn failed(key: &'static str, address: &ListenAddress, presence: Presence, reason: io::Error) -> StartError {
    StartError::Listen { address: address.to_string(), key, presence, reason }
}

async fn bind(
    key: &'static str,
    address: &ListenAddress,
    access: SocketAccess,
    presence: Presence,
) -> Result<(Listener, Option<SocketFile>), StartError> {
    let bound = match address {
        ListenAddress::Tcp { host, port } => {
            bind::tcp(host, *port, presence).await.map(|listener| (Listener::Tcp(listener), None))
        }
        ListenAddress::Unix(path) => {
            unix::bind(path, access, presence).map(|(listener, file)| (Listener::Unix(listener), Some(file)))
        }
    };
    bound.map_err(|reason| failed(key, address, presence, reason))
}
