//! The simulation behind a socket, HTTP/1.1 and HTTP/2 with prior knowledge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tower::Service;

use super::merge::{Merge, Reset};

impl Merge {
    /// Serves until `shutdown` resolves, and then drops every connection as it stands.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future) {
        let mut connections = JoinSet::new();
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        self.inner.connections.fetch_add(1, Ordering::Relaxed);
                        connections.spawn(connection(self.clone(), stream));
                    }
                    // Out of descriptors, say: trying again at once would only spin.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
                while connections.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = accept => {}
            _ = shutdown => {}
        }
    }
}

/// Serves one connection; a call that fails ends it without another byte.
async fn connection(merge: Merge, stream: TcpStream) {
    // Only latency suffers without it.
    let _ = stream.set_nodelay(true);
    // hyper takes the stream, closes it and does not give it back. The duplicate keeps the socket open until it is known whether
    // it has to close politely or with a reset.
    let socket = SockRef::from(&stream).try_clone();
    let reset = Arc::new((AtomicBool::new(false), Notify::new()));
    let service = service_fn({
        let reset = reset.clone();
        move |request: hyper::Request<Incoming>| {
            let answer = merge.clone().call(request);
            let reset = reset.clone();
            async move {
                let answer = answer.await.map_err(|_| Reset);
                if answer.is_err() {
                    reset.0.store(true, Ordering::Relaxed);
                    reset.1.notify_one();
                }
                answer
            }
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    // `Date` is the simulated clock's, or on purpose missing.
    server.http1().auto_date_header(false);
    server.http2().auto_date_header(false);
    tokio::select! {
        // A peer that breaks off is its own business.
        _ = server.serve_connection(TokioIo::new(stream), service) => {}
        // HTTP/2 would answer with a stream error and live on.
        () = reset.1.notified() => {}
    }
    if let (true, Ok(socket)) = (reset.0.load(Ordering::Relaxed), socket) {
        // With nothing to linger for, closing sends RST.
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
}
