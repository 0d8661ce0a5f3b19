//! The tables that stand on their own: server, admin, cache, telemetry.

use http::Uri;
use nix::unistd::Group;

use super::address::{BaseUrl, ListenAddress};
use super::effective::{Admin, Cache, Server, Telemetry};
use super::filter;
use super::findings::Findings;
use super::item::{Item, NOWHERE, Table};
use super::schema::{self, File};
use super::socket_folder::expect_folder;
use super::tls::{Part, Tls, TlsFiles};
use super::units::{ByteSize, duration_text, size_text};
use crate::domain::rules::{Lifetimes, SocketAccess};

/// Hyper's buffer must hold the 8 KiB of a request target and some headers beside it.
const SMALLEST_HEAD: u64 = 16 << 10;

/// Each connection may hold one.
const LARGEST_HEAD: u64 = 1 << 20;

/// A larger page is answered with 502, so it would never be there to keep.
const LARGEST_PAGE: u64 = 64 << 20;

/// `[server]`, with bounds on everything that others can use up.
pub(super) fn server(server: &schema::Server, findings: &mut Findings<'_>) -> Server {
    for (index, address) in server.listen.iter().enumerate() {
        match server.listen[..index].iter().find(|earlier| earlier.clashes_with(address)) {
            Some(same) if **same == **address => findings.fault(address.place(), "is given twice"),
            Some(other) => findings.fault(address.place(), overlap(other, address)),
            None => expect_folder(address, findings),
        }
    }
    if server.listen.is_empty() {
        findings.fault(server.listen.place(), "must name at least one address");
    }
    let head = server.max_header_bytes.0;
    if !(SMALLEST_HEAD..=LARGEST_HEAD).contains(&head) {
        let allowed = format!("must be from {} to {}", size_text(SMALLEST_HEAD), size_text(LARGEST_HEAD));
        findings.fault(server.max_header_bytes.place(), allowed);
    }
    Server {
        listen: server.listen.iter().map(|address| (**address).clone()).collect(),
        workers: server.workers.count(),
        drain: *server.drain,
        max_connections: server.max_connections.0 as usize,
        max_connections_per_peer: server.max_connections_per_peer.0,
        header_timeout: findings.positive(&server.header_timeout),
        body_timeout: findings.positive(&server.body_timeout),
        idle_timeout: findings.positive(&server.idle_timeout),
        max_header_bytes: usize::try_from(head).unwrap_or(usize::MAX),
        failed_keys: *server.failed_keys,
        unix: socket_access(&server.unix, &server.listen, findings),
        tls: server.tls.as_ref().and_then(|tls| secure(tls, &server.listen, findings)),
    }
}

/// `[server.unix]`, with the group that its name means on this machine.
fn socket_access(
    table: &Table<schema::Unix>,
    listen: &[Item<ListenAddress>],
    findings: &mut Findings<'_>,
) -> SocketAccess {
    if *table.place() != NOWHERE && !listen.iter().any(|address| matches!(**address, ListenAddress::Unix(_))) {
        findings.warn(table.place(), "is of no use: no address in server.listen is a Unix socket");
    }
    let group = table.group.as_ref().and_then(|group| {
        // A number needs no entry in the system's list of groups.
        let found = group.parse().ok().or_else(|| Some(Group::from_name(group).ok()??.gid.as_raw()));
        if found.is_none() {
            findings.fault(group.place(), "there is no such group on this machine");
        }
        found
    });
    SocketAccess { mode: table.mode.0, group }
}

/// `[server.tls]`, with its files read and held against each other.
fn secure(table: &Table<schema::Tls>, listen: &[Item<ListenAddress>], findings: &mut Findings<'_>) -> Option<Tls> {
    let handshake_timeout = findings.positive(&table.handshake_timeout);
    if table.cert.is_none() {
        findings.missing(table.place(), "cert", "the file with the certificate chain, the own certificate first");
    }
    if table.key.is_none() {
        findings.missing(table.place(), "key", "the file with the certificate's private key");
    }
    if listen.iter().all(|address| matches!(**address, ListenAddress::Unix(_))) {
        findings.warn(table.place(), "is of no use: TLS is spoken on TCP, and there are only Unix sockets");
    }
    let (cert, key) = (table.cert.as_ref()?, table.key.as_ref()?);
    let files = TlsFiles {
        cert: findings.file(cert),
        key: findings.file(key),
        client_ca: table.client_ca.as_ref().map(|path| findings.file(path)),
    };
    match files.load() {
        Ok(loaded) => {
            if let Some(warning) = &loaded.warning {
                findings.warn(cert.place(), warning);
            }
            Some(Tls { files, handshake_timeout, loaded })
        }
        Err(faults) => {
            for fault in faults {
                let place = match fault.part {
                    Part::Cert => cert.place(),
                    Part::Key => key.place(),
                    Part::ClientCa => table.client_ca.as_ref().map_or(table.place(), Item::place),
                };
                findings.fault(place, fault.message);
            }
            None
        }
    }
}

/// That one of two addresses takes the other's port with it.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> String {
    format!("{one} and {other} cannot both be listened on, since one of them is all addresses of this port")
}

/// `[admin]`, guarded where others can reach it.
pub(super) fn admin(file: &File, findings: &mut Findings<'_>) -> Admin {
    let listen = &file.admin.listen;
    expect_folder(listen, findings);
    let token = file.admin.token.as_ref().and_then(|token| findings.secret(token));
    if token.is_none() && !listen.is_local() && !findings.touch("admin.token") {
        findings.fault(listen.place(), "others can reach this address: set admin.token, or listen on 127.0.0.1");
    }
    if let Some(taken) = file.server.listen.iter().find(|taken| taken.clashes_with(listen)) {
        let place = if listen.is_written() { listen.place() } else { taken.place() };
        let other = match **listen {
            ListenAddress::Tcp { .. } => "port",
            ListenAddress::Unix(_) => "path",
        };
        let what = if **taken == **listen {
            format!("server.listen and admin.listen are both {}", **listen)
        } else {
            overlap(taken, listen)
        };
        findings.fault(place, format!("{what}; give one of them another {other}"));
    }
    Admin { listen: (**listen).clone(), token }
}

/// `[cache]`, whose sizes and lifetimes fit each other.
pub(super) fn cache(cache: &schema::Cache, findings: &mut Findings<'_>) -> Cache {
    let page = cache.max_page_bytes.0;
    if !(1..=LARGEST_PAGE).contains(&page) {
        findings.fault(cache.max_page_bytes.place(), format!("must be from 1 byte to {}", size_text(LARGEST_PAGE)));
    } else if *cache.max_bytes < ByteSize(page) {
        // What is written is at fault, not the default that it does not fit.
        if cache.max_bytes.is_written() {
            let message = format!("must not be less than cache.max_page_bytes, which is {}", size_text(page));
            findings.fault(cache.max_bytes.place(), message);
        } else {
            let message = format!("must not be more than cache.max_bytes, which is {}", size_text(cache.max_bytes.0));
            findings.fault(cache.max_page_bytes.place(), message);
        }
    }
    let (ttl, stale) = (&cache.ttl, &cache.stale);
    for (name, most) in [("syncing", &ttl.syncing), ("settled", &ttl.settled)] {
        if *ttl.min > **most {
            let (least, written) = (duration_text(*ttl.min), duration_text(**most));
            if most.is_written() {
                findings.fault(most.place(), format!("must not be less than cache.ttl.min, which is {least}"));
            } else {
                findings.fault(ttl.min.place(), format!("must not be more than cache.ttl.{name}, which is {written}"));
            }
        }
    }
    Cache {
        max_bytes: cache.max_bytes.0,
        max_page_bytes: usize::try_from(page).unwrap_or(usize::MAX),
        lifetimes: Lifetimes {
            syncing: *ttl.syncing,
            settled: *ttl.settled,
            min: *ttl.min,
            negative: *ttl.negative,
            while_revalidate: *stale.while_revalidate,
            if_error: *stale.if_error,
        },
    }
}

/// Where a collector takes traces: the path that OTLP prescribes, below the URL.
fn collector(BaseUrl { scheme, authority, prefix }: &BaseUrl) -> Uri {
    let url = format!("{scheme}://{authority}{prefix}/v1/traces");
    url.parse().expect("what was read from a URL makes one")
}

/// `[telemetry]`.
pub(super) fn telemetry(telemetry: &schema::Telemetry, findings: &mut Findings<'_>) -> Telemetry {
    if let Err(message) = filter::check(&telemetry.filter) {
        findings.fault(telemetry.filter.place(), message);
    }
    Telemetry {
        log: telemetry.log.as_deref().copied(),
        filter: (*telemetry.filter).clone(),
        access_log: *telemetry.access_log,
        otlp: telemetry.otlp.as_deref().map(collector),
        sample: telemetry.sample.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{config, expect_faults, faults, parse, warnings};
    use super::super::secret::Secret;
    use super::*;

    #[test]
    fn bounds_are_told_with_the_key() {
        expect_faults(&[
            ("[server]\nlisten = []", "2:10  server.listen  []: must name at least one address"),
            (
                "[server]\nlisten = ['localhost:1', 'localhost:1']",
                "2:26  server.listen[1]  'localhost:1': is given twice",
            ),
            (
                "[server]\nmax_connections = 0",
                "2:19  server.max_connections  0: must be a whole number from 1 to 1000000",
            ),
            ("[server]\nheader_timeout = '0s'", "2:18  server.header_timeout  '0s': must be longer than zero"),
            ("[server]\nidle_timeout = '0ms'", "2:16  server.idle_timeout  '0ms': must be longer than zero"),
            (
                "[server]\nmax_header_bytes = '1KiB'",
                "2:20  server.max_header_bytes  '1KiB': must be from 16KiB to 1MiB",
            ),
            ("[cache]\nmax_page_bytes = 0", "2:18  cache.max_page_bytes  0: must be from 1 byte to 64MiB"),
            ("[cache]\nmax_page_bytes = '65MiB'", "2:18  cache.max_page_bytes  '65MiB': must be from 1 byte to 64MiB"),
            (
                "[cache]\nmax_bytes = '1MiB'",
                "2:13  cache.max_bytes  '1MiB': must not be less than cache.max_page_bytes, which is 4MiB",
            ),
            (
                "[cache.ttl]\nmin = '10s'",
                "2:7  cache.ttl.min  '10s': must not be more than cache.ttl.syncing, which is 5s",
            ),
            (
                "[cache.ttl]\nsettled = '1s'",
                "2:11  cache.ttl.settled  '1s': must not be less than cache.ttl.min, which is 2s",
            ),
            (
                "[telemetry]\nfilter = 'inof'",
                "2:10  telemetry.filter  'inof': `inof` is no level, did you mean `info`?",
            ),
            (
                "[telemetry]\notlp = 'collector:4318'",
                "2:8  telemetry.otlp: must be a URL that starts with https:// or http://",
            ),
            ("[telemetry]\nsample = 1.5", "2:10  telemetry.sample  1.5: must be a number from 0 to 1, as in 0.01"),
        ]);
    }

    #[test]
    fn the_admin_listener_is_guarded_where_others_reach_it() {
        expect_faults(&[
            (
                "[admin]\nlisten = '0.0.0.0:8081'",
                "2:10  admin.listen  '0.0.0.0:8081': others can reach this address: set admin.token, or listen on 127.0.0.1",
            ),
            (
                "[admin]\nlisten = '0.0.0.0:8081'\ntoken = { env = 'NONE' }",
                "3:9  admin.token: environment variable NONE is not set",
            ),
            (
                "[admin]\nlisten = '127.0.0.1:8080'",
                "2:10  admin.listen  '127.0.0.1:8080': server.listen and admin.listen are both 127.0.0.1:8080; \
                 give one of them another port",
            ),
            (
                "[server]\nlisten = '127.0.0.1:8081'",
                "2:10  server.listen  '127.0.0.1:8081': server.listen and admin.listen are both 127.0.0.1:8081; \
                 give one of them another port",
            ),
            (
                "[server]\nlisten = 'unix:/p.sock'\n[admin]\nlisten = 'unix:/p.sock'",
                "4:10  admin.listen  'unix:/p.sock': server.listen and admin.listen are both unix:/p.sock; \
                 give one of them another path",
            ),
            (
                "[server]\nlisten = ['[::]:8081', '[::1]:8081']\n[admin]\nlisten = '127.0.0.1:8082'\n[[consumers]]\nname = 'a'\n\
                 raw_tokens = true\nkey_sha256 = '5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456'",
                "2:24  server.listen[1]  '[::1]:8081': [::]:8081 and [::1]:8081 cannot both be listened on, since one of them is \
                 all addresses of this port",
            ),
            (
                "[admin]\nlisten = '0.0.0.0:8080'\ntoken = { env = 'TOKEN' }",
                "2:10  admin.listen  '0.0.0.0:8080': 127.0.0.1:8080 and 0.0.0.0:8080 cannot both be listened on, since one of \
                 them is all addresses of this port; give one of them another port",
            ),
        ]);
        let guarded = config("[admin]\nlisten = '[::]:8081'\ntoken = { env = 'TOKEN' }");
        assert_eq!(guarded.admin.token.as_ref().map(Secret::expose), Some("canary-token"));
        assert!(!format!("{guarded:?}").contains("canary"));
    }

    #[test]
    fn traces_go_where_otlp_prescribes() {
        let telemetry = config("[telemetry]\notlp = 'http://collector:4318'\nsample = 1").telemetry;
        assert_eq!(telemetry.otlp.expect("a collector"), "http://collector:4318/v1/traces");
        assert!(telemetry.sample > 0.99);
        let below = config("[telemetry]\notlp = 'https://collector/otlp/'").telemetry;
        assert_eq!(below.otlp.expect("a collector"), "https://collector/otlp/v1/traces");
        assert!((below.sample - 0.01).abs() < 1e-9);
    }

    #[test]
    fn port_zero_may_be_given_twice() {
        let both = config("[server]\nlisten = ['localhost:0', 'localhost:0']\n[admin]\nlisten = 'localhost:0'");
        assert_eq!(both.server.listen.len(), 2);
    }

    #[test]
    fn a_unix_socket_is_for_its_owner_unless_others_are_named() {
        let access =
            |unix: &str| config(&format!("[server]\nlisten = 'unix:/run/p.sock'\n[server.unix]\n{unix}")).server.unix;
        assert_eq!(access(""), SocketAccess::OWNER);
        assert_eq!(access("mode = '0660'\ngroup = '33'"), SocketAccess { mode: 0o660, group: Some(33) });
        assert_eq!(access("group = 'root'").group, Some(0));
        let mode = "must be octal permissions in quotes, as in \"0660\"; the owner needs to read and write";
        for bad in ["'0860'", "'60'", "'1777'", "'0060'", "'rw-'", "'+660'"] {
            let told = faults(&format!("[server.unix]\nmode = {bad}"));
            assert_eq!(told, format!("proxy.toml:2:8  server.unix.mode  {bad}: {mode}"));
        }
        expect_faults(&[(
            "[server]\nlisten = 'unix:/run/p.sock'\n[server.unix]\ngroup = 'no such'",
            "4:9  server.unix.group  'no such': there is no such group on this machine",
        )]);
        assert_eq!(
            warnings("[server.unix]\nmode = '0666'"),
            ["proxy.toml:1:1  server.unix: is of no use: no address in server.listen is a Unix socket"]
        );
    }

    #[test]
    fn what_is_not_done_yet_is_refused_and_not_ignored() {
        assert_eq!(
            faults("[shared]\nurl = 'redis://host'"),
            "proxy.toml:1:1  shared: the shared store is not available in this version"
        );
    }

    #[test]
    fn without_an_upstream_the_fault_shows_one() {
        let told = parse("").map(drop).expect_err("nothing there").to_string();
        let advice =
            "add [upstreams.us] with base_url = \"https://api.merge.dev\" and api_key = { env = \"MERGE_API_KEY\" }";
        assert_eq!(told, format!("proxy.toml:1:1  upstreams: is missing: {advice}"));
    }
}
