//! A simulated Merge behind a socket, on threads of this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;

use merge_sync_proxy::demo::merge::Merge;
use tokio::net::TcpListener;

use super::role;

/// Serves `merge` as long as this process lives.
pub(crate) fn serve(merge: Merge) -> SocketAddr {
    let (told, tell) = mpsc::channel();
    std::thread::spawn(move || {
        role::runtime(1).block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            told.send(listener.local_addr().expect("it is bound")).expect("somebody waits for it");
            merge.serve(listener, std::future::pending::<()>()).await;
        });
    });
    tell.recv().expect("the thread tells")
}
