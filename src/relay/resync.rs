//! The line that a resync leaves in the log.

use crate::domain::caller::Caller;
use crate::domain::exchange::Target;
use crate::domain::peer::Asker;
use crate::domain::problem::Problem;
use crate::domain::relay::Relayed;

/// Leaves the audit line of a resync that was sent; without a status if no answer came.
pub fn tell(asker: &Asker, caller: &Caller, target: &Target, passed: &Result<Relayed, Problem>) {
    let status = passed.as_ref().ok().map(|relayed| relayed.status.as_u16());
    let (consumer, upstream) = (&*caller.consumer.name, &*target.upstream.name);
    let (account, peer, id) = (target.account.audit_label(), asker.peer(), asker.id());
    tracing::info!(target: "audit", consumer, account, upstream, status, peer, id, "resync");
}
