//! What commands write, to readers who may leave: whoever reads a part, as `head` does, has what they wanted.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes `text` to standard output.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes `text` to standard error. If that fails, nobody is left to be told.
pub(super) fn complain(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Whether the reader has left.
pub(super) fn is_enough(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}
