//! `[server.tls]`: certificate, key and client authorities, read from their files and held against each other before they are used.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use secrecy::zeroize::Zeroizing;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// TLS towards consumers, ready to be used.
#[derive(Clone)]
pub struct Tls {
    /// The files.
    pub files: TlsFiles,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// What was in the files.
    pub loaded: Loaded,
}

/// Equal when the file says the same: what the certificates' files hold may change while the proxy runs.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (&self.files, self.handshake_timeout) == (&other.files, other.handshake_timeout)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, handshake_timeout, .. } = self;
        f.debug_struct("Tls")
            .field("files", files)
            .field("handshake_timeout", handshake_timeout)
            .finish_non_exhaustive()
    }
}

/// The files of `[server.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of consumers; with these every consumer must show a certificate.
    pub client_ca: Option<PathBuf>,
}

/// What was in the files.
#[derive(Clone)]
pub struct Loaded {
    /// For the listeners.
    pub server: Arc<ServerConfig>,
    /// What is wrong with the certificate today, if anything.
    pub warning: Option<String>,
    mark: Mark,
}

/// Which of the files is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `server.tls.cert`.
    Cert,
    /// `server.tls.key`.
    Key,
    /// `server.tls.client_ca`.
    ClientCa,
}

/// Something that is wrong with the files, and what is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("server.tls.{}: {message}", match part { Part::Cert => "cert", Part::Key => "key", Part::ClientCa => "client_ca" })]
pub struct TlsFault {
    /// Which file.
    pub part: Part,
    /// What is wrong with it.
    pub message: String,
}

/// More than any chain and any bundle of authorities.
const LARGEST_FILE: u64 = 4 << 20;

/// Tells one content of the files from another without keeping it: SHA-256 of each, `None` for one that cannot be read.
type Mark = [Option<[u8; 32]>; 3];

/// One file, or why it cannot be read.
type Content = Result<Zeroizing<Vec<u8>>, String>;

impl TlsFiles {
    /// Reads the files and checks that they fit each other.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn load(&self) -> Result<Loaded, Vec<TlsFault>> {
        Contents::read(self).load()
    }
}

/// Looks after the files while the proxy runs.
#[derive(Debug)]
pub struct Watch {
    files: TlsFiles,
    /// What they held when they were last used, or refused.
    used: Mark,
    /// What they held at the last look.
    seen: Mark,
}

impl Watch {
    /// Watches the files from what they held when `tls` was loaded.
    pub fn new(tls: &Tls) -> Self {
        Self { files: tls.files.clone(), used: tls.loaded.mark, seen: tls.loaded.mark }
    }

    /// Looks at the files: what has changed is loaded once it is the same in two looks, since a certificate and its key
    /// are two files, and those who renew them write one after the other.
    pub fn look(&mut self) -> Option<Result<Loaded, Vec<TlsFault>>> {
        let contents = Contents::read(&self.files);
        let mark = contents.mark();
        let is_steady = std::mem::replace(&mut self.seen, mark) == mark;
        if !is_steady || mark == self.used {
            return None;
        }
        self.used = mark;
        Some(contents.load())
    }
}

struct Contents {
    cert: Content,
    key: Content,
    client_ca: Option<Content>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Self {
        Self { cert: read(&files.cert), key: read(&files.key), client_ca: files.client_ca.as_deref().map(read) }
    }

    fn mark(&self) -> Mark {
        let mark = |content: &Content| content.as_ref().ok().map(|bytes| Sha256::digest(bytes.as_slice()).into());
        [mark(&self.cert), mark(&self.key), self.client_ca.as_ref().and_then(mark)]
    }

    fn load(&self) -> Result<Loaded, Vec<TlsFault>> {
        let provider = Arc::new(ring::default_provider());
        let chain = self
            .cert
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|bytes| certificates(bytes))
            .map_err(|message| TlsFault { part: Part::Cert, message });
        let key = private_key(&self.key).map_err(|message| TlsFault { part: Part::Key, message });
        let clients = self.client_ca.as_ref().map(|authorities| verifier(authorities, &provider)).transpose();
        let clients = clients.map_err(|message| TlsFault { part: Part::ClientCa, message });
        let (chain, key, clients) = match (chain, key, clients) {
            (Ok(chain), Ok(key), Ok(clients)) => (chain, key, clients),
            (chain, key, clients) => {
                return Err([chain.err(), key.err(), clients.err()].into_iter().flatten().collect());
            }
        };
        let warning = chain.first().and_then(|first| untimely(first));
        let certified = certified(chain, key, &provider).map_err(|fault| vec![fault])?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites for both versions");
        let is_mutual = clients.is_some();
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if is_mutual {
            // Whoever resumes a session is not asked for its certificate, and would come in after that has expired.
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        }
        Ok(Loaded { server: Arc::new(server), warning, mark: self.mark() })
    }
}

fn read(path: &Path) -> Content {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(length) if length as u64 > LARGEST_FILE => Err("is larger than 4MiB, so it is no such file".into()),
        Ok(_) => Ok(bytes),
    }
}

/// The authorities in a file, each of which can be trusted.
pub(super) fn authorities(bytes: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(bytes)? {
        roots.add(authority).map_err(|error| format!("holds an authority that cannot be used: {error}"))?;
    }
    Ok(roots)
}

fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Err(error) => Err(format!("is broken: {error}")),
        Ok(none) if none.is_empty() => Err("holds no certificate in PEM form".into()),
        Ok(found) => Ok(found),
    }
}

fn private_key(content: &Content) -> Result<PrivateKeyDer<'static>, String> {
    const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    let bytes = content.as_ref().map_err(Clone::clone)?;
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if bytes.windows(ENCRYPTED.len()).any(|line| line == ENCRYPTED) => {
            "has a passphrase; take it off with `openssl pkey -in FILE -out FILE.plain`".into()
        }
        pem::Error::NoItemsFound => "holds no private key in PEM form".into(),
        error => format!("is broken: {error}"),
    })
}

/// Certificate and key as one, if they belong together.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsFault> {
    use rustls::Error::{InconsistentKeys, InvalidCertificate};
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        InconsistentKeys(_) => TlsFault {
            part: Part::Key,
            message: "is not the key of the first certificate in server.tls.cert: \
                      name the key that belongs to it, or put its certificate first"
                .into(),
        },
        InvalidCertificate(_) => {
            TlsFault { part: Part::Cert, message: format!("its first certificate cannot be used: {error}") }
        }
        error => TlsFault { part: Part::Key, message: format!("cannot be used: {error}") },
    })
}

/// Accepts the certificates of these authorities, and nobody without one.
fn verifier(content: &Content, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = authorities(content.as_ref().map_err(Clone::clone)?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
    verifier.map_err(|error| format!("cannot be used: {error}"))
}

/// Whether the certificate is out of date, or not valid yet.
fn untimely(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let now = x509_parser::time::ASN1Time::now();
    if now > validity.not_after {
        return Some(format!("the certificate expired on {}", validity.not_after));
    }
    (now < validity.not_before).then(|| format!("the certificate is not valid before {}", validity.not_before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(files: &TlsFiles, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) {
        fs::write(&files.cert, certificate.cert.pem()).expect("written");
        fs::write(&files.key, certificate.signing_key.serialize_pem()).expect("written");
    }

    #[test]
    fn what_has_changed_is_told_once_when_it_has_settled() {
        let new = || rcgen::generate_simple_self_signed(["proxy.test".to_owned()]).expect("a certificate");
        let (first, second) = (new(), new());
        let folder = tempfile::tempdir().expect("a folder");
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let files = TlsFiles { cert, key, client_ca: None };
        write(&files, &first);
        let loaded = files.load().expect("they belong together");
        let mut watch = Watch::new(&Tls { files: files.clone(), handshake_timeout: Duration::ZERO, loaded });
        assert!(watch.look().is_none(), "nothing has changed");

        fs::write(&files.cert, second.cert.pem()).expect("written");
        assert!(watch.look().is_none(), "its key may follow");
        write(&files, &second);
        assert!(watch.look().is_none(), "that is another change");
        assert!(watch.look().expect("it has settled").is_ok());
        assert!(watch.look().is_none(), "it is told once");

        fs::remove_file(&files.key).expect("it was there");
        assert!(watch.look().is_none());
        let faults = watch.look().expect("it has settled").map(drop).expect_err("there is no key");
        assert_eq!(faults[0].to_string(), "server.tls.key: cannot be read: No such file or directory (os error 2)");
        assert!(watch.look().is_none(), "it is told once");

        write(&files, &second);
        assert!(watch.look().is_none());
        assert!(watch.look().expect("it is back").is_ok());
    }
}
