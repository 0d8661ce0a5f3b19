//! What a connection hears beside its requests, and what becomes of it then.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;

use super::aside::Aside;
use super::pulse::{Lost, Patience, Pulse};

/// How long an idle peer has to take its leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// What has been quiet for this long is idle: it is closed at once when all are to leave, and gives back what only requests need. One
/// that is never quiet is looked at no more often than once in that time.
const QUIET: Duration = Duration::from_secs(1);

/// What connections are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serve,
    /// The next answer on each is its last; where that can be said without an answer, it is said now.
    Leave,
    /// Idle ones end, busy ones finish.
    Drain,
    /// All end now.
    Cut,
}

/// What carries the requests of a connection, until it completes.
pub(super) trait Carrier {
    /// Finishes what has been asked, and ends.
    fn leave(self: Pin<&mut Self>);
}

impl<C: GracefulConnection> Carrier for C {
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What became of a connection.
#[derive(Debug)]
pub(super) enum Attended<T> {
    /// Its carrier has completed.
    Carried(T),
    /// Nothing is going on: all has been answered and sent.
    Still,
    /// It has come to its end.
    Lost,
}

/// What a connection hears beside its requests.
enum Word {
    /// There is no patience left with it.
    Lost(Lost),
    /// What all connections are to do from now on.
    Phase(Phase),
    /// Nothing is going on.
    Still,
}

/// What it takes to attend to a connection.
#[derive(Clone, Debug)]
pub(super) struct Attendant {
    pub(super) pulse: Arc<Pulse>,
    pub(super) patience: Patience,
    pub(super) phase: watch::Receiver<Phase>,
}

impl Attendant {
    /// Lets a connection talk until it ends, or where it `may_rest` until it is still, and tells it what it hears meanwhile.
    pub(super) async fn attend<C, T, E>(&mut self, mut connection: Pin<&mut C>, mut may_rest: bool) -> Attended<T>
    where
        C: Carrier + Future<Output = Result<T, E>>,
        E: Display,
    {
        let mut leaving = false;
        loop {
            let mut aside = Aside::new(self.clone().hear(may_rest));
            let word = match select(connection.as_mut(), &mut aside).await {
                Either::Left((Ok(carried), _)) => return Attended::Carried(carried),
                Either::Left((Err(error), _)) => {
                    tracing::debug!(%error, "a connection ended early");
                    return Attended::Lost;
                }
                Either::Right(((word, phase), _)) => {
                    self.phase = phase;
                    word
                }
            };
            may_rest &= matches!(word, Word::Phase(Phase::Serve));
            match word {
                Word::Still => return Attended::Still,
                Word::Lost(why) if why == Lost::Overdue || leaving => return Attended::Lost,
                Word::Lost(_) => {
                    // With HTTP/2 the peer is told, so that it sends nothing that would be lost; it is waited for a little.
                    leaving = true;
                    self.pulse.rest();
                    connection.as_mut().leave();
                    self.patience.idle = FAREWELL;
                }
                Word::Phase(Phase::Leave) => {
                    self.pulse.leave();
                    // HTTP/2 can say goodbye without an answer, and still answers what is on its way.
                    if self.pulse.is_framed() || self.pulse.is_quiet(QUIET) {
                        connection.as_mut().leave();
                    }
                }
                // One that has chosen HTTP/2 in its handshake and says nothing more would be waited for.
                Word::Phase(Phase::Drain) if self.pulse.is_silent() => return Attended::Lost,
                Word::Phase(Phase::Drain) => connection.as_mut().leave(),
                Word::Phase(Phase::Serve) => {}
                Word::Phase(Phase::Cut) => return Attended::Lost,
            }
        }
    }

    /// The next word.
    async fn hear(self, may_rest: bool) -> (Word, watch::Receiver<Phase>) {
        let Self { pulse, patience, mut phase } = self;
        let word = tokio::select! {
            why = pulse.lost(patience) => Word::Lost(why),
            // Nobody is left who could say what to do.
            changed = phase.changed() => Word::Phase(changed.map_or(Phase::Cut, |()| *phase.borrow_and_update())),
            () = pulse.quiet(QUIET), if may_rest => Word::Still,
        };
        (word, phase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Version;
    use std::task::{Context, Poll};
    use tokio::time::{Instant, timeout};

    /// Goes on until it is to leave.
    #[derive(Default)]
    struct Talking {
        has_left: bool,
    }

    impl Future for Talking {
        type Output = Result<(), std::io::Error>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            if self.has_left { Poll::Ready(Ok(())) } else { Poll::Pending }
        }
    }

    impl Carrier for Talking {
        fn leave(mut self: Pin<&mut Self>) {
            self.has_left = true;
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    fn attendant() -> (Attendant, watch::Sender<Phase>) {
        let (sender, phase) = watch::channel(Phase::Serve);
        let patience = Patience { header: HOUR, body: HOUR, idle: HOUR };
        (Attendant { pulse: Pulse::new(HOUR), patience, phase }, sender)
    }

    async fn attend(attendant: &mut Attendant, may_rest: bool) -> (Attended<()>, Duration) {
        let (mut talking, began) = (Talking::default(), Instant::now());
        (attendant.attend(Pin::new(&mut talking), may_rest).await, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_been_answered_and_asks_no_more_is_still() {
        let (mut attendant, _sender) = attendant();
        let mut busy = attendant.pulse.busy(Version::HTTP_11, Instant::now());
        busy.takes_time();
        let pulse = attendant.pulse.clone();
        let half = HOUR / 2;
        assert!(timeout(half, attend(&mut attendant, true)).await.is_err(), "it is being answered");
        drop(busy);
        let _ = pulse.wrote(Poll::<()>::Pending);
        assert!(timeout(half, attend(&mut attendant, true)).await.is_err(), "not all has been sent");
        let _ = pulse.wrote(Poll::Ready(()));
        assert!(timeout(half, attend(&mut attendant, false)).await.is_err(), "it may not");
        pulse.rest();
        let (attended, after) = attend(&mut attendant, true).await;
        assert!(matches!(attended, Attended::Still), "{attended:?}");
        assert!(after.as_millis().abs_diff(QUIET.as_millis()) < 10, "{after:?}");
        pulse.bytes_came();
        assert!(timeout(half, attend(&mut attendant, true)).await.is_err(), "a request has begun");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_to_leave_does_not_rest() {
        for (phase, expected) in [(Phase::Leave, None), (Phase::Drain, Some(true)), (Phase::Cut, Some(false))] {
            let (mut attendant, sender) = attendant();
            drop(attendant.pulse.busy(Version::HTTP_11, Instant::now()));
            sender.send_replace(phase);
            let attended = timeout(HOUR / 2, attend(&mut attendant, true)).await.ok();
            let ended = attended.map(|(attended, _)| matches!(attended, Attended::Carried(())));
            assert_eq!(ended, expected, "{phase:?}");
        }
    }
}
