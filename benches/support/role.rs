//! Servers that a bench starts in processes of their own: the bench's program again, with `--role` as its first argument.
//!
//! Such a process prints `ready ADDRESS`, serves until its standard input ends, and then exits by itself.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use merge_sync_proxy::app::Listeners;
use merge_sync_proxy::telemetry::log;
use socket2::{Domain, Socket, Type};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::bare;
use super::ground::{self, Ground, Terms};
use super::identity;

/// What a process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// hyper alone, with as many pages as there are accounts.
    Bare,
    /// The same with a runtime and a listener for each worker, among which the kernel spreads connections (`SO_REUSEPORT`).
    Spread,
    /// The whole proxy, in front of a simulated Merge in its own process.
    Proxy,
    /// The same with its access log.
    Logged,
    /// Passes bytes on to the upstream and back, and reads none: what it costs that somebody stands in between.
    Relay,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper",
            Self::Spread => "bare hyper, each worker apart",
            Self::Proxy => "merge-sync-proxy",
            Self::Logged => "merge-sync-proxy, access log on",
            Self::Relay => "bytes passed on",
        }
    }
}

/// How a server is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) workers: usize,
    pub(crate) consumers: usize,
    pub(crate) accounts: usize,
    /// The proxy's upstream; none is a simulation in its own process.
    pub(crate) upstream: Option<SocketAddr>,
    /// The lifetime of its pages, in seconds.
    pub(crate) lifetime: u64,
    /// The folder with a certificate, if it speaks TLS.
    pub(crate) tls: Option<&'a Path>,
    /// How much room there is for pages, in MiB.
    pub(crate) room: usize,
}

impl Default for Layout<'_> {
    fn default() -> Self {
        let (consumers, accounts) = (1_000, 1_000);
        Self { workers: 1, consumers, accounts, upstream: None, lifetime: 3_600, tls: None, room: ground::USUAL }
    }
}

/// The arguments that make this program serve.
pub(crate) fn arguments(role: Role, layout: &Layout<'_>) -> Vec<String> {
    let role = match role {
        Role::Bare => "bare",
        Role::Spread => "spread",
        Role::Proxy => "proxy",
        Role::Logged => "logged",
        Role::Relay => "relay",
    };
    let Layout { workers, consumers, accounts, upstream, lifetime, tls, room } = layout;
    let upstream = upstream.map_or_else(|| "-".to_owned(), |upstream| upstream.to_string());
    let mut arguments = vec!["--role".to_owned(), role.to_owned(), upstream];
    arguments.extend([*workers, *consumers, *accounts, *room].map(|number| number.to_string()));
    arguments.push(lifetime.to_string());
    arguments.push(tls.map_or_else(|| "-".to_owned(), |tls| tls.display().to_string()));
    arguments
}

/// Plays the role that the arguments name; whether there was one. A bench's `main` begins with it.
pub(crate) fn play() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).take(9).collect();
    let [flag, role, upstream, workers, consumers, accounts, room, lifetime, tls] = &arguments[..] else {
        return false;
    };
    if flag != "--role" {
        return false;
    }
    let number = |text: &String| text.parse().expect("a number");
    let layout = Layout {
        workers: number(workers),
        consumers: number(consumers),
        accounts: number(accounts),
        upstream: upstream.parse().ok(),
        lifetime: lifetime.parse().expect("a number"),
        tls: Some(Path::new(tls)).filter(|tls| tls.is_dir()),
        room: number(room),
    };
    let runtime = runtime(layout.workers);
    if role == "logged" {
        log::start(false, "info", true).expect("a thread");
    }
    if role == "bare" {
        runtime.block_on(play_bare(&layout));
    } else if role == "spread" {
        play_spread(&layout);
    } else if role == "relay" {
        runtime.block_on(play_relay(layout.upstream.expect("a relay is before something")));
    } else {
        runtime.block_on(play_proxy(&layout));
    }
    // Tasks that would serve for ever are not waited for.
    runtime.shutdown_background();
    true
}

/// One worker is a runtime on the thread itself; several are tokio's pool, as the proxy has it.
pub(crate) fn runtime(workers: usize) -> Runtime {
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(workers).enable_all().build().expect("a runtime")
}

async fn play_bare(layout: &Layout<'_>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    ready(listener.local_addr().expect("it is bound"));
    tokio::select! {
        () = bare::serve(listener, layout.accounts, layout.tls.map(identity::server)) => {}
        _ = end_of_input() => {}
    }
}

fn play_spread(layout: &Layout<'_>) {
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(1_024)?;
        Ok::<std::net::TcpListener, std::io::Error>(socket.into())
    };
    let first = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = first.local_addr().expect("it is bound");
    let others = (1..layout.workers).map(|_| bind(address).expect("a port that is shared"));
    let listeners: Vec<_> = std::iter::once(first).chain(others).collect();
    for listener in listeners {
        let accounts = layout.accounts;
        std::thread::spawn(move || {
            runtime(1).block_on(async move {
                bare::serve(TcpListener::from_std(listener).expect("it does not block"), accounts, None).await;
            });
        });
    }
    ready(address);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

async fn play_relay(upstream: SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    ready(listener.local_addr().expect("it is bound"));
    let pass_on = async {
        loop {
            let Ok((mut here, _)) = listener.accept().await else { continue };
            let Ok(mut there) = TcpStream::connect(upstream).await else { continue };
            let _ = here.set_nodelay(true).and_then(|()| there.set_nodelay(true));
            tokio::spawn(async move { copy_bidirectional(&mut here, &mut there).await });
        }
    };
    tokio::select! {
        () = pass_on => {}
        _ = end_of_input() => {}
    }
}

async fn play_proxy(layout: &Layout<'_>) {
    let terms = Terms {
        lifetime: layout.lifetime,
        upstream: layout.upstream,
        tls: layout.tls,
        room: layout.room,
        ..Terms::new(layout.consumers, layout.accounts)
    };
    let ground = Ground::with(&terms);
    let listeners = Listeners::bind(&ground.config).await.expect("free ports");
    ready(listeners.proxy[0].tcp_address().expect("a TCP listener"));
    ground.app.serve(listeners, end_of_input()).await;
}

fn ready(address: SocketAddr) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {address}").and_then(|()| out.flush()).expect("the bench reads it");
}

/// Completes when the bench closes this process's standard input, or has gone.
fn end_of_input() -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(end);
    });
    ended
}
