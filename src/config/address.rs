//! Where to listen and whom to call: listen addresses, base URLs, forward proxies.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::uri::{Authority, Scheme};
use secrecy::zeroize::Zeroizing;
use toml::Value;

use super::item::{Setting, text};
use crate::domain::access::Credential;
use crate::domain::rules::ForwardProxy;

/// Where a listener waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A host name or address (without brackets) and a port; port 0 takes a free one.
    Tcp {
        /// The host name or address.
        host: Box<str>,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// What `sun_path` holds on Linux, less the closing NUL. The smaller limit of other systems shows when binding.
const LONGEST_SOCKET_PATH: usize = 107;

const ADDRESS: &str = "must be host:port, [v6]:port or unix:/path, as in 127.0.0.1:8080";
const BRACKETS: &str = "an IPv6 address stands in brackets, as in [::1]:8080";

impl ListenAddress {
    /// Reads `host:port`, `[v6]:port` or `unix:/path`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                _ if !path.starts_with('/') => Err("a Unix socket is written as unix:/absolute/path".into()),
                _ if path.len() > LONGEST_SOCKET_PATH => Err("the path of a Unix socket has at most 107 bytes".into()),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        if let Some((scheme, _)) = text.split_once("://") {
            let known = ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known));
            let scheme = known.map_or_else(|| "a scheme".to_owned(), |scheme| format!("{scheme}://"));
            return Err(format!("write host:port without {scheme}, as in 127.0.0.1:8080"));
        }
        let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
        if is_v6(text) {
            return Err(BRACKETS.into());
        }
        let (host, port) = text.rsplit_once(':').ok_or(ADDRESS)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or("the port must be a whole number from 0 to 65535")?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(v6) => v6.filter(|v6| is_v6(v6)).ok_or("no IPv6 address in brackets")?,
            None if host.is_empty() || host == "*" => {
                return Err(format!("write 0.0.0.0:{port} or [::]:{port} to listen on every interface"));
            }
            None if is_v6(host) => return Err(BRACKETS.into()),
            None if !is_host(host) => return Err(ADDRESS.into()),
            None => host,
        };
        Ok(Self::Tcp { host: host.into(), port })
    }

    /// Whether both cannot be bound: they are the same, or one is every address of its family at the port of the other. Port 0 is another
    /// port each time.
    pub fn clashes_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp { port: 0, .. }, _) => false,
            (Self::Tcp { host, port }, Self::Tcp { host: other, port: same }) => {
                port == same && (host == other || covers(host, other) || covers(other, host))
            }
            _ => self == other,
        }
    }

    /// Whether only this machine can reach it: loopback or a Unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => is_loopback(host),
            Self::Unix(_) => true,
        }
    }
}

/// Whether `all` stands for every address of the family that `one` is of. Whether IPv6 takes IPv4 with it is for the system to say.
fn covers(all: &str, one: &str) -> bool {
    match (all.parse(), one.parse()) {
        (Ok::<IpAddr, _>(all), Ok::<IpAddr, _>(one)) => all.is_unspecified() && all.is_ipv4() == one.is_ipv4(),
        _ => false,
    }
}

fn is_host(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Whether `host`, a name or an address without brackets, means this machine.
fn is_loopback(host: &str) -> bool {
    // `localhost` is loopback by RFC 6761, section 6.3; any other name is for the resolver to say, so it does not count.
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Setting for ListenAddress {
    fn read(value: &Value) -> Result<Self, String> {
        Self::parse(text(value, "host:port, [v6]:port or unix:/path, in quotes")?)
    }
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
    /// What stands before `/api/…`: empty, or a path without a trailing slash.
    pub prefix: Arc<str>,
}

impl BaseUrl {
    /// Reads `https://host[:port][/prefix]`; a trailing `/api` is dropped, since every path upstream starts with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, authority, path) = split_url(text, "must be a URL that starts with https:// or http://")?;
        if authority.as_str().contains('@') {
            return Err("must not hold a user or password".into());
        }
        let prefix = path.strip_suffix('/').unwrap_or(&path);
        let prefix = prefix.strip_suffix("/api").unwrap_or(prefix);
        if prefix.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
            return Err("the path must not hold empty, `.` or `..` segments".into());
        }
        Ok(Self { scheme, authority, prefix: prefix.into() })
    }

    /// Whether credentials would cross a network in the clear.
    pub fn is_exposed(&self) -> bool {
        self.scheme == Scheme::HTTP && !is_loopback(self.authority.host().trim_matches(['[', ']']))
    }
}

impl Setting for BaseUrl {
    fn read(value: &Value) -> Result<Self, String> {
        Self::parse(text(value, "a URL in quotes, as in \"https://api.merge.dev\"")?)
    }
}

/// Scheme, authority and path of an http or https URL without query and fragment; `allowed` is said of what is none.
fn split_url(text: &str, allowed: &str) -> Result<(Scheme, Authority, String), String> {
    let parts = text.parse::<Uri>().map_err(|_| allowed)?.into_parts();
    let scheme = parts.scheme.filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme)).ok_or(allowed)?;
    let authority = parts.authority.filter(|authority| !authority.host().is_empty()).ok_or(allowed)?;
    // `Uri` drops a fragment in silence, so it is looked for in the text.
    if text.contains(['?', '#']) {
        return Err("must not hold a query or fragment".into());
    }
    let beyond_host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
    if beyond_host.len() > authority.host().len() && authority.port_u16().is_none() {
        return Err("must have a port that is a whole number from 1 to 65535".into());
    }
    let path = parts.path_and_query.map_or_else(String::new, |path| path.path().to_owned());
    Ok((scheme, authority, path))
}

impl Setting for ForwardProxy {
    /// Reads `http://[user:password@]host:port`.
    fn read(value: &Value) -> Result<Self, String> {
        let text = text(value, "a URL in quotes, as in \"http://proxy:3128\"")?;
        let (scheme, authority, path) = split_url(text, "must be a URL that starts with http://")?;
        if !matches!(path.as_str(), "" | "/") {
            return Err("must not hold a path".into());
        }
        if scheme != Scheme::HTTP {
            return Err("must be a URL that starts with http://; what goes through it is encrypted all the same".into());
        }
        let (user, host) = match authority.as_str().rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority.as_str()),
        };
        let authorization = user.map(basic).transpose()?;
        let url = Uri::builder().scheme(scheme).authority(host).path_and_query("/").build();
        Ok(Self { url: url.map_err(|_| "must be a URL that starts with http://")?, authorization })
    }
}

/// The `Basic` credential of `user:password`, both percent-encoded as in a URL.
fn basic(user: &str) -> Result<Credential, String> {
    let plain = Zeroizing::new(percent_decode(user).ok_or("must have user and password percent-encoded")?);
    let password = if user.contains(':') { "" } else { ":" };
    let both = Zeroizing::new([plain.as_slice(), password.as_bytes()].concat());
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(both.as_slice()));
    Credential::in_scheme("Basic", &encoded).ok_or_else(|| "must have user and password percent-encoded".into())
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut plain = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let [byte] = hex::decode(digits).ok()?[..] else { return None };
        plain.push(byte);
        plain.extend_from_slice(rest.as_bytes());
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn listen_addresses_know_whether_they_are_local() {
        for (text, local) in [
            ("127.0.0.1:8080", true),
            ("127.9.9.9:0", true),
            ("localhost:8080", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]:8080", true),
            ("unix:/run/proxy.sock", true),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("10.0.0.1:8080", false),
            ("proxy.internal:8080", false),
        ] {
            let address = ListenAddress::parse(text).expect(text);
            assert_eq!(address.is_local(), local, "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn addresses_clash_if_both_cannot_be_bound() {
        for (one, other, clash) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "127.0.0.1:8081", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            ("[::]:8080", "[::1]:8080", true),
            ("0.0.0.0:8080", "[::1]:8080", false),
            ("127.0.0.1:8080", "10.0.0.1:8080", false),
            ("0.0.0.0:8080", "proxy.internal:8080", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "127.0.0.1:8080", false),
        ] {
            let [one, other] = [one, other].map(|text| ListenAddress::parse(text).expect(text));
            assert_eq!((one.clashes_with(&other), other.clashes_with(&one)), (clash, clash), "{one} {other}");
        }
    }

    #[test]
    fn a_bad_listen_address_is_told_what_is_allowed() {
        for (text, message) in [
            ("8080", ADDRESS),
            ("a b:1", ADDRESS),
            ("a:b:1", ADDRESS),
            ("http://127.0.0.1:8080", "write host:port without http://, as in 127.0.0.1:8080"),
            ("HTTPS://localhost", "write host:port without https://, as in 127.0.0.1:8080"),
            ("tcp://[::1]:8080/", "write host:port without a scheme, as in 127.0.0.1:8080"),
            ("localhost:http", "the port must be a whole number from 0 to 65535"),
            ("localhost:+80", "the port must be a whole number from 0 to 65535"),
            ("localhost:65536", "the port must be a whole number from 0 to 65535"),
            (":8080", "write 0.0.0.0:8080 or [::]:8080 to listen on every interface"),
            ("*:8080", "write 0.0.0.0:8080 or [::]:8080 to listen on every interface"),
            ("::1:8080", BRACKETS),
            ("2001:db8::a", BRACKETS),
            ("[nope]:8080", "no IPv6 address in brackets"),
            ("unix:proxy.sock", "a Unix socket is written as unix:/absolute/path"),
        ] {
            assert_eq!(ListenAddress::parse(text), Err(message.into()), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert_eq!(ListenAddress::parse(&long), Err("the path of a Unix socket has at most 107 bytes".into()));
    }

    #[test]
    fn a_base_url_is_taken_apart() {
        for (text, authority, prefix) in [
            ("https://api.merge.dev", "api.merge.dev", ""),
            ("https://api.merge.dev/", "api.merge.dev", ""),
            ("https://api.merge.dev/api", "api.merge.dev", ""),
            ("https://api.merge.dev/api/", "api.merge.dev", ""),
            ("http://127.0.0.1:9000/merge/", "127.0.0.1:9000", "/merge"),
            ("http://[::1]:9000/a/b/api", "[::1]:9000", "/a/b"),
        ] {
            let url = BaseUrl::parse(text).expect(text);
            assert_eq!((url.authority.as_str(), &*url.prefix), (authority, prefix), "{text}");
            assert!(!url.is_exposed());
        }
        assert!(BaseUrl::parse("http://api.merge.dev").is_ok_and(|url| url.is_exposed()));
    }

    #[test]
    fn a_bad_base_url_is_told_what_is_allowed() {
        for (text, message) in [
            ("api.merge.dev", "must be a URL that starts with https:// or http://"),
            ("ftp://api.merge.dev", "must be a URL that starts with https:// or http://"),
            ("https://", "must be a URL that starts with https:// or http://"),
            ("https://u:p@api.merge.dev", "must not hold a user or password"),
            ("https://api.merge.dev?x=1", "must not hold a query or fragment"),
            ("https://api.merge.dev/#x", "must not hold a query or fragment"),
            ("https://api.merge.dev:99999", "must have a port that is a whole number from 1 to 65535"),
            ("https://api.merge.dev/a/../b", "the path must not hold empty, `.` or `..` segments"),
            ("https://api.merge.dev//", "the path must not hold empty, `.` or `..` segments"),
        ] {
            assert_eq!(BaseUrl::parse(text), Err(message.into()), "{text}");
        }
    }

    #[test]
    fn a_forward_proxy_keeps_its_password_apart() {
        let read = |text: &str| ForwardProxy::read(&text.into());
        let proxy = read("http://me:p%40ss@proxy:3128").expect("a proxy");
        assert_eq!(proxy.url, "http://proxy:3128/");
        let authorization = proxy.authorization.expect("a password");
        assert_eq!(authorization.expose(), "Basic bWU6cEBzcw==");
        assert!(read("http://proxy:3128").is_ok_and(|proxy| proxy.authorization.is_none()));
        assert_eq!(read("http://me:p%4@proxy").err(), Some("must have user and password percent-encoded".into()));
        assert_eq!(read("http://proxy/path").err(), Some("must not hold a path".into()));
        assert_eq!(read("socks5://proxy").err(), Some("must be a URL that starts with http://".into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(unix:|https?://|\\[)?\\PC*") {
            let _ = (ListenAddress::parse(&text), BaseUrl::parse(&text), ForwardProxy::read(&text.as_str().into()).is_ok());
        }

        #[test]
        fn an_address_reads_back(host in "[a-z0-9.-]{1,20}|[0-9a-f]{1,4}::[0-9a-f]{1,4}", port: u16) {
            let address = ListenAddress::Tcp { host: host.as_str().into(), port };
            prop_assert_eq!(ListenAddress::parse(&address.to_string()), Ok(address));
        }
    }
}
