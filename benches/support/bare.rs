//! The yardstick: hyper alone, which answers every request with the bytes of a hit from memory, from as many pages as others have.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{STRIDE, ground};

/// The header fields of a hit, with values as long as the real ones.
fn fields() -> HeaderMap {
    [
        ("cache-control", "private, max-age=3600"),
        ("cache-status", "merge-sync-proxy; hit; ttl=3590"),
        ("age", "10"),
        ("etag", "\"n4bQgYhMfWWaL-qgxVrQFQ\""),
        ("vary", "accept-encoding"),
        ("content-type", "application/json"),
        ("x-request-id", "01890a5d-ac96-774b-bcce-b302099a8057"),
    ]
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .into_iter()
    .collect()
}

/// Answers on `listener` for ever with so many pages in turn, each in memory of its own; with TLS if there is something to speak it by.
///
/// The pages are in turn whichever connection asks, and none after its neighbour, as the load asks others for them: how long ago a page
/// was read last, and what was read with it, decides whether it is still in the processor's caches.
pub(crate) async fn serve(listener: TcpListener, pages: usize, tls: Option<Arc<ServerConfig>>) {
    let (fields, page) = (fields(), ground::page());
    let bodies: Arc<[Bytes]> = (0..pages).map(|_| Bytes::copy_from_slice(&page)).collect();
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (fields, bodies, tls, turn) = (fields.clone(), bodies.clone(), tls.clone(), turn.clone());
        tokio::spawn(async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let body = &bodies[turn.fetch_add(STRIDE, Ordering::Relaxed) % bodies.len()];
                let mut response = Response::new(Full::<Bytes>::new(body.clone()));
                *response.headers_mut() = fields.clone();
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let builder = Builder::new(TokioExecutor::new());
            let Some(tls) = tls else {
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                return;
            };
            let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
            let _ = builder.http1_only().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
