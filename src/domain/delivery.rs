//! What Merge sends by itself when something has happened: a [`Delivery`] comes in, and what became of it goes back.

use http::HeaderMap;

use super::body::StreamBody;
use super::peer::Asker;

/// Where deliveries come in.
pub const WEBHOOK_PATH: &str = "/webhooks/merge";

/// A request for the webhook as it came: nobody knows yet whether Merge has sent it.
#[derive(Debug)]
pub struct Delivery {
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, as it comes.
    pub body: StreamBody,
    /// Who sent it, as far as the connection says.
    pub asker: Asker,
}

/// What became of a delivery that Merge has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The pages of its account are stale now.
    Stale,
    /// The same has come a moment ago.
    Duplicate,
    /// No account of the configuration has its id.
    UnknownAccount,
    /// It says nothing that a page could say.
    Ignored,
}

impl Delivered {
    /// What the answer and metrics call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Duplicate => "duplicate",
            Self::UnknownAccount => "unknown-account",
            Self::Ignored => "ignored",
        }
    }
}
