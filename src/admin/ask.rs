//! Asks the admin listener of a running proxy how it is: the client behind `merge-sync-proxy status`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::state::State;
use crate::config::secret::Secret;

/// Where an admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `http://host:port`, or without the scheme.
    Tcp(Authority),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if text.starts_with("https://") {
            return Err("the admin listener speaks plain HTTP: say http://HOST:PORT".into());
        }
        let place = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        match place.parse::<Authority>() {
            Ok(authority) if authority.port().is_some() && !authority.as_str().contains('@') => {
                Ok(Self::Tcp(authority))
            }
            _ => Err("say http://HOST:PORT or unix:/PATH, as in admin.listen".into()),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no answer, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error(
        "nobody answers at {0} ({1}). Is the proxy running, and is this its admin.listen? Say another place with --admin."
    )]
    Nobody(Place, std::io::Error),
    /// Somebody is there and does not answer.
    #[error("{0} takes connections and does not answer. Is this the admin listener of merge-sync-proxy?")]
    Silent(Place),
    /// It asks for a token.
    #[error("{0} asks for a token. Name its variable with --token-env, or its file with --token-file.")]
    NoToken(Place),
    /// It asks for another token.
    #[error("{0} does not accept this token. It must be the one in admin.token.")]
    WrongToken(Place),
    /// It answered something else.
    #[error("{0} answered {1}{2}. Is this the admin listener of merge-sync-proxy?")]
    Other(Place, StatusCode, String),
    /// It answered something that is no HTTP, or closed without an answer, as servers do that expect TLS.
    #[error(
        "{0} gives no answer in HTTP ({1}). Does it speak TLS? The admin listener of merge-sync-proxy never does: say its admin.listen with --admin."
    )]
    NoHttp(Place, hyper::Error),
    /// It answered something that cannot be read.
    #[error("the answer of {0} cannot be read ({1}). Is it another version of merge-sync-proxy?")]
    Unreadable(Place, String),
}

/// Longer than a look at a busy proxy takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state at `place`, with `query` as `/api/state` takes it.
///
/// # Errors
/// What is wrong, and what to do about it.
pub async fn state(place: &Place, token: Option<&Secret>, query: &str) -> Result<State, AskError> {
    let whole = timeout(PATIENCE, async {
        match place {
            Place::Tcp(authority) => {
                let host = authority.host().trim_start_matches('[').trim_end_matches(']');
                let port = authority.port_u16().unwrap_or(80);
                let stream =
                    TcpStream::connect((host, port)).await.map_err(|error| AskError::Nobody(place.clone(), error))?;
                exchange(place, stream, authority.as_str(), token, query).await
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| AskError::Nobody(place.clone(), error))?;
                exchange(place, stream, "localhost", token, query).await
            }
        }
    });
    whole.await.unwrap_or_else(|_elapsed| Err(AskError::Silent(place.clone())))
}

async fn exchange(
    place: &Place,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    token: Option<&Secret>,
    query: &str,
) -> Result<State, AskError> {
    let unreadable = |error: &dyn std::error::Error| AskError::Unreadable(place.clone(), error.to_string());
    let mut request = Request::get(format!("/api/state?{query}")).header(HOST, host);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| unreadable(&error))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| unreadable(&error))?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| AskError::NoHttp(place.clone(), error))?;
    let (head, body): (_, Incoming) = Response::into_parts(response);
    let body = body.collect().await.map_err(|error| unreadable(&error))?.to_bytes();
    connection.abort();
    match head.status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(|error| unreadable(&error)),
        StatusCode::UNAUTHORIZED if token.is_none() => Err(AskError::NoToken(place.clone())),
        StatusCode::UNAUTHORIZED => Err(AskError::WrongToken(place.clone())),
        status => {
            let told = serde_json::from_slice::<serde_json::Value>(&body).ok();
            let told = told.and_then(|told| {
                told["error"]
                    .as_str()
                    .or(told["detail"].as_str())
                    .map(|error| format!(": {}", error.trim_end_matches('.')))
            });
            Err(AskError::Other(place.clone(), status, told.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_people_write_it() {
        for (text, place) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("http://127.0.0.1:8081/", "http://127.0.0.1:8081"),
            ("localhost:8081", "http://localhost:8081"),
            ("[::1]:8081", "http://[::1]:8081"),
            ("unix:/run/admin.sock", "unix:/run/admin.sock"),
        ] {
            assert_eq!(text.parse::<Place>().map(|place| place.to_string()), Ok(place.to_owned()), "{text}");
        }
        for text in ["", "https://127.0.0.1:8081", "127.0.0.1", "http://", "user@host:1", "http://host:1/path"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
