//! The forward proxy that an upstream is reached through, if the file names none: the environment's, by the variables that curl heeds.

use std::ffi::OsString;

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::proxy::matcher::Matcher;
use toml::Value;

use super::address::BaseUrl;
use super::item::Setting;
use super::secret::{Environment, NO_TEXT};
use crate::domain::rules::ForwardProxy;

/// The variables that name a proxy, the first that says something counts, for `https` and for `http`.
const HTTPS: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const HTTP: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Those that name the hosts that are reached without one.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy for `url` by `env`, and the variable that names it.
///
/// # Errors
/// If what the variable says is none: to call past it would be what nobody has asked for. The message quotes nothing, as there may be a
/// password in it.
pub(super) fn of_environment(
    url: &BaseUrl,
    env: Environment<'_>,
) -> Result<Option<(ForwardProxy, &'static str)>, String> {
    let first = |names: &[&'static str]| {
        names.iter().find_map(|&name| Some((name, env(name).filter(|value| !value.is_empty())?)))
    };
    let names = if url.scheme == Scheme::HTTPS { HTTPS } else { HTTP };
    let text =
        |name: &str, value: OsString| value.into_string().map_err(|_| format!("{name} in the environment {NO_TEXT}"));
    let Some((name, value)) = first(&names) else { return Ok(None) };
    let exceptions = first(&EXCEPTIONS).map(|(name, value)| text(name, value)).transpose()?;
    if exceptions.is_some_and(|exceptions| is_excepted(url, &exceptions)) {
        return Ok(None);
    }
    let value = text(name, value)?;
    // As for curl, a proxy without a scheme is one that is asked in HTTP.
    let whole = if value.contains("://") { value } else { format!("http://{value}") };
    let proxy = ForwardProxy::read(&Value::String(whole));
    proxy.map(|proxy| Some((proxy, name))).map_err(|message| format!("{name} in the environment {message}"))
}

/// Whether `url` is among the hosts, domains and networks that `exceptions` lists.
fn is_excepted(url: &BaseUrl, exceptions: &str) -> bool {
    let any = Matcher::builder().all("http://any").no(exceptions.to_owned()).build();
    let target = Uri::builder().scheme(url.scheme.clone()).authority(url.authority.clone()).path_and_query("/").build();
    target.is_ok_and(|target| any.intercept(&target).is_none())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const PROXY: &str = "http://proxy:3128/";

    /// The proxy for `url` among the `variables`, and where it is from.
    fn found(url: &str, variables: &[(&str, &str)]) -> Result<Option<(String, &'static str)>, String> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        found_among(url, &variables)
    }

    /// The same of variables that may be no text.
    fn found_among(url: &str, variables: &[(&str, &[u8])]) -> Result<Option<(String, &'static str)>, String> {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let env = |name: &str| value(name).map(|value| OsStr::from_bytes(value).to_owned());
        let found = of_environment(&BaseUrl::parse(url).expect("a URL"), &env)?;
        Ok(found.map(|(proxy, name)| (proxy.url.to_string(), name)))
    }

    #[test]
    fn the_variable_for_the_scheme_counts_first_and_an_empty_one_says_nothing() {
        let named = |name| Ok(Some((PROXY.to_owned(), name)));
        for (url, variables, expected) in [
            ("https://api.test", &[("HTTPS_PROXY", PROXY), ("ALL_PROXY", "http://other")][..], named("HTTPS_PROXY")),
            ("https://api.test", &[("https_proxy", PROXY)], named("https_proxy")),
            ("https://api.test", &[("HTTPS_PROXY", ""), ("ALL_PROXY", "proxy:3128")], named("ALL_PROXY")),
            ("https://api.test", &[("HTTP_PROXY", PROXY)], Ok(None)),
            ("http://api.test", &[("HTTPS_PROXY", PROXY)], Ok(None)),
            ("http://api.test", &[("HTTP_PROXY", PROXY)], named("HTTP_PROXY")),
            ("https://api.test", &[], Ok(None)),
        ] {
            assert_eq!(found(url, variables), expected, "{url} {variables:?}");
        }
    }

    #[test]
    fn exceptions_are_reached_without_even_if_the_proxy_is_none() {
        for (exceptions, is_excepted) in
            [("api.test", true), (".test", true), ("*", true), ("elsewhere.test,10.0.0.0/8", false), ("", false)]
        {
            for (value, expected) in [(PROXY, 1), ("foo bar", -1)] {
                let found = found("https://api.test", &[("HTTPS_PROXY", value), ("NO_PROXY", exceptions)]);
                let got = found.map_or(-1, |found| i32::from(found.is_some()));
                assert_eq!(got, if is_excepted { 0 } else { expected }, "{value} {exceptions}");
            }
        }
        let network = [("HTTPS_PROXY", PROXY), ("no_proxy", "10.0.0.0/8")];
        assert_eq!(found("https://10.1.2.3:8443", &network), Ok(None));
    }

    #[test]
    fn what_is_no_text_is_not_taken_for_unset() {
        let told = |variables: &[(&str, &[u8])]| found_among("https://api.test", variables);
        let refused = |name| Err(format!("{name} in the environment is not UTF-8 text"));
        let (any, proxy) = (&b"http://me:canary@\xff"[..], PROXY.as_bytes());
        assert_eq!(told(&[("HTTPS_PROXY", any), ("ALL_PROXY", proxy)]), refused("HTTPS_PROXY"));
        assert_eq!(told(&[("all_proxy", any)]), refused("all_proxy"));
        assert_eq!(told(&[("HTTPS_PROXY", proxy), ("NO_PROXY", any)]), refused("NO_PROXY"), "it may be for this host");
        assert_eq!(told(&[("HTTPS_PROXY", any), ("NO_PROXY", b"api.test")]), Ok(None));
        assert_eq!(told(&[("HTTP_PROXY", any), ("NO_PROXY", any)]), Ok(None), "nothing is asked of them");
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_never_quoted() {
        let form = "HTTPS_PROXY in the environment must be a URL that starts with http://";
        for value in [
            "foo bar",
            " ",
            "me:canary @proxy",
            "http://me:canary@",
            "socks5://me:canary@proxy:1080",
            "https://me:canary@proxy:3128",
            "http://me:canary@proxy:port",
            "http://me:canary@proxy/path",
            "http://me:canary%4@proxy",
        ] {
            // Another that could be used instead is not what was meant.
            let told = found("https://api.test", &[("HTTPS_PROXY", value), ("ALL_PROXY", PROXY)]).expect_err(value);
            assert!(told.starts_with("HTTPS_PROXY in the environment ") && !told.contains("canary"), "{told}");
            if !value.contains("@proxy") || value.starts_with("socks5") {
                assert_eq!(told, form, "{value}");
            }
        }
    }
}
