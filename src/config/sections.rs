//! The tables that stand on their own: server, admin, cache, telemetry.

use tracing_subscriber::EnvFilter;

use super::address::ListenAddress;
use super::effective::{Admin, Cache, Server, Telemetry};
use super::findings::Findings;
use super::schema::{self, File};
use super::units::{ByteSize, duration_text, size_text};
use crate::domain::rules::Lifetimes;

/// Hyper's buffer must hold the 8 KiB of a request target and some headers beside it.
const SMALLEST_HEAD: u64 = 16 << 10;

/// Each connection may hold one.
const LARGEST_HEAD: u64 = 1 << 20;

/// A larger page is answered with 502, so it would never be there to keep.
const LARGEST_PAGE: u64 = 64 << 20;

/// `[server]`, with bounds on everything that others can use up.
pub(super) fn server(server: &schema::Server, findings: &mut Findings<'_>) -> Server {
    for (index, address) in server.listen.iter().enumerate() {
        if server.listen[..index].iter().any(|earlier| clash(earlier, address)) {
            findings.fault(address.place(), "is given twice");
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
        max_connections: findings.within(&server.max_connections, 1..=1_000_000) as usize,
        header_timeout: findings.positive(&server.header_timeout),
        idle_timeout: findings.positive(&server.idle_timeout),
        max_header_bytes: usize::try_from(head).unwrap_or(usize::MAX),
    }
}

/// Whether both can not be bound; port 0 is another port each time.
fn clash(one: &ListenAddress, other: &ListenAddress) -> bool {
    one == other && !matches!(one, ListenAddress::Tcp { port: 0, .. })
}

/// `[admin]`, guarded where others can reach it.
pub(super) fn admin(file: &File, findings: &mut Findings<'_>) -> Admin {
    let listen = &file.admin.listen;
    let token = file.admin.token.as_ref().and_then(|token| findings.secret(token));
    if token.is_none() && !listen.is_local() && !findings.touch("admin.token") {
        findings.fault(listen.place(), "others can reach this address: set admin.token, or listen on 127.0.0.1");
    }
    if let Some(taken) = file.server.listen.iter().find(|taken| clash(taken, listen)) {
        let place = if listen.is_written() { listen.place() } else { taken.place() };
        findings.fault(place, "is the same address for server.listen and admin.listen");
    }
    Admin { listen: (**listen).clone(), token }
}

/// `[cache]`, whose sizes and lifetimes fit each other.
pub(super) fn cache(cache: &schema::Cache, findings: &mut Findings<'_>) -> Cache {
    let page = cache.max_page_bytes.0;
    if !(1..=LARGEST_PAGE).contains(&page) {
        findings.fault(cache.max_page_bytes.place(), format!("must be from 1 byte to {}", size_text(LARGEST_PAGE)));
    } else if *cache.max_bytes < ByteSize(page) {
        let place = [&cache.max_bytes, &cache.max_page_bytes].into_iter().find(|size| size.is_written());
        let message = "cache.max_bytes must not be less than cache.max_page_bytes";
        findings.fault(place.unwrap_or(&cache.max_bytes).place(), message);
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

/// `[telemetry]`.
pub(super) fn telemetry(telemetry: &schema::Telemetry, findings: &mut Findings<'_>) -> Telemetry {
    if EnvFilter::builder().parse(telemetry.filter.as_str()).is_err() {
        findings.fault(telemetry.filter.place(), "must be a filter of tracing, as in \"info\" or \"warn,hyper=debug\"");
    }
    Telemetry {
        log: telemetry.log.as_deref().copied(),
        filter: (*telemetry.filter).clone(),
        access_log: *telemetry.access_log,
    }
}
