//! The upstream's HTTP is sound, and what it says is no page.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Case, Fault, MAX_PAGE, Told, plain};
use crate::raw::http1::whole;
use crate::raw::{PAGE, Step, say};

const JSON: &str = "content-type: application/json\r\n";

fn answers(status: &str, fields: &str, body: &str, told: Told) -> Case {
    plain([say(whole(status, fields, body))], told)
}

/// A page whose body is encoded, or said to be.
fn encoded(coding: &str, body: &[u8]) -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\r\n{JSON}content-encoding: {coding}\r\ncontent-length: {}\r\n\r\n", body.len());
    vec![say([head.as_bytes(), body].concat())]
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

/// A few hundred kilobytes that become more than 64 MiB of valid JSON.
fn bomb() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let blanks = vec![b' '; 1 << 20];
    for _ in 0..65 {
        encoder.write_all(&blanks).expect("memory takes every byte");
    }
    encoder.write_all(PAGE.as_bytes()).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

pub(crate) fn faults() -> Vec<Fault> {
    let failed = |status: &str, fields: &str, body: &str| answers(status, fields, body, Told::Failed);
    let bodiless = |status: &str| plain([say(format!("HTTP/1.1 {status}\r\n\r\n"))], Told::Failed);
    let coded = |coding, body: &[u8], told| plain(encoded(coding, body), told);
    let html = "<!doctype html><title>Sign in to the Wi-Fi</title>";
    let zipped = gzip(PAGE.as_bytes());
    let mut broken = zipped.clone();
    broken[20] ^= 0xff;
    let mut forged = zipped.clone();
    let checksum = forged.len() - 8;
    forged[checksum] ^= 0xff;
    vec![
        failed("200 OK", "content-type: text/html\r\n", html).named("HTML instead of JSON"),
        failed("200 OK", JSON, html).named("HTML that is said to be JSON"),
        failed("200 OK", JSON, "").named("200 and no body"),
        failed("200 OK", JSON, &PAGE[..20]).named("JSON that breaks off"),
        failed("200 OK", JSON, &format!("{PAGE}{PAGE}")).named("two pages in one"),
        failed("201 Created", JSON, PAGE).named("201"),
        failed("206 Partial Content", "content-range: bytes 0-42/99\r\n", PAGE).named("206 that nobody asked for"),
        failed("301 Moved Permanently", "location: https://elsewhere.example/\r\n", "").named("301"),
        failed("302 Found", "location: /api/ats/v1/sync-status\r\n", "").named("302 to itself"),
        failed("307 Temporary Redirect", "location: //elsewhere.example/\r\n", "").named("307"),
        failed("300 Multiple Choices", JSON, "{}").named("300"),
        bodiless("204 No Content").named("204"),
        bodiless("304 Not Modified").named("304 that nobody asked for"),
        answers("500 Internal Server Error", JSON, "{}", Told::Status(500)).named("500"),
        answers("400 Bad Request", JSON, "{}", Told::Status(400)).named("400"),
        answers("408 Request Timeout", JSON, "{}", Told::Status(408)).named("408"),
        answers("421 Misdirected Request", JSON, "{}", Told::Status(421)).named("421"),
        answers("502 Bad Gateway", "content-type: text/html\r\n", html, Told::Status(502))
            .always(3)
            .named("502 in HTML"),
        plain([say("HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\nhalf"), Step::Close], Told::Failed)
            .named("500 whose body breaks off"),
        coded("gzip", &zipped, Told::Page).named("gzip"),
        coded("gzip", PAGE.as_bytes(), Told::Failed).named("gzip that is none"),
        coded("gzip", &zipped[..zipped.len() / 2], Told::Failed).named("gzip that is cut"),
        coded("gzip", &broken, Told::Failed).named("gzip that is broken"),
        coded("gzip", &forged, Told::Failed).named("gzip with a wrong checksum"),
        coded("gzip", &bomb(), Told::Failed).named("gzip that grows without end"),
        coded("zstd", b"\x28\xb5\x2f\xfd", Told::Failed).named("a coding that was not offered"),
        answers("200 OK", JSON, &format!("{}{PAGE}", " ".repeat(MAX_PAGE)), Told::Large)
            .named("a page that is too large to be kept"),
        plain([say("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{"), Step::Hold], Told::Failed)
            .named("a body that is announced as larger than all memory"),
    ]
}
