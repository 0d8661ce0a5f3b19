//! A simulated Merge behind a socket, on threads of this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;

use merge_sync_proxy::demo::merge::Merge;
use tokio::net::TcpListener;

use super::{child, role};

/// Serves `merge` as long as this process lives, on the core of who calls.
pub(crate) fn serve(merge: Merge) -> SocketAddr {
    begin(merge, || ())
}

/// The same on this core.
pub(crate) fn serve_on(core: usize, merge: Merge) -> SocketAddr {
    begin(merge, move || child::stay_on(core))
}

fn begin(merge: Merge, settle: impl FnOnce() + Send + 'static) -> SocketAddr {
    let (told, tell) = mpsc::channel();
    std::thread::spawn(move || {
        settle();
        role::runtime(1).block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            told.send(listener.local_addr().expect("it is bound")).expect("somebody waits for it");
            merge.serve(listener, std::future::pending::<()>()).await;
        });
    });
    tell.recv().expect("the thread tells")
}
