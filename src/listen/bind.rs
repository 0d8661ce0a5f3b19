//! Sockets to listen on, shared with a process that is being replaced, and closed without losing whoever is at the door.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, lookup_host};

/// Whether another process may listen at the same address.
///
/// Every socket lets a later one share its port (`SO_REUSEPORT`), or no process could ever be replaced without a gap. But a start
/// that was not asked to share looks first whether somebody is there: two proxies on one port by mistake would each get half of
/// the requests, which is hard to notice and harder to understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nobody else may.
    Alone,
    /// Another may: it is about to drain.
    Beside,
}

/// How many connections the kernel holds until they are accepted, if the system allows that many.
const BACKLOG: i32 = 1024;

/// A socket that has its address. One beside another takes no connection yet: of the sockets that share a port, the kernel gives
/// connections only to those that listen.
#[derive(Debug)]
pub struct Bound(Socket);

impl Bound {
    /// Lets everybody in.
    ///
    /// # Errors
    /// If somebody listens there who does not share.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)?;
        TcpListener::from_std(self.0.into())
    }
}

/// Binds to the first address of `host` that can be had.
///
/// # Errors
/// If there is none, or if somebody is at one before it.
pub async fn tcp(host: &str, port: u16, presence: Presence) -> io::Result<Bound> {
    first_of(lookup_host((host, port)).await?, presence)
}

fn first_of(addresses: impl Iterator<Item = SocketAddr>, presence: Presence) -> io::Result<Bound> {
    let mut reason = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in addresses {
        match tcp_at(address, presence) {
            Ok(socket) => return Ok(Bound(socket)),
            // It may be the same proxy: beside it, at another address of one name, this would spend its budgets once more.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

fn tcp_at(address: SocketAddr, presence: Presence) -> io::Result<Socket> {
    if presence == Presence::Alone && address.port() != 0 {
        // A socket that shares with nobody cannot be bound where another listens, even if that one would share.
        drop(socket(address, false)?);
    }
    let socket = socket(address, true)?;
    if presence == Presence::Alone {
        // Nobody is there from whom a connection could be taken; and only who listens is in the way of the next who wants to be alone.
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier run that are still closing do not matter.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Lets no new connection begin at `listener`, while those that have begun can still be accepted.
///
/// The kernel hands each new connection to one of the sockets that share a port, and closing that socket resets those that have not
/// been accepted. So before a socket closes, it drops the first packet (SYN, no ACK) of each new connection: the peer sends it again
/// a second later, and then it meets the socket that is left. Where there is no such filter, only the last moment stays open.
pub fn turn_away(listener: &TcpListener) {
    #[cfg(target_os = "linux")]
    {
        use socket2::{SockFilter, SockRef};
        // Classic BPF on the TCP header: load the byte of flags, take SYN and ACK, and drop what has SYN alone.
        let filter = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x54, 0, 0, 0x12),
            SockFilter::new(0x15, 0, 1, 0x02),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        if let Err(error) = SockRef::from(listener).attach_filter(&filter) {
            tracing::debug!(%error, "new connections cannot be held off while the listener closes");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = listener;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    async fn listen(port: u16, presence: Presence) -> io::Result<TcpListener> {
        tcp("127.0.0.1", port, presence).await?.listen()
    }

    #[tokio::test]
    async fn a_port_is_shared_only_on_purpose() {
        let first = listen(0, Presence::Alone).await.expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let mistake = listen(port, Presence::Alone).await.expect_err("somebody is there");
        assert_eq!(mistake.kind(), io::ErrorKind::AddrInUse);
        let second = listen(port, Presence::Beside).await.expect("shared");
        drop(first);
        let mistake = listen(port, Presence::Alone).await.expect_err("the other is still there");
        assert_eq!(mistake.kind(), io::ErrorKind::AddrInUse);
        drop(second);
        listen(port, Presence::Alone).await.expect("nobody is there");
    }

    #[tokio::test]
    async fn of_a_name_with_several_addresses_the_first_that_the_machine_has_is_taken_unless_somebody_is_there() {
        let loopback = |host: u8| SocketAddr::from(([127, 0, 0, host], 0));
        // Kept for documentation (RFC 5737), so no machine has it.
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
        let first = first_of([elsewhere, loopback(1), loopback(2)].into_iter(), Presence::Alone).expect("a free port");
        let first = first.listen().expect("nobody is there").local_addr().expect("bound");
        assert_eq!(first.ip(), loopback(1).ip());
        let _running = listen(first.port(), Presence::Alone).await.expect("nobody is there any more");
        let addresses = [first, SocketAddr::new(loopback(2).ip(), first.port())];
        let mistake = first_of(addresses.into_iter(), Presence::Alone).expect_err("somebody is there");
        assert_eq!(mistake.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn who_has_taken_a_place_beside_another_and_does_not_listen_yet_takes_nobody_away() {
        let running = listen(0, Presence::Alone).await.expect("a free port");
        let address = running.local_addr().expect("bound");
        let bound = tcp("127.0.0.1", address.port(), Presence::Beside).await.expect("shared");
        let connected: Vec<_> = (0..32).map(|_| TcpStream::connect(address)).collect();
        for connected in futures_util::future::join_all(connected).await {
            connected.expect("somebody listens");
            timeout(Duration::from_secs(20), running.accept()).await.expect("all come here").expect("a connection");
        }
        drop(bound);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn who_is_at_the_door_comes_in_and_who_comes_later_goes_to_the_other() {
        let old = listen(0, Presence::Alone).await.expect("a free port");
        let address = old.local_addr().expect("bound");
        let mut early = Vec::new();
        for _ in 0..8 {
            early.push(TcpStream::connect(address).await.expect("it listens"));
        }
        let new = listen(address.port(), Presence::Beside).await.expect("shared");
        turn_away(&old);
        let late: Vec<_> = (0..16).map(|_| tokio::spawn(TcpStream::connect(address))).collect();
        for _ in 0..early.len() {
            old.accept().await.expect("it was at the door");
        }
        assert!(timeout(Duration::from_millis(100), old.accept()).await.is_err(), "nobody comes in any more");
        drop(old);
        for late in late {
            let connected = timeout(Duration::from_secs(20), late).await.expect("the packet is sent again");
            connected.expect("no panic").expect("the other listens");
            new.accept().await.expect("it came here");
        }
    }
}
