//! Mistakes in the file: all of them at once, each with its line, its column, its key and what is allowed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub origin: Arc<Path>,
    /// Line and column, from 1; `None` when the file as a whole is meant.
    pub position: Option<(usize, usize)>,
    /// The key, with the tables that it is in; empty when there is none.
    pub key: String,
    /// What stands there, unless it may be a secret.
    pub written: Option<String>,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Fault {
    /// A mistake that is not in one place of the file.
    pub fn of_file(origin: &Path, message: impl Into<String>) -> Self {
        Self { origin: origin.into(), position: None, key: String::new(), written: None, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, "  {}", self.key)?;
        }
        if let Some(written) = &self.written {
            write!(f, "  {written}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Something that is allowed and still not wise. It reads like a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Fault);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Every mistake in the file, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    pub(super) faults: Vec<Fault>,
    pub(super) files: Vec<PathBuf>,
}

impl Faults {
    /// The mistakes one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.faults.iter()
    }

    /// The other files that were looked at: to change one of them may mend what is wrong.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault], files: Vec::new() }
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    /// One line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
