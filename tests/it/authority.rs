//! A small authority of certificates, and clients that trust it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Version};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::Got;

/// The name in the certificates of the proxy.
pub(crate) const HOST: &str = "proxy.test";

/// An authority that vouches for whomever it is asked to.
pub(crate) struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM form.
pub(crate) struct Identity {
    pub cert: String,
    pub key: String,
}

/// The parameters of a certificate whose subject has this common name, or none if it is empty, and these alternative names.
pub(crate) fn named(common: &str, others: &[&str]) -> CertificateParams {
    let others: Vec<String> = others.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(others).expect("DNS names");
    params.distinguished_name = DistinguishedName::new();
    if !common.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common);
    }
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn vouch(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// For the proxy itself.
    pub fn host(&self) -> Identity {
        self.vouch(&named("the proxy", &[HOST]))
    }
}

impl Identity {
    /// Writes both files; they may be there already.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), &self.cert).expect("written");
        std::fs::write(folder.join("key.pem"), &self.key).expect("written");
    }

    /// The certificate itself.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("PEM")
    }
}

/// A folder with the proxy's certificate, and the lines of the configuration that name it.
pub(crate) struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    pub fn new(identity: &Identity) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        identity.write(folder.path());
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `[server]` on any port with `server` in it, and `[server.tls]` with `tls`.
    pub fn config(&self, server: &str, tls: &str) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!(
            "[server]\nlisten = ['127.0.0.1:0']\n{server}\n[server.tls]\ncert = '{}'\nkey = '{}'\n{tls}\n",
            cert.display(),
            key.display()
        )
    }

    /// The same for consumers whom `authority` vouches for.
    pub fn mutual(&self, authority: &Authority) -> String {
        let path = self.path("clients.pem");
        std::fs::write(&path, &authority.pem).expect("written");
        self.config("", &format!("client_ca = '{}'", path.display()))
    }
}

/// A client that trusts `authority`, offers `protocols` and shows `identity`.
pub(crate) fn client(
    authority: &Authority,
    protocols: &[&str],
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("both are known");
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![identity.der()], key).expect("they belong together")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|&protocol| protocol.into()).collect();
    Arc::new(config).into()
}

/// Connects and shakes hands.
pub(crate) async fn connect(client: &TlsConnector, proxy: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    client.connect(ServerName::try_from(HOST).expect("a name"), stream).await
}

/// One answer over `stream`, in the protocol that was chosen.
pub(crate) fn over(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> BoxFuture<'static, hyper::Result<(Version, Got)>> {
    Box::pin(async move {
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let io = TokioIo::new(stream);
        let answer = if chosen.as_deref() == Some(b"h2") {
            let (parts, body) = request.into_parts();
            let mut request = Request::new(body);
            *request.uri_mut() = format!("https://{HOST}{}", parts.uri).parse().expect("a path");
            *request.headers_mut() = parts.headers;
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        };
        Ok((answer.version(), Got::whole(answer).await))
    })
}
