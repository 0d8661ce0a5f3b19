//! Notices that the configuration has changed: SIGHUP, or another look of its files.
//!
//! The files are looked at once a second rather than watched by the kernel, which knows nothing of changes on network file systems
//! and loses track of files that are replaced. What links point at is looked at, so that a config map of Kubernetes, which swaps a
//! link, is seen like any other change.
//!
//! What keeps a file from being read need not show in its looks: too many open files, a server that is away for a moment. So after a
//! reload that was refused the files are read again from time to time, and that is told only if it comes to something else. Otherwise
//! a key that was rotated just then would never be taken up.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::App;
use super::reload::Cause;

/// How often the files are looked at. One that has changed is read at the next look that finds it unchanged: until then somebody
/// may still be writing it.
const LOOK: Duration = Duration::from_secs(1);

/// How long after a reload that was refused the files are read again although they look the same.
const AGAIN: Duration = Duration::from_secs(10);

/// What tells one content of a file from the next, without reading it. The time of change cannot be set back by whoever copies a
/// file with its times.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trace {
    path: PathBuf,
    /// `None` if it cannot be seen.
    looks: Option<Looks>,
}

/// Device, file and size; when its content was written, when anything about it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looks {
    file: [u64; 3],
    written: (i64, i64),
    changed: (i64, i64),
}

impl Trace {
    fn of(path: PathBuf) -> Self {
        let looks = fs::metadata(&path).ok().map(|data| Looks {
            file: [data.dev(), data.ino(), data.size()],
            written: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        });
        Self { path, looks }
    }
}

/// Reloads `app` whenever the file at `path`, or one that it refers to, has changed, and at each SIGHUP.
///
/// # Errors
/// If the process cannot have signals.
pub fn follow(app: App, path: PathBuf) -> io::Result<impl Future<Output = ()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Nobody knows what happened between the first reading and the first look.
        let mut watch = Watch { path, seen: Vec::new(), pending: true, again: None };
        loop {
            let cause = tokio::select! {
                Some(()) = hangups.recv() => Cause::Signal,
                _ = ticks.tick() => Cause::File,
            };
            let app = app.clone();
            // A file system may be slow, and whoever serves must not wait for it.
            let turn = tokio::task::spawn_blocking(move || {
                watch.turn(cause, &app);
                watch
            });
            match turn.await {
                Ok(back) => watch = back,
                Err(error) => {
                    tracing::error!(%error, "the configuration is not followed any more");
                    return;
                }
            }
        }
    })
}

/// What has been seen so far.
struct Watch {
    path: PathBuf,
    seen: Vec<Trace>,
    /// Whether a change has been seen and not yet read.
    pending: bool,
    /// When to read again what was refused.
    again: Option<Instant>,
}

impl Watch {
    /// Reads again what there is reason to.
    fn turn(&mut self, cause: Cause, app: &App) {
        let cause = match cause {
            Cause::File if self.is_due(app) => Cause::File,
            Cause::File if !self.pending && self.again.is_some_and(|again| Instant::now() >= again) => Cause::Again,
            Cause::File => return,
            asked => asked,
        };
        let refused = app.reload(cause).is_err();
        self.again = refused.then(|| Instant::now() + AGAIN);
    }

    /// Looks at all files; says whether a change has settled.
    fn is_due(&mut self, app: &App) -> bool {
        let look = look(&self.path, app);
        if look != self.seen {
            self.seen = look;
            self.pending = true;
            return false;
        }
        std::mem::take(&mut self.pending)
    }
}

/// The configuration file, the files that it refers to, and those that a faulty version of it refers to.
fn look(path: &Path, app: &App) -> Vec<Trace> {
    let config = app.config();
    let last = app.last_reload();
    let refused = last.as_ref().and_then(|last| last.result.as_ref().err()).map_or(&[][..], |faults| faults.files());
    let files = config.sources.files.iter().chain(refused).cloned();
    let mut files: Vec<PathBuf> = std::iter::once(path.to_owned()).chain(files).collect();
    files.sort_unstable();
    files.dedup();
    files.into_iter().map(Trace::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_another_when_it_is_written_replaced_linked_anew_or_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let link = |target: &str| {
            let _ = fs::remove_file(at("new-link"));
            std::os::unix::fs::symlink(target, at("new-link")).expect("linked");
            fs::rename(at("new-link"), at("link")).expect("swapped");
        };
        fs::write(at("one"), "a").expect("written");
        fs::write(at("two"), "b").expect("written");
        link("one");
        let seen = Trace::of(at("link"));
        assert_eq!(Trace::of(at("link")), seen);
        link("two");
        let swapped = Trace::of(at("link"));
        assert_ne!(swapped, seen);
        fs::rename(at("one"), at("two")).expect("replaced");
        let replaced = Trace::of(at("link"));
        assert_ne!(replaced, swapped);
        fs::write(at("two"), "longer").expect("written");
        let written = Trace::of(at("link"));
        assert_ne!(written, replaced);
        fs::remove_file(at("two")).expect("removed");
        assert_ne!(Trace::of(at("link")), written);
    }
}
