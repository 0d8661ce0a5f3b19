//! The upstream's name has no address, or nothing answers at it.

use std::future::{pending, ready};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use merge_sync_proxy::upstream::transport;
use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tower::Service;

use super::{DEADLINE, Fault, Told, examine, recover};
use crate::raw::front::Front;
use crate::raw::{Speech, Upstream};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Nothing listens there.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Resolves every name to what it is told; `None` is no answer at all.
#[derive(Clone)]
struct Names(Arc<Mutex<Option<Vec<IpAddr>>>>);

impl Names {
    fn new(addresses: &[IpAddr]) -> Self {
        Self(Arc::new(Mutex::new(Some(addresses.to_vec()))))
    }

    fn are(&self, addresses: &[IpAddr]) {
        *self.0.lock() = Some(addresses.to_vec());
    }
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        let Some(addresses) = self.0.lock().clone() else { return pending().boxed() };
        if addresses.is_empty() {
            return ready(Err(io::Error::other("no such name"))).boxed();
        }
        let addresses: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
        ready(Ok(addresses.into_iter())).boxed()
    }
}

async fn before(port: u16, names: &Names, settings: &str) -> Front {
    let connect = |upstream: &_| transport::connect_by(upstream, names.clone()).expect("no certificates are needed");
    Front::reaching(&format!("http://merge.test:{port}"), settings, connect).await
}

/// A socket that takes no more connections and refuses none, so that whoever tries to connect hears nothing.
struct Hole {
    _socket: Socket,
    _taken: Vec<Socket>,
}

impl Hole {
    fn at(address: SocketAddr) -> Option<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, None).ok()?;
        socket.bind(&address.into()).ok()?;
        socket.listen(0).ok()?;
        let knock = || {
            let socket = Socket::new(domain, Type::STREAM, None).ok()?;
            socket.connect_timeout(&address.into(), Duration::from_millis(100)).ok()?;
            Some(socket)
        };
        let taken: Vec<Socket> = std::iter::from_fn(knock).take(64).collect();
        Some(Self { _socket: socket, _taken: taken })
    }
}

pub(crate) fn faults() -> Vec<Fault> {
    vec![
        Fault::new("nothing listens", refused()),
        Fault::new("the name has no address", unknown()),
        Fault::new("nobody says which address the name has", unresolved()),
        Fault::new("nothing answers at the address", unanswered()),
        Fault::new("the first of two addresses is dead", reaches(vec![ELSEWHERE, V4])),
        Fault::new("IPv6 is dead and IPv4 is live", reaches(vec![V6, V4])),
        Fault::new("nothing answers over IPv6 and IPv4 is live", past_a_hole()),
        Fault::new("the name has moved", moved()),
    ]
}

/// A port that is nobody else's and refuses everybody: bound, and not listened on.
fn deaf() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(V4, 0).into()).expect("a free port");
    let port = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("it is bound").port();
    (socket, port)
}

async fn refused() {
    let (socket, port) = deaf();
    let front = before(port, &Names::new(&[V4]), "").await;
    examine(&front, Told::Failed).await;
    socket.listen(16).expect("it is bound");
    socket.set_nonblocking(true).expect("a socket");
    let listener = TcpListener::from_std(socket.into()).expect("a runtime");
    let _upstream = Upstream::on(listener, Speech::Plain, vec![], 0);
    recover(&front, Told::Failed).await;
}

async fn unknown() {
    let upstream = Upstream::new(Speech::Plain, vec![], 0).await;
    let names = Names::new(&[]);
    let front = before(upstream.address.port(), &names, "").await;
    examine(&front, Told::Failed).await;
    names.are(&[V4]);
    recover(&front, Told::Failed).await;
}

async fn unresolved() {
    let upstream = Upstream::new(Speech::Plain, vec![], 0).await;
    let names = Names(Arc::default());
    let front = before(upstream.address.port(), &names, "connect_timeout = '1s'\nretries = 0").await;
    examine(&front, Told::Failed).await;
    names.are(&[V4]);
    recover(&front, Told::Failed).await;
}

async fn unanswered() {
    let upstream = Upstream::new(Speech::Plain, vec![], 0).await;
    let port = upstream.address.port();
    let _hole = Hole::at(SocketAddr::new(ELSEWHERE, port)).expect("the port is free there");
    let names = Names::new(&[ELSEWHERE]);
    let front = before(port, &names, "connect_timeout = '1s'\nretries = 1").await;
    let start = Instant::now();
    examine(&front, Told::Failed).await;
    // The second may begin on the heels of the first, whose end it shares.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1_250) && took < DEADLINE, "two attempts of a second: {took:?}");
    names.are(&[V4]);
    recover(&front, Told::Failed).await;
}

async fn reaches(addresses: Vec<IpAddr>) {
    let upstream = Upstream::new(Speech::Plain, vec![], 0).await;
    let front = before(upstream.address.port(), &Names::new(&addresses), "retries = 0").await;
    examine(&front, Told::Page).await;
    recover(&front, Told::Page).await;
}

async fn past_a_hole() {
    let upstream = Upstream::new(Speech::Plain, vec![], 0).await;
    let port = upstream.address.port();
    // Where there is no IPv6 it is dead in another way.
    let _hole = Hole::at(SocketAddr::new(V6, port));
    let front = before(port, &Names::new(&[V6, V4]), "connect_timeout = '20s'\nretries = 0").await;
    let start = Instant::now();
    examine(&front, Told::Page).await;
    assert!(start.elapsed() < Duration::from_secs(5), "it did not wait for the dead one");
    recover(&front, Told::Page).await;
}

/// A connection that is kept knows nothing of a change in DNS, so it is not kept for ever.
async fn moved() {
    let old = Upstream::new(Speech::Plain, vec![], 0).await;
    let port = old.address.port();
    let new = TcpListener::bind((ELSEWHERE, port)).await.expect("the port is free there");
    let new = Upstream::on(new, Speech::Plain, vec![], 0);
    let names = Names::new(&[V4]);
    let front = before(port, &names, "max_connection_age = '500ms'").await;
    assert_eq!(front.get(0).await.status, 200);
    names.are(&[ELSEWHERE]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(front.get(1).await.status, 200);
    assert_eq!((old.calls(), new.calls()), (1, 1));
    examine(&front, Told::Page).await;
    recover(&front, Told::Page).await;
}
