//! Certificates of an authority that lives as long as the tests.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

use super::Speech;

/// The authority that tests trust.
static AUTHORITY: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| authority("an authority"));

/// Its certificate, for `ca_file`.
static FILE: LazyLock<NamedTempFile> = LazyLock::new(|| {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(AUTHORITY.pem().as_bytes()).expect("room for a certificate");
    file
});

/// What is wrong with a certificate.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    Nothing,
    UnknownAuthority,
    WrongName,
    Expired,
}

/// The file with the authority that tests trust.
pub(crate) fn file() -> &'static Path {
    FILE.path()
}

/// TLS as an upstream at 127.0.0.1 that is well.
pub(crate) fn tls(http2: bool) -> Speech {
    Speech::Tls { acceptor: acceptor(Flaw::Nothing, http2), http2 }
}

/// TLS with a flaw.
pub(crate) fn flawed(flaw: Flaw) -> Speech {
    Speech::Tls { acceptor: acceptor(flaw, false), http2: false }
}

fn acceptor(flaw: Flaw, http2: bool) -> TlsAcceptor {
    let name = if flaw == Flaw::WrongName { "elsewhere.example" } else { "127.0.0.1" };
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(if flaw == Flaw::Expired { 2021 } else { 2090 }, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let stranger;
    let issuer = if flaw == Flaw::UnknownAuthority {
        stranger = authority("a stranger");
        &stranger
    } else {
        &*AUTHORITY
    };
    let certificate = parameters.signed_by(&key, issuer).expect("a certificate");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .expect("the key belongs to the certificate");
    config.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![] };
    TlsAcceptor::from(Arc::new(config))
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("a certificate")
}
