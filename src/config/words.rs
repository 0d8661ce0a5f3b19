//! The words of the file that are neither numbers nor addresses: names, patterns, choices, key hashes.

use std::path::PathBuf;
use std::time::SystemTime;

use toml::Value;

use super::item::{Setting, text};
use super::whole::unquoted;
use crate::domain::access::{KeyHash, Name, Pattern};
use crate::domain::rules::Http2;

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        match text(value, "a text in quotes")? {
            "" => Err("must not be empty".into()),
            text => Ok(text.into()),
        }
    }
}

/// A share of a whole, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl Setting for Share {
    fn read(value: &Value) -> Result<Self, String> {
        let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
        let share = number.filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| unquoted(value, "must be a number from 0 to 1, as in 0.01"))
    }
}

impl Setting for PathBuf {
    fn read(value: &Value) -> Result<Self, String> {
        String::read(value).map(Self::from)
    }
}

/// Whether `text` can name an account, a consumer or an upstream, which makes it safe in a header, a log and a label.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// What logs and metrics call an account or a consumer that has no name.
const NAMELESS: [&str; 2] = ["raw", "-"];

/// Checks a name of an account, a consumer or an upstream.
pub fn parse_name(text: &str) -> Result<Name, String> {
    if NAMELESS.contains(&text) {
        return Err("stands for what has no name, in logs and metrics; give it another".into());
    }
    is_name(text)
        .then(|| text.into())
        .ok_or_else(|| "must be 1 to 64 letters, digits, dots, dashes or underscores".into())
}

impl Setting for Name {
    fn read(value: &Value) -> Result<Self, String> {
        parse_name(text(value, "a name in quotes")?)
    }
}

/// A name that a certificate can have: its subject's common name or one of its DNS names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(pub Box<str>);

impl Setting for CertificateName {
    fn read(value: &Value) -> Result<Self, String> {
        let name = text(value, "the name in a certificate, in quotes")?;
        let fits = (1..=255).contains(&name.len()) && !name.contains('*') && !name.chars().any(char::is_control);
        fits.then(|| Self(name.into()))
            .ok_or_else(|| "must be the whole common name or DNS name in a certificate, without a *".into())
    }
}

/// The permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Setting for FileMode {
    fn read(value: &Value) -> Result<Self, String> {
        const ALLOWED: &str = "must be octal permissions in quotes, as in \"0660\"; the owner needs to read and write";
        let digits = text(value, ALLOWED.trim_start_matches("must be "))?;
        let is_octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode =
            u32::from_str_radix(digits, 8).ok().filter(|mode| is_octal && *mode <= 0o777 && mode & 0o600 == 0o600);
        mode.map(Self).ok_or_else(|| ALLOWED.into())
    }
}

impl Setting for Pattern {
    fn read(value: &Value) -> Result<Self, String> {
        let pattern = text(value, "a name or a glob in quotes, as in \"acme-*\"")?;
        let is_pattern = is_name(&pattern.replace('*', "x"));
        is_pattern
            .then(|| Self::new(pattern))
            .ok_or_else(|| "must be a name, in which * stands for any characters".into())
    }
}

impl Setting for Http2 {
    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("auto") => Ok(Self::Auto),
            Some("off") => Ok(Self::Off),
            _ => Err("must be \"auto\" or \"off\"".into()),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Pretty,
}

impl Setting for LogFormat {
    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("json") => Ok(Self::Json),
            Some("pretty") => Ok(Self::Pretty),
            _ => Err("must be \"json\" or \"pretty\"".into()),
        }
    }
}

impl Setting for KeyHash {
    /// Reads 64 hex digits, or `{ sha256, expires, disabled }`.
    fn read(value: &Value) -> Result<Self, String> {
        const ALLOWED: &str = "must be the hash of a key, or { sha256 = \"…\" } with expires = \"2030-01-31T00:00:00Z\" \
                               or disabled = true";
        let Some(table) = value.as_table() else {
            return Ok(Self {
                sha256: parse_sha256(text(value, ALLOWED.trim_start_matches("must be "))?)?,
                expires: None,
                disabled: false,
            });
        };
        if table.keys().any(|key| !["sha256", "expires", "disabled"].contains(&&**key)) {
            return Err(ALLOWED.into());
        }
        let sha256 = parse_sha256(table.get("sha256").and_then(Value::as_str).ok_or(ALLOWED)?)?;
        let expires = table.get("expires").map(parse_expiry).transpose()?;
        let disabled = match table.get("disabled").map(|value| value.as_bool().ok_or(())) {
            None => false,
            Some(disabled) => disabled.map_err(|()| "disabled must be true or false, without quotes")?,
        };
        Ok(Self { sha256, expires, disabled })
    }
}

fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    const ALLOWED: &str = "must be a SHA-256 in 64 lower-case hex digits, as `merge-sync-proxy key new NAME` prints";
    let bytes = hex::decode(text).ok().filter(|_| !text.contains(|c: char| c.is_ascii_uppercase()));
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| ALLOWED.into())
}

fn parse_expiry(value: &Value) -> Result<SystemTime, String> {
    const ALLOWED: &str = "expires must be a time with a zone, as in \"2030-01-31T00:00:00Z\"";
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Datetime(time) => time.to_string(),
        _ => return Err(ALLOWED.into()),
    };
    text.parse::<jiff::Timestamp>().and_then(SystemTime::try_from).map_err(|_| ALLOWED.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: Setting>(value: &str) -> String {
        let table: toml::Table = format!("value = {value}").parse().expect("TOML");
        T::read(&table["value"]).err().unwrap_or_else(|| format!("{value} was accepted"))
    }

    #[test]
    fn a_key_hash_is_lower_case_hex_and_may_expire() {
        let hex = "0f".repeat(32);
        for good in [
            format!("'{hex}'"),
            format!("{{ sha256 = '{hex}' }}"),
            format!("{{ sha256 = '{hex}', disabled = false }}"),
            format!("{{ sha256 = '{hex}', disabled = true }}"),
            format!("{{ sha256 = '{hex}', expires = '2030-01-31T00:00:00+01:00' }}"),
            format!("{{ sha256 = '{hex}', expires = 2030-01-31T00:00:00Z }}"),
        ] {
            let table: toml::Table = format!("value = {good}").parse().expect("TOML");
            let key = KeyHash::read(&table["value"]).expect(&good);
            assert_eq!((key.sha256, key.expires.is_some()), ([0x0f; 32], good.contains("expires")));
            assert_eq!(key.disabled, good.contains("= true"));
        }
        let not_hex = "must be a SHA-256 in 64 lower-case hex digits, as `merge-sync-proxy key new NAME` prints";
        assert_eq!(error::<KeyHash>(&format!("'{}'", hex.to_uppercase())), not_hex);
        assert_eq!(error::<KeyHash>("'abc'"), not_hex);
        let no_time = "expires must be a time with a zone, as in \"2030-01-31T00:00:00Z\"";
        assert_eq!(error::<KeyHash>(&format!("{{ sha256 = '{hex}', expires = 2030-01-31 }}")), no_time);
        assert!(
            error::<KeyHash>(&format!("{{ sha256 = '{hex}', until = '' }}"))
                .starts_with("must be the hash of a key, or {")
        );
        let no_choice = "disabled must be true or false, without quotes";
        assert_eq!(error::<KeyHash>(&format!("{{ sha256 = '{hex}', disabled = 'yes' }}")), no_choice);
        assert!(error::<KeyHash>("5").starts_with("must be the hash of a key, or {"));
    }

    #[test]
    fn a_wrong_word_is_told_what_is_allowed() {
        let name = "must be 1 to 64 letters, digits, dots, dashes or underscores";
        assert_eq!(error::<Name>("'a b'"), name);
        assert_eq!(error::<Name>("''"), name);
        for taken in ["'raw'", "'-'"] {
            assert!(error::<Name>(taken).starts_with("stands for what has no name"), "{taken}");
        }
        assert_eq!(error::<Name>(&format!("'{}'", "x".repeat(65))), name);
        assert_eq!(error::<Pattern>("'a?'"), "must be a name, in which * stands for any characters");
        assert_eq!(error::<Http2>("true"), "must be \"auto\" or \"off\"");
        assert_eq!(error::<LogFormat>("'text'"), "must be \"json\" or \"pretty\"");
        assert_eq!(error::<String>("''"), "must not be empty");
        assert_eq!(error::<Share>("'0.5'"), "leave the quotes out: must be a number from 0 to 1, as in 0.01");
    }
}
