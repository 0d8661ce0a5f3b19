//! The proxy's own certificates, followed as their files change.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::tls::Watch;
use crate::listen::tls::Tls;

/// How often the files of certificates are looked at: they are small, and a renewal is seen in two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Loads `watch`'s certificates for `tls` whenever they change; the last good ones stay until there are others.
pub(super) async fn renew(tls: &Tls, mut watch: Watch) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looked = spawn_blocking(move || {
            let found = watch.look();
            (watch, found)
        });
        // Only a panic or the end of the runtime makes this fail; either way there is nothing left to look after.
        let Ok((again, found)) = looked.await else { return };
        watch = again;
        match found {
            None => {}
            Some(Ok(loaded)) => {
                if let Some(warning) = loaded.warning {
                    tracing::warn!(warning, "the renewed certificate is in use, and yet");
                }
                tls.replace(loaded.server);
                tracing::info!(target: "audit", "certificates renewed");
            }
            Some(Err(faults)) => {
                for fault in faults {
                    tracing::warn!(%fault, "the certificates have changed and cannot be used; the last good ones stay");
                }
            }
        }
    }
}
