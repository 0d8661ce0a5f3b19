//! A client's end of a connection: plain, or with TLS.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Bytes that come and go without waiting.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// Connects, and shakes hands if there is something to do so by.
    pub(crate) fn connect(target: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let mut socket = std::net::TcpStream::connect(target)?;
        socket.set_nodelay(true)?;
        let secured = match tls {
            Some(config) => {
                let name = ServerName::try_from("proxy.internal").expect("a name");
                let mut connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                while connection.is_handshaking() {
                    connection.complete_io(&mut socket)?;
                }
                Some(connection)
            }
            None => None,
        };
        socket.set_nonblocking(true)?;
        let socket = TcpStream::from_std(socket);
        Ok(match secured {
            Some(connection) => Self::Tls(Box::new(StreamOwned::new(connection, socket))),
            None => Self::Plain(socket),
        })
    }

    /// What the system knows of it.
    pub(crate) fn source(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    /// Whether a read that does not fill its buffer has brought all that there was.
    pub(crate) fn reads_all_at_once(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
