//! The sockets of one configuration, and why there may be none.

use std::io;

use tokio::net::UnixListener;

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
        let consumers = config.server.listen.iter().map(|address| ("server.listen", address, config.server.unix));
        // Who may ask is not thereby an operator.
        let all = consumers.chain([(ADMIN, &config.admin.listen, SocketAccess::OWNER)]);
        let failed = |key, address: &ListenAddress| {
            let address = address.to_string();
            move |reason| StartError::Listen { address, key, presence, reason }
        };
        let mut bound = Vec::new();
        for (key, address, access) in all {
            bound.push((key, address, bind(address, access, presence).await.map_err(failed(key, address))?));
        }
        // All can be had. Before that nothing was taken from whoever is to be replaced.
        let (mut listeners, mut files) = (Vec::new(), Vec::new());
        for (key, address, bound) in bound {
            let (listener, file) = bound.listen().map_err(failed(key, address))?;
            listeners.push(listener);
            files.extend(file);
        }
        let admin = listeners.pop().expect("it was the last of them");
        let tls = config.server.tls.as_ref().map(|tls| Tls::new(tls.loaded.server.clone(), tls.handshake_timeout));
        let secured = |listener: Listener| match &tls {
            Some(tls) => listener.secured(tls),
            None => listener,
        };
        Ok(Self { proxy: listeners.into_iter().map(secured).collect(), admin, tls, files })
    }
}

/// A socket that has its address, and nobody finds yet.
enum Bound {
    Tcp(bind::Bound),
    Unix(UnixListener, SocketFile),
}

impl Bound {
    fn listen(self) -> io::Result<(Listener, Option<SocketFile>)> {
        Ok(match self {
            Self::Tcp(socket) => (Listener::Tcp(socket.listen()?), None),
            Self::Unix(listener, mut file) => {
                file.take_place()?;
                (Listener::Unix(listener), Some(file))
            }
        })
    }
}

async fn bind(address: &ListenAddress, access: SocketAccess, presence: Presence) -> io::Result<Bound> {
    match address {
        ListenAddress::Tcp { host, port } => bind::tcp(host, *port, presence).await.map(Bound::Tcp),
        ListenAddress::Unix(path) => {
            unix::bind(path, access, presence).map(|(listener, file)| Bound::Unix(listener, file))
        }
    }
}
