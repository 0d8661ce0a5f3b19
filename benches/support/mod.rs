//! What the benches share: the proxy and its Merge, servers in processes of their own, and cheap clients for real sockets.

#![allow(dead_code, reason = "no bench needs all of it")]

pub(crate) mod bare;
pub(crate) mod child;
pub(crate) mod drive;
pub(crate) mod foreign;
pub(crate) mod ground;
pub(crate) mod identity;
pub(crate) mod role;
pub(crate) mod rounds;
pub(crate) mod say;
pub(crate) mod socket;
pub(crate) mod upstream;
pub(crate) mod wire;

/// From one page to the next where none is asked for after its neighbour: a stride that shares no factor with their number visits all.
pub(crate) const STRIDE: usize = 7_919;
