//! The words of `[[routes]]`: paths, categories, methods, headers, cache rules.

use std::sync::Arc;

use http::{HeaderName, Method};
use toml::Value;

use super::item::{Setting, text};
use super::units::parse_duration;
use crate::domain::rules::{CATEGORY, CacheRule};

/// The path of a route, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate(pub Arc<str>);

impl PathTemplate {
    /// Whether `{category}` is in it.
    pub fn has_category(&self) -> bool {
        self.0.contains(CATEGORY)
    }

    /// Whether it matches everything below.
    pub fn has_rest(&self) -> bool {
        self.0.ends_with("/*")
    }

    /// Reads a path such as `/api/{category}/v1/sync-status` or `/api/ats/v1/*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else { return Err("must start with /".into()) };
        let mut categories = 0;
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                CATEGORY => categories += 1,
                "*" if segments.peek().is_some() => return Err("* may only stand at the end, as in /a/*".into()),
                "*" => {}
                "" if segments.peek().is_none() && !path.is_empty() => return Err("must not end with /".into()),
                "" | "." | ".." => return Err("must not hold empty, `.` or `..` segments".into()),
                _ if segment.contains('*') => return Err("* may only stand at the end, as in /a/*".into()),
                _ if segment.contains(['{', '}']) => {
                    return Err("{category} is the only placeholder, as a whole segment".into());
                }
                _ if !segment
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@".contains(&byte)) =>
                {
                    return Err("must be a plain path, without query, blanks or % escapes".into());
                }
                _ => {}
            }
        }
        if categories > 1 {
            return Err("{category} may stand in it once".into());
        }
        Ok(Self(text.into()))
    }
}

impl Setting for PathTemplate {
    fn read(value: &Value) -> Result<Self, String> {
        Self::parse(text(value, "a path in quotes, as in \"/api/{category}/v1/sync-status\"")?)
    }
}

/// What a `categories` entry of a route may be: one plain segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category(pub Arc<str>);

impl Setting for Category {
    fn read(value: &Value) -> Result<Self, String> {
        let name = text(value, "a category in quotes, as in \"ats\"")?;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        plain.then(|| Self(name.into())).ok_or_else(|| "must be letters, digits, dashes or underscores".into())
    }
}

impl Setting for Method {
    fn read(value: &Value) -> Result<Self, String> {
        // OPTIONS, TRACE and CONNECT speak to a proxy itself, so they are not for it to pass on.
        const KNOWN: [Method; 6] =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let name = text(value, "a method in quotes, as in \"GET\"")?;
        let known = KNOWN.into_iter().find(|method| method == name);
        known.ok_or_else(|| "must be GET, HEAD, POST, PUT, PATCH or DELETE, in capitals".into())
    }
}

impl Setting for CacheRule {
    fn read(value: &Value) -> Result<Self, String> {
        const ALLOWED: &str = "must be \"sync-status\", \"http\", \"off\" or a lifetime such as \"30s\"";
        match value.as_str().ok_or(ALLOWED)? {
            "sync-status" => Ok(Self::SyncStatus),
            "http" => Ok(Self::Http),
            "off" => Ok(Self::Off),
            text if text.starts_with(|c: char| c.is_ascii_digit()) => parse_duration(text).map(Self::Fixed),
            _ => Err(ALLOWED.into()),
        }
    }
}

/// An entry of `request_headers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEntry {
    /// `*`: all of them.
    Any,
    /// This one.
    One(HeaderName),
}

/// What the proxy sets itself, what belongs to one connection, and what would carry a caller's credentials upstream.
const OWN_HEADERS: [&str; 18] = [
    "host",
    "authorization",
    "proxy-authorization",
    "x-account-token",
    "cookie",
    "accept",
    "accept-encoding",
    "user-agent",
    "via",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "traceparent",
    "tracestate",
];

impl Setting for HeaderEntry {
    fn read(value: &Value) -> Result<Self, String> {
        let name = text(value, "the name of a header in quotes, or \"*\"")?;
        if name == "*" {
            return Ok(Self::Any);
        }
        let header: HeaderName = name.parse().map_err(|_| "must be the name of a header, or \"*\"")?;
        if OWN_HEADERS.contains(&header.as_str()) {
            return Err("this header is the proxy's own and is never passed on".into());
        }
        Ok(Self::One(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_they_match() {
        for path in ["/api/{category}/v1/sync-status", "/api/ats/v1/*", "/*", "/a.b/{category}/*"] {
            assert_eq!(PathTemplate::parse(path).map(|path| path.0.to_string()), Ok(path.into()));
        }
        for (path, message) in [
            ("api", "must start with /"),
            ("/", "must not hold empty, `.` or `..` segments"),
            ("/a//b", "must not hold empty, `.` or `..` segments"),
            ("/a/../b", "must not hold empty, `.` or `..` segments"),
            ("/a/", "must not end with /"),
            ("/*/a", "* may only stand at the end, as in /a/*"),
            ("/a*", "* may only stand at the end, as in /a/*"),
            ("/{category}/{category}", "{category} may stand in it once"),
            ("/{id}", "{category} is the only placeholder, as a whole segment"),
            ("/x{category}", "{category} is the only placeholder, as a whole segment"),
            ("/a?b", "must be a plain path, without query, blanks or % escapes"),
            ("/a%2Fb", "must be a plain path, without query, blanks or % escapes"),
        ] {
            assert_eq!(PathTemplate::parse(path), Err(message.into()), "{path}");
        }
    }

    #[test]
    fn a_wrong_word_is_told_what_is_allowed() {
        fn error<T: Setting>(text: &str) -> String {
            T::read(&text.into()).err().unwrap_or_else(|| format!("{text} was accepted"))
        }
        assert_eq!(error::<Method>("get"), "must be GET, HEAD, POST, PUT, PATCH or DELETE, in capitals");
        assert_eq!(error::<Method>("OPTIONS"), "must be GET, HEAD, POST, PUT, PATCH or DELETE, in capitals");
        assert_eq!(error::<CacheRule>("30x"), "unit must be ms, s, min or h");
        assert!(error::<CacheRule>("on").starts_with("must be \"sync-status\", \"http\""));
        assert_eq!(error::<HeaderEntry>("Authorization"), "this header is the proxy's own and is never passed on");
        assert_eq!(error::<HeaderEntry>("a b"), "must be the name of a header, or \"*\"");
        assert_eq!(error::<Category>("a/b"), "must be letters, digits, dashes or underscores");
    }

    #[test]
    fn a_rule_is_a_word_or_a_lifetime() {
        assert_eq!(CacheRule::read(&"off".into()), Ok(CacheRule::Off));
        assert_eq!(CacheRule::read(&"30s".into()), Ok(CacheRule::Fixed(std::time::Duration::from_secs(30))));
        assert_eq!(HeaderEntry::read(&"*".into()), Ok(HeaderEntry::Any));
        assert_eq!(Method::read(&"POST".into()), Ok(Method::POST));
    }
}
