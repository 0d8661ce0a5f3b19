//! Secrets: where they are named, how they are read, and a type that cannot print them.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use toml::Value;

use super::item::Setting;

/// A secret: it can be exposed on purpose and in no other way, and is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// A secret that holds `text`.
    pub fn new(text: &str) -> Self {
        // A copy of that very size: what is larger would be moved, and leave what it held behind.
        Self(SecretString::from(text.to_owned()))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where the file says that a secret is.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// `{ env = "NAME" }`.
    Env(String),
    /// `{ file = "path" }`; a relative path starts at the folder of the configuration file.
    File(PathBuf),
    /// The secret itself, in plain sight.
    Plain(Secret),
}

impl fmt::Display for SecretSource {
    /// Where it is, never what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Plain(_) => f.write_str("this file, in plain sight"),
        }
    }
}

impl Setting for SecretSource {
    fn read(value: &Value) -> Result<Self, String> {
        const ALLOWED: &str = "must be { env = \"NAME\" }, { file = \"path\" } or a string";
        if let Some(plain) = value.as_str() {
            if let Some(variable) = plain.strip_prefix('$') {
                let name = variable_name(variable).unwrap_or("NAME");
                return Err(format!("nothing is substituted in a string; write {{ env = \"{name}\" }}"));
            }
            return Ok(Self::Plain(Secret::new(plain)));
        }
        let table = value.as_table().filter(|table| table.len() == 1).ok_or(ALLOWED)?;
        match (table.get("env").and_then(Value::as_str), table.get("file").and_then(Value::as_str)) {
            (Some(name), _) if name.starts_with('$') => Err("env must name a variable, without the $".into()),
            // A name with `=` or NUL is none, and the system's answer to it would be a panic in some places.
            (Some(name), _) if name.is_empty() || name.contains(['=', '\0']) => Err("env must name a variable".into()),
            (_, Some("")) => Err("file must be a path".into()),
            (Some(name), _) => Ok(Self::Env(name.into())),
            (_, Some(path)) => Ok(Self::File(path.into())),
            _ => Err(ALLOWED.into()),
        }
    }
}

/// The name in `NAME` or `{NAME}`, if it is written as variables are: anything else might be a secret, which no message quotes.
fn variable_name(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{').map_or(Some(text), |text| text.strip_suffix('}'))?;
    let is_name = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    is_name.then_some(name)
}

/// Looks a variable up. It may hold what is no text: that is not the same as to be unset.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where variables and files come from.
pub struct Surroundings<'a> {
    /// The variables.
    pub env: Environment<'a>,
    /// The folder of the configuration file.
    pub folder: &'a Path,
}

/// What is said of bytes that are no text.
pub(super) const NO_TEXT: &str = "is not UTF-8 text";

/// More than any token, and little enough that a path to something endless does no harm.
const LARGEST_SECRET: usize = 64 * 1024;

impl Surroundings<'_> {
    /// Reads a secret; the error names the variable or file, never the value.
    pub fn read(&self, source: &SecretSource) -> Result<Secret, String> {
        let (text, whose) = match source {
            SecretSource::Plain(secret) => (Zeroizing::new(secret.expose().to_owned()), "the string".to_owned()),
            SecretSource::Env(name) => {
                let whose = format!("environment variable {name}");
                let value = (self.env)(name).ok_or_else(|| format!("{whose} is not set"))?;
                let text = value.into_string().map_err(|_| format!("{whose} {NO_TEXT}"))?;
                (Zeroizing::new(text), whose)
            }
            SecretSource::File(path) => {
                let path = self.folder.join(path);
                let whose = format!("file {}", path.display());
                (Self::file(&path).map_err(|error| format!("{whose} {error}"))?, whose)
            }
        };
        if text.is_empty() {
            return Err(format!("{whose} is empty"));
        }
        Ok(Secret::new(&text))
    }

    fn file(path: &Path) -> Result<Zeroizing<String>, String> {
        // As large as it can get, so that it is never moved; what is read beyond the end needs some room as well.
        let mut text = Zeroizing::new(String::with_capacity(LARGEST_SECRET + 64));
        let read = File::open(path).and_then(|file| file.take(LARGEST_SECRET as u64 + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Err(NO_TEXT.into()),
            Err(error) => return Err(format!("cannot be read: {error}")),
            Ok(length) if length > LARGEST_SECRET => return Err("is larger than 64KiB".into()),
            Ok(_) => {}
        }
        let line = text.strip_suffix('\n').map_or(text.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
        text.truncate(line);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn read(toml: &str) -> Result<SecretSource, String> {
        let table: toml::Table = format!("secret = {toml}").parse().expect("TOML");
        SecretSource::read(&table["secret"])
    }

    #[test]
    fn a_secret_is_a_variable_a_file_or_a_string() {
        assert_eq!(read("{ env = 'KEY' }").map(|s| s.to_string()), Ok("env KEY".into()));
        assert_eq!(read("{ file = 'k' }").map(|s| s.to_string()), Ok("file k".into()));
        assert_eq!(read("'sk-canary'").map(|s| s.to_string()), Ok("this file, in plain sight".into()));
        for bad in ["5", "{}", "{ env = 5 }", "{ env = 'A', file = 'b' }", "{ value = 'sk-canary' }", "['sk-canary']"] {
            let message = "must be { env = \"NAME\" }, { file = \"path\" } or a string";
            assert_eq!(read(bad).map(|s| s.to_string()), Err(message.into()), "{bad}");
        }
        assert!(read("{ env = '' }").is_err());
        assert_eq!(read("{ env = '$KEY' }").map(drop), Err("env must name a variable, without the $".into()));
        assert!(read("{ file = '' }").is_err());
    }

    #[test]
    fn a_variable_in_a_string_is_told_from_a_secret() {
        let told = |name: &str| Err(format!("nothing is substituted in a string; write {{ env = \"{name}\" }}"));
        for (written, name) in [
            ("$MERGE_API_KEY", "MERGE_API_KEY"),
            ("${KEY2}", "KEY2"),
            ("$canary", "NAME"),
            ("${KEY:-canary}", "NAME"),
            ("$(cat canary)", "NAME"),
            ("${KEY", "NAME"),
            ("$", "NAME"),
        ] {
            assert_eq!(read(&format!("'{written}'")).map(drop), told(name), "{written}");
        }
        assert!(read("'sk-$KEY'").is_ok());
    }

    #[test]
    fn one_trailing_newline_of_a_file_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let surroundings = Surroundings { env: &|_| None, folder: folder.path() };
        for (content, secret) in [("k", "k"), ("k\n", "k"), ("k\r\n", "k"), ("k\n\n", "k\n"), (" k ", " k ")] {
            std::fs::write(folder.path().join("key"), content).expect("written");
            let read = surroundings.read(&SecretSource::File("key".into())).expect("there");
            assert_eq!(read.expose(), secret);
        }
    }

    #[test]
    fn what_is_missing_is_named_and_never_quoted() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("blank"), "\n").expect("written");
        std::fs::write(folder.path().join("large"), vec![b'x'; 70_000]).expect("written");
        std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).expect("written");
        let env = |name: &str| match name {
            "BLANK" => Some(OsString::new()),
            "BINARY" => Some(OsString::from_vec(b"canary\xff".to_vec())),
            _ => None,
        };
        let surroundings = Surroundings { env: &env, folder: folder.path() };
        let message = |source: SecretSource| surroundings.read(&source).expect_err("nothing to read");
        assert_eq!(message(SecretSource::Env("NONE".into())), "environment variable NONE is not set");
        assert_eq!(message(SecretSource::Env("BLANK".into())), "environment variable BLANK is empty");
        assert_eq!(message(SecretSource::Env("BINARY".into())), "environment variable BINARY is not UTF-8 text");
        assert_eq!(message(SecretSource::Plain(Secret::new(""))), "the string is empty");
        for (file, ending) in [
            ("blank", "blank is empty"),
            ("large", "large is larger than 64KiB"),
            ("binary", "binary is not UTF-8 text"),
            ("none", "none cannot be read: No such file or directory (os error 2)"),
        ] {
            assert!(message(SecretSource::File(file.into())).ends_with(ending), "{file}");
        }
    }

    #[test]
    fn a_secret_has_no_text_form() {
        let plain = SecretSource::Plain(Secret::new("sk-canary"));
        assert!(!format!("{plain} {plain:?} {:?}", Secret::new("sk-canary")).contains("canary"));
    }
}
