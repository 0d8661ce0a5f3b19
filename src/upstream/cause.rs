//! What an error of the transport means, found by its kind and not by its text.

use std::error::Error;
use std::{io, iter};

use h2::Reason;
use rustls::CertificateError;

use super::connect::{Unreached, Unresolved};
use super::patience::Stalled;
use super::trouble::Failed;
use crate::domain::problem::{Cause, Problem};

/// Why no answer began.
pub fn before_the_answer(error: &(dyn Error + 'static)) -> Failed {
    let found = chain(error).find_map(|known| self::known(known, error));
    found.unwrap_or_else(|| of(Cause::Closed, "the connection was closed before an answer", last(error)))
}

/// Why an answer that had begun did not come to its end.
pub fn within_the_answer(error: &(dyn Error + 'static)) -> Failed {
    match chain(error).find_map(|error| error.downcast_ref()) {
        Some(Stalled::Head | Stalled::Body) => Failed::new(Problem::UpstreamTimeout, "the answer stopped coming", None),
        None => of(Cause::Incomplete, "the answer was cut short", last(error)),
    }
}

fn of(cause: Cause, kind: &'static str, detail: Option<String>) -> Failed {
    Failed::new(Problem::UpstreamFailed(cause), kind, detail)
}

/// What one error of the chain of `whole` means, if it decides.
fn known(error: &(dyn Error + 'static), whole: &(dyn Error + 'static)) -> Option<Failed> {
    if let Some(Stalled::Head | Stalled::Body) = error.downcast_ref() {
        Some(Failed::new(Problem::UpstreamTimeout, "no answer in time", None))
    } else if let Some(unreached) = error.downcast_ref::<Unreached>() {
        Some(self::unreached(unreached))
    } else if let Some(error) = error.downcast_ref::<h2::Error>() {
        http2(error).map(|(cause, kind)| of(cause, kind, last(whole)))
    } else if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
        Some(of(Cause::Invalid, "what came is no HTTP", last(whole)))
    } else if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user) {
        // The only body that goes up is the caller's own.
        let problem = Problem::InvalidRequest("The body broke off or is malformed; send it whole.".into());
        Some(Failed { problem, why: None })
    } else {
        None
    }
}

/// Why there is no connection.
fn unreached(unreached: &Unreached) -> Failed {
    let is =
        |kind| chain(unreached).filter_map(|error| error.downcast_ref::<io::Error>()).any(|error| error.kind() == kind);
    let (kind, detail) = match unreached {
        Unreached::Refused(_) if chain(unreached).any(<dyn Error>::is::<Unresolved>) => {
            ("its name does not resolve", last(unreached))
        }
        Unreached::Refused(_) if is(io::ErrorKind::ConnectionRefused) => ("connection refused", None),
        Unreached::Refused(_) => ("no connection", last(unreached)),
        Unreached::Late(_) => ("no connection in time", None),
        Unreached::LateTls(_) => ("no TLS in time", None),
        Unreached::Insecure(error) => ("no TLS", Some(insecure(error))),
    };
    of(if unreached.is_distrust() { Cause::Tls } else { Cause::Connect }, kind, detail)
}

/// Why TLS failed.
fn insecure(error: &io::Error) -> String {
    let distrust = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(reason)) = distrust else { return error.to_string() };
    let words = match reason {
        CertificateError::UnknownIssuer => "nobody who is trusted here has signed its certificate",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet"
        }
        CertificateError::Revoked => "its certificate has been revoked",
        CertificateError::Other(other) => return format!("its certificate is not accepted: {other}"),
        _ => return error.to_string(),
    };
    words.to_owned()
}

/// An error of HTTP/2 before an answer began.
fn http2(error: &h2::Error) -> Option<(Cause, &'static str)> {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        // A stream that a GOAWAY ends is one beyond the last that the peer has begun (RFC 9113 §6.8); the others go on.
        Some((Cause::Refused, "it did not begin with the call"))
    } else if error.is_library() {
        // What came made no sense, so this side has ended it.
        Some((Cause::Invalid, "what came is no HTTP"))
    } else {
        None
    }
}

/// What the innermost error says, which is the most exact.
fn last(error: &(dyn Error + 'static)) -> Option<String> {
    chain(error).last().map(ToString::to_string)
}

/// The error and what it came from.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::super::transport;
    use super::*;
    use crate::domain::access::{Credential, Upstream};
    use crate::domain::body;
    use crate::domain::rules::{BudgetRules, ClientOptions};
    use http::Request;
    use http::uri::{Authority, Scheme};
    use std::net::SocketAddr;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tower::{ServiceExt, service_fn};

    /// Why a call to `scheme://merge.test` fails, where the name stands for this address, if for any.
    async fn why(scheme: Scheme, address: Option<SocketAddr>) -> String {
        let port = address.map_or(80, |address| address.port());
        let authority = Authority::try_from(format!("merge.test:{port}")).expect("an authority");
        let upstream = Upstream {
            name: "us".into(),
            scheme: scheme.clone(),
            authority: authority.clone(),
            prefix: "".into(),
            api_key: Credential::new("Bearer key").expect("ASCII"),
            client: ClientOptions::default(),
            budget: BudgetRules::default(),
        };
        let resolver = service_fn(move |_| async move {
            address.map(|address| vec![address].into_iter()).ok_or_else(|| io::Error::other("nobody knows it"))
        });
        let transport = transport::connect_by(&upstream, resolver).expect("it needs nothing");
        let request = Request::get(format!("{scheme}://{authority}/")).body(body::empty()).expect("a request");
        let error = transport.oneshot(request).await.map(drop).expect_err("nobody answers");
        before_the_answer(&*error).why.expect("there is a reason").text()
    }

    #[tokio::test]
    async fn each_way_not_to_be_reached_has_words_of_its_own() {
        assert_eq!(why(Scheme::HTTP, None).await, "its name does not resolve: nobody knows it");
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = taken.accept().await {
                // Whoever speaks plain HTTP is left without an answer, and whoever speaks TLS gets none that is TLS.
                let mut read = [0; 1024];
                let _ = stream.read(&mut read).await;
                if read[0] == 0x16 {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                }
            }
        });
        let closed = why(Scheme::HTTP, Some(address)).await;
        assert!(closed.starts_with("the connection was closed before an answer"), "{closed}");
        let plain = why(Scheme::HTTPS, Some(address)).await;
        assert!(plain.starts_with("no TLS: "), "{plain}");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let free = socket.local_addr().expect("it is bound");
        drop(socket);
        assert_eq!(why(Scheme::HTTP, Some(free)).await, "connection refused");
    }
}
