//! Heads that hyper would let pass although another reader might read them differently: bare line feeds, two framings, a fragment,
//! no Host or several. The bytes of HTTP/1 are read along (`listen/followed.rs`) as they come in; what is wrong goes with the request as an
//! [`Objection`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{HOST, TRANSFER_ENCODING};
use http::{Method, Request, Version};
use http_body::Body;
use parking_lot::Mutex;

use super::framed;
use super::scan::Fault;
use crate::domain::arrival::Conversation;
use crate::domain::heads::Said;
use crate::domain::problem::{Objection, Problem};

/// What the reader of a connection's bytes has to say to whoever gets its requests.
#[derive(Debug, Default)]
pub struct Strict {
    /// The first head that is at fault, counted from 0, and what is wrong with it. Nothing behind it is to be trusted.
    fault: OnceLock<(u64, Fault)>,
    /// How many requests have been looked at.
    seen: AtomicU64,
    /// The number of the last head that has been said before, and what it says.
    said: Mutex<Option<(u64, Said)>>,
    /// The first `Host` that was one: nearly always all others are the same.
    host: OnceLock<Box<[u8]>>,
}

/// What is to be known of a request.
#[derive(Debug)]
pub struct Examined {
    /// Whether its connection must end with it.
    pub is_last: bool,
    /// Whether the same has been said before. Then it was found good.
    pub said: Said,
}

impl Strict {
    /// Whether the first so many heads have all become requests.
    pub(super) fn has_seen(&self, heads: u64) -> bool {
        self.seen.load(Ordering::Relaxed) == heads
    }

    /// The head of this number has been said before, and says this.
    pub(super) fn hear(&self, number: u64, said: Said) {
        *self.said.lock() = Some((number, said));
    }

    /// The first head that is at fault is that of this number.
    pub(super) fn doubt(&self, number: u64, fault: Fault) {
        let _ = self.fault.set((number, fault));
    }

    /// Puts an [`Objection`] on a request that must not be answered as if nothing were.
    pub fn examine<B: Body>(&self, request: &mut Request<B>, conversation: &Conversation) -> Examined {
        // Only the connection's own task comes here.
        let number = self.seen.load(Ordering::Relaxed);
        self.seen.store(number + 1, Ordering::Relaxed);
        let framed = request.version() == Version::HTTP_2;
        let said = if framed {
            framed::words(request).map(|words| conversation.hear_apart(&words)).unwrap_or_default()
        } else {
            // One that was read ahead of its turn is still to come.
            let said = self.said.lock().take_if(|(of, _)| *of <= number);
            said.filter(|(of, _)| *of == number).map(|(_, said)| said).unwrap_or_default()
        };
        if let Said::Known(_) = said {
            return Examined { is_last: false, said };
        }
        let fault = self.fault.get().filter(|(first, _)| !framed && number >= *first).map(|(_, fault)| *fault);
        // One look at all fields costs less than a search for each.
        let (mut hosts, mut host, mut has_chunks) = (0, None, false);
        for (name, value) in request.headers() {
            if *name == HOST {
                (hosts, host) = (hosts + 1, Some(value.as_bytes()));
            }
            has_chunks |= *name == TRANSFER_ENCODING;
        }
        let fault = fault.or_else(|| if hosts > 1 { Some(SEVERAL_HOSTS) } else { self.fault_of(request, host) });
        if let Some(fault) = fault {
            request.extensions_mut().insert(Objection(problem(fault)));
        }
        // Where a body in chunks ends, the scan does not follow: nothing may come behind it.
        let is_last = !framed && (fault.is_some() || has_chunks);
        Examined { is_last, said: if fault.is_some() || is_last { Said::Once } else { said } }
    }

    /// What is wrong with a request that has been parsed, and has no `Host` but this one.
    fn fault_of<B>(&self, request: &Request<B>, host: Option<&[u8]>) -> Option<Fault> {
        let (uri, version) = (request.uri(), request.version());
        if request.headers().len() > super::scan::MOST_FIELDS {
            return Some(Fault::TooManyFields);
        }
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        let wrong = match (host, authority) {
            (None, None) => version != Version::HTTP_10 && version != Version::HTTP_09,
            (None, Some(authority)) => version == Version::HTTP_11 || !self.is_host(authority),
            (Some(host), None) => !self.is_host(host),
            (Some(host), Some(authority)) => !is_host(host) || !host.eq_ignore_ascii_case(authority),
        };
        if wrong {
            return Some(Fault::Malformed("'Host' must be one host that agrees with the request target."));
        }
        let is_form_of_connect = uri.scheme().is_none() && authority.is_some();
        let is_foreign = uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https"));
        if is_foreign || (is_form_of_connect && *request.method() != Method::CONNECT) {
            return Some(Fault::Malformed("The request target must be a path."));
        }
        if !uri.path().is_ascii() || uri.query().is_some_and(|query| !query.is_ascii()) {
            return Some(Fault::Malformed("Percent-encode what is not ASCII in the request target."));
        }
        None
    }

    fn is_host(&self, host: &[u8]) -> bool {
        let is_same = self.host.get().is_some_and(|known| **known == *host);
        let fits = is_same || is_host(host);
        if fits && !is_same && host.len() <= LONGEST_KNOWN {
            let _ = self.host.set(host.into());
        }
        fits
    }
}

/// The longest `Host` that a connection remembers, in bytes: that of a name in DNS.
const LONGEST_KNOWN: usize = 255;

const SEVERAL_HOSTS: Fault = Fault::Malformed("Send one 'Host' header, not several.");

fn problem(fault: Fault) -> Problem {
    match fault {
        Fault::Malformed(detail) => Problem::InvalidRequest(detail.into()),
        Fault::TooManyFields => Problem::HeadersTooLarge,
    }
}

/// Which bytes a host may have: each request has one, so each is looked up and not searched for.
static FITS_HOST: [bool; 256] = {
    let mut fits = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        fits[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~%!$&'()*+;=:[]";
    let mut at = 0;
    while at < others.len() {
        fits[others[at] as usize] = true;
        at += 1;
    }
    fits
};

/// Whether this is a host and perhaps a port (RFC 3986 §3.2.2), without user information and without a comma, which joins two.
fn is_host(host: &[u8]) -> bool {
    let fits = |byte: &u8| FITS_HOST[usize::from(*byte)];
    let name_end = match host.first() {
        Some(b'[') => host.iter().position(|byte| *byte == b']').map_or(0, |end| end + 1),
        _ => host.iter().position(|byte| *byte == b':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(name_end);
    let port_fits = port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit));
    !name.is_empty() && name.iter().all(fits) && port_fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::peer::Peer;
    use bytes::Bytes;
    use http_body_util::Empty;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in ["a", "a.b:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "a:", "%2Ftmp%2Fproxy.sock"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["", ":80", "a:b", "a b", "a,b", "u@a", "a/b", "a:80:80", "[::1", "[::1]x", "a\\b", "é", "a?b", "::1"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn host_and_target_must_agree() {
        for (target, hosts, fits) in [
            ("/x", &["a"][..], true),
            ("/x", &[], false),
            ("/x", &["a", "a"], false),
            ("/x", &["u@a"], false),
            ("http://a/x", &["A"], true),
            ("http://a/x", &["b"], false),
            ("http://a/x", &[], false),
            ("http://u:p@a/x", &["a"], false),
            ("http://u:p@a/x", &["u:p@a"], false),
            ("ftp://a/x", &["a"], false),
            ("a:80", &["a:80"], false),
            ("*", &["a"], true),
            ("/\u{e9}", &["a"], false),
        ] {
            let mut request = Request::get(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let mut request = request.body(Empty::<Bytes>::new()).expect("a request");
            let conversation = Conversation::new(Peer::Local { uid: None }, None);
            assert_ne!(Strict::default().examine(&mut request, &conversation).is_last, fits, "{target} {hosts:?}");
            assert_ne!(request.extensions().get::<Objection>().is_some(), fits, "{target} {hosts:?}");
        }
    }
}
