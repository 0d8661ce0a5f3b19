//! The gate that holds calls back until a test lets them go.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Open, unless somebody holds it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    holds: usize,
    /// In order of arrival, which is the order in which they go: a script then means the same in every run.
    waiting: VecDeque<oneshot::Sender<()>>,
}

impl Gate {
    /// Waits while the gate is held.
    pub(crate) async fn pass(&self) {
        let wait = {
            let mut state = self.state.lock();
            if state.holds == 0 {
                return;
            }
            let (go, wait) = oneshot::channel();
            state.waiting.push_back(go);
            wait
        };
        // A sender that is dropped lets its call go as well.
        let _ = wait.await;
    }

    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.state.lock().holds += 1;
        Held { gate: self.clone() }
    }
}

/// Calls wait as long as this lives.
#[derive(Debug)]
#[must_use = "dropping it lets the calls go"]
pub struct Held {
    gate: Arc<Gate>,
}

impl Held {
    /// Lets everything go, unless somebody else holds it too.
    pub fn release(self) {}

    /// Lets the call that has waited longest go and keeps the others; `false` if none waits.
    pub fn release_one(&self) -> bool {
        let mut state = self.gate.state.lock();
        // Those whose caller has left are passed over.
        while let Some(go) = state.waiting.pop_front() {
            if go.send(()).is_ok() {
                return true;
            }
        }
        false
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        state.holds -= 1;
        if state.holds == 0 {
            for go in state.waiting.drain(..) {
                // Its caller may have left.
                let _ = go.send(());
            }
        }
    }
}
