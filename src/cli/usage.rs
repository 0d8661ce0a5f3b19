//! Arguments, and what they were probably meant to be.

use clap::Parser;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Arguments;

/// The commands that read a configuration; without any, the proxy starts.
const READERS: [&str; 2] = ["check", "serve"];

/// The arguments of this process; ends it if they are wrong.
pub(super) fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| advised(error).exit())
}

/// With the option that a file stands behind, if the file alone was given.
fn advised(mut error: clap::Error) -> clap::Error {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        // The latter beside an option, which no command may follow.
        ErrorKind::InvalidSubcommand | ErrorKind::ArgumentConflict => ContextKind::InvalidSubcommand,
        _ => return error,
    };
    let Some(ContextValue::String(given)) = error.get(kind) else { return error };
    // What stands first is the command, unless the start, which needs none, is meant.
    let first = std::env::args().nth(1).unwrap_or_default();
    let reads = READERS.contains(&&*first) || first == *given || first.starts_with('-');
    if reads && !given.starts_with('-') && given.contains(['.', '/']) {
        let tip = StyledStr::from(format!("a file is given as --config {given}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}
