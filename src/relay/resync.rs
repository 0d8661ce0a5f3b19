//! After a resync that went through, whatever is known of the account is out of date.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::layer::layer_fn;
use tower::{Layer, Service, ServiceExt};

use crate::domain::exchange::Target;
use crate::domain::problem::Problem;
use crate::domain::relay::{Relay, Relayed};

/// The layer: calls `forget` with the target of every resync that the upstream has not refused.
pub fn layer<S, F: Fn(&Target) + Clone>(forget: F) -> impl Layer<S, Service = Resync<S, F>> + Clone {
    layer_fn(move |inner| Resync { inner, forget: forget.clone() })
}

/// See [`layer`].
#[derive(Clone)]
pub struct Resync<S, F> {
    inner: S,
    forget: F,
}

impl<S, F> Service<Relay> for Resync<S, F>
where
    S: Service<Relay, Response = Relayed, Error = Problem, Future: Send> + Clone + Send + 'static,
    F: Fn(&Target) + Clone + Send + 'static,
{
    type Response = Relayed;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Relayed, Problem>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, relay: Relay) -> Self::Future {
        let Self { inner, forget } = self.clone();
        Box::pin(async move {
            let granted = relay.resync.clone().map(|asker| (asker, relay.call.target.clone(), relay.caller.clone()));
            let relayed = inner.oneshot(relay).await?;
            if let Some((asker, target, caller)) = granted {
                let (account, status) = (target.account.audit_label(), relayed.status.as_u16());
                let (consumer, upstream) = (&*caller.consumer.name, &*target.upstream.name);
                let (peer, id) = (asker.peer(), asker.id());
                tracing::info!(target: "audit", consumer, account, upstream, status, peer, id, "resync");
                if relayed.status.is_success() || relayed.status.is_redirection() {
                    forget(&target);
                }
            }
            Ok(relayed)
        })
    }
}
