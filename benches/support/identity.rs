//! A certificate for the servers of a bench, and a client that trusts it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The certificate's file in a folder, its key's, and one that holds both.
pub(crate) const CERTIFICATE: &str = "certificate.pem";
pub(crate) const KEY: &str = "key.pem";
pub(crate) const BOTH: &str = "both.pem";

/// Writes a new certificate and its key into `folder`.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["proxy.internal".to_owned()]).map_err(io::Error::other)?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(folder.join(CERTIFICATE), &certificate)?;
    fs::write(folder.join(KEY), &key)?;
    fs::write(folder.join(BOTH), certificate + &key)
}

/// A client that trusts the certificate in `folder`.
pub(crate) fn client(folder: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(folder)).expect("a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions that the provider has");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A server that shows it.
pub(crate) fn server(folder: &Path) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY)).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions that the provider has");
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate(folder)], key);
    Arc::new(config.expect("the key of the certificate"))
}

fn certificate(folder: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(folder.join(CERTIFICATE)).expect("a certificate")
}
