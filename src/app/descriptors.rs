//! How many files and sockets the process may have open, and how many connections fit into that. Whoever opens idle connections must
//! not take the descriptors that calls to Merge, operators and the configuration need.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// So many are kept for upstreams, operators and files.
const RESERVE: u64 = 256;

/// Lets the process have as many open as it may allow itself. The usual soft limit of 1,024 is for programs that use `select`.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where the system has a limit of its own below that, it stays as it was.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How many may be open.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// How many connections may be open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Of consumers.
    pub consumers: usize,
    /// Of consumers from one address.
    pub per_peer: u32,
    /// Of operators.
    pub operators: usize,
}

impl Connections {
    /// These, or as many as fit into `limit` open files: all but the reserve, or half if that is more.
    #[must_use]
    pub fn within(self, limit: u64) -> Self {
        let room = limit.saturating_sub(RESERVE).max(limit / 2).max(1);
        let fitting = usize::try_from(room).unwrap_or(usize::MAX);
        let consumers = self.consumers.min(fitting);
        // Nobody can take them all now who could not before.
        let share = u64::from(self.per_peer).saturating_mul(consumers as u64) / self.consumers.max(1) as u64;
        let share = share.max(consumers as u64 / 2).max(1);
        let per_peer = self.per_peer.min(u32::try_from(share).unwrap_or(u32::MAX));
        // Half of what is left, of which more than the reserve is there if consumers want less than fits.
        let left = limit.saturating_sub(consumers as u64);
        let operators = self.operators.min(usize::try_from(left / 2).unwrap_or(usize::MAX).max(1));
        Self { consumers, per_peer, operators }
    }
}

/// What an operator is told who wants more connections than fit into `limit`.
pub fn warning(max_connections: usize, limit: u64) -> Option<String> {
    let wanted = Connections { consumers: max_connections, per_peer: u32::MAX, operators: usize::MAX };
    let fitting = wanted.within(limit).consumers;
    (fitting < max_connections).then(|| {
        format!(
            "server.max_connections is {max_connections}, but with {limit} open files at most {fitting} connections are accepted at a \
             time: raise `ulimit -n` (LimitNOFILE of a systemd unit) or lower max_connections"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        let usual = Connections { consumers: 10_000, per_peer: 5_000, operators: 256 };
        let told = |limit| {
            let Connections { consumers, per_peer, operators } = usual.within(limit);
            (consumers, per_peer, operators)
        };
        assert_eq!(told(u64::MAX), (10_000, 5_000, 256));
        assert_eq!(told(20_000), (10_000, 5_000, 256));
        assert_eq!(told(1_024), (768, 384, 128));
        assert_eq!(told(128), (64, 32, 32));
        assert_eq!(told(0), (1, 1, 1));
        let few = Connections { per_peer: 10, ..usual }.within(128);
        assert_eq!(few.per_peer, 10, "what fits stays");
        let all = Connections { per_peer: 10_000, ..usual }.within(128);
        assert_eq!(all.per_peer, 64, "whoever could take all still can");
        for limit in 0..2_000 {
            let Connections { consumers, per_peer, operators } = usual.within(limit);
            assert!(
                consumers + operators <= usize::try_from(limit.max(2)).expect("few") && per_peer as usize <= consumers
            );
        }
    }

    #[test]
    fn who_wants_more_than_fits_is_told_both_numbers_and_the_cure() {
        assert_eq!(warning(10_000, 20_000), None);
        assert_eq!(warning(768, 1_024), None);
        let told = warning(10_000, 1_024).expect("a warning");
        assert!(["10000", "1024", "768", "ulimit -n", "LimitNOFILE"].iter().all(|part| told.contains(part)), "{told}");
    }
}
