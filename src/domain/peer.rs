//! Who is at the other end of a connection, as far as the connection itself says it. No header can say otherwise.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderValue;

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Network {
        /// Its address.
        address: IpAddr,
        /// The names in the certificate that it has shown, if an authority of ours vouches for it.
        certificate: Box<[Box<str>]>,
    },
    /// Over a Unix socket.
    Local {
        /// The user that it runs as, if the system says so.
        uid: Option<u32>,
    },
}

/// Whom limits that are for everybody count as one: a network address, or a user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An address of IPv4.
    V4(Ipv4Addr),
    /// The first half of an address of IPv6: the other half is for its owner to choose, so it tells nobody apart.
    V6([u8; 8]),
    /// A user.
    Uid(u32),
}

/// What a connection says of who is at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shown<'a> {
    /// The names in its certificate; none without one.
    Certificate(&'a [Box<str>]),
    /// The user that it runs as, if the system says so.
    Uid(Option<u32>),
}

impl Origin {
    /// Of an address; one of IPv4 that is written as IPv6 is what it is.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(*address.octets().first_chunk().expect("sixteen bytes hold eight")),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(half) => {
                let mut whole = [0; 16];
                whole[..8].copy_from_slice(half);
                write!(f, "{}/64", Ipv6Addr::from(whole))
            }
            Self::Uid(uid) => write!(f, "uid {uid}"),
        }
    }
}

impl Peer {
    /// The same, having shown a certificate with these names.
    #[must_use]
    pub fn showing(self, certificate: Box<[Box<str>]>) -> Self {
        match self {
            Self::Network { address, .. } => Self::Network { address, certificate },
            local @ Self::Local { .. } => local,
        }
    }

    /// What its connection has shown of who it is. The address is not: it may be anybody's.
    pub fn shown(&self) -> Shown<'_> {
        match self {
            Self::Network { certificate, .. } => Shown::Certificate(certificate),
            Self::Local { uid } => Shown::Uid(*uid),
        }
    }

    /// To whom its share of a limit belongs; `None` if nobody can tell.
    pub fn origin(&self) -> Option<Origin> {
        match self {
            Self::Network { address, .. } => Some(Origin::of(*address)),
            Self::Local { uid } => uid.map(Origin::Uid),
        }
    }
}

impl fmt::Display for Peer {
    /// The address, or the user of this machine.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { address, .. } => address.to_canonical().fmt(f),
            Self::Local { uid: Some(uid) } => write!(f, "uid {uid}"),
            Self::Local { uid: None } => f.write_str("unix"),
        }
    }
}

/// Who sent a request, for lines that are about it.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The other end of its connection, if it came over one.
    pub peer: Option<Peer>,
    /// Its `X-Request-Id`.
    pub id: Option<HeaderValue>,
}

impl Asker {
    /// The request's name as a field of a line.
    pub fn id(&self) -> Option<&str> {
        self.id.as_ref()?.to_str().ok()
    }

    /// The peer as a field of a line.
    pub fn peer(&self) -> Option<String> {
        self.peer.as_ref().map(ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_of_many_addresses_is_one_origin() {
        let origin = |text: &str| Origin::of(text.parse().expect("an address"));
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_eq!(origin("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!([origin("192.0.2.1"), Origin::Uid(7)].map(|origin| origin.to_string()), ["192.0.2.1", "uid 7"]);
        assert_ne!(origin("192.0.2.2"), origin("192.0.2.1"));
    }

    #[test]
    fn a_peer_is_told_by_its_address_or_its_user() {
        let network =
            |text: &str| Peer::Network { address: text.parse().expect("an address"), certificate: Box::default() };
        assert_eq!(network("2001:db8::1").to_string(), "2001:db8::1");
        assert_eq!(network("::ffff:192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(Peer::Local { uid: Some(1000) }.to_string(), "uid 1000");
        assert_eq!(Peer::Local { uid: None }.to_string(), "unix");
    }
}
