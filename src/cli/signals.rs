//! What tells a process to stop: Ctrl-C and SIGTERM. And what must not: a log that has grown to the largest size of a file.

use std::io;
use std::time::Duration;

use nix::sys::signal::{SIGXFSZ, SigSet};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};

/// For how long signals say the same. One wish may come as several: `timeout` sends its signal to the process and to its group, as does
/// a terminal together with whatever has started the process there.
const SAME_WISH: Duration = Duration::from_millis(100);

/// Makes it an error like any other to write more to a file than `ulimit -f` allows (`LimitFSIZE` of a systemd unit). Otherwise the
/// kernel ends the process for it, by a signal to the thread that writes. Counts for this thread and those that it starts.
pub(super) fn survive_full_files() {
    let mut full = SigSet::empty();
    full.add(SIGXFSZ);
    // It fails only for a way of changing the set that does not exist.
    let _ = full.thread_block();
}

/// Completes on the first signal.
pub(super) fn stop_signal() -> io::Result<impl Future> {
    let mut signals = Signals::new()?;
    Ok(async move { signals.next().await })
}

/// The signals that this process gets.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Completes on the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Completes on the next signal that is another wish than the one that has just come.
    pub(super) async fn next_wish(&mut self) {
        let until = Instant::now() + SAME_WISH;
        while timeout_at(until, self.next()).await.is_ok() {}
        self.next().await;
    }
}
