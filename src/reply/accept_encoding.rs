//! Which content coding a client gets (RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::domain::encoding::Coding;

/// The best of the codings that the client accepts: the one of highest weight, and of several the smallest.
///
/// A client that does not ask gets identity, and so does one that accepts nothing that there is.
pub fn choose(headers: &HeaderMap) -> Coding {
    let [mut gzip, mut brotli, mut any, mut identity] = [None; 4];
    for line in headers.get_all(ACCEPT_ENCODING) {
        for item in line.as_bytes().split(|byte| *byte == b',') {
            let mut parts = item.split(|byte| *byte == b';');
            let name = parts.next().unwrap_or_default().trim_ascii();
            let weight = Some(parts.next().map_or(1000, weight));
            if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
                gzip = weight;
            } else if name.eq_ignore_ascii_case(b"br") {
                brotli = weight;
            } else if name.eq_ignore_ascii_case(b"identity") {
                identity = weight;
            } else if name == b"*" {
                any = weight;
            }
        }
    }
    let weights = [(Coding::Brotli, brotli.or(any)), (Coding::Gzip, gzip.or(any))];
    // Identity is always acceptable unless it is excluded; unnamed, it is what is left when nothing else is wanted.
    let (mut best, mut highest) = (Coding::Identity, identity.unwrap_or(0));
    for (coding, weight) in weights {
        let weight = weight.unwrap_or(0);
        let is_better = if best == Coding::Identity { weight >= highest } else { weight > highest };
        if weight > 0 && is_better {
            (best, highest) = (coding, weight);
        }
    }
    best
}

/// `q=0.5` in thousandths; what cannot be read excludes, since the client has not clearly asked for it.
fn weight(parameter: &[u8]) -> u16 {
    let parameter = parameter.trim_ascii();
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="));
    match value {
        Some([b'1']) => 1000,
        Some([b'1', b'.', zeros @ ..]) if zeros.len() <= 3 && zeros.iter().all(|digit| *digit == b'0') => 1000,
        Some([b'0', b'.', digits @ ..]) if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            let read = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
            read * [1000, 100, 10, 1][digits.len()]
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn chosen(lines: &[&str]) -> Coding {
        let line = |text: &&str| (ACCEPT_ENCODING, HeaderValue::from_str(text).expect("a header value"));
        choose(&lines.iter().map(line).collect())
    }

    #[test]
    fn clients_get_what_they_ask_for() {
        for (lines, coding) in [
            (&[][..], Coding::Identity),
            (&[""], Coding::Identity),
            (&["gzip"], Coding::Gzip),
            (&["gzip, deflate"], Coding::Gzip),
            (&["gzip, deflate, br, zstd"], Coding::Brotli),
            (&["gzip", "br"], Coding::Brotli),
            (&["GZIP"], Coding::Gzip),
            (&["br;q=0.5, gzip;q=0.8"], Coding::Gzip),
            (&["br ; q=0.5 , gzip ; q=0.05"], Coding::Brotli),
            (&["*"], Coding::Brotli),
            (&["*, br;q=0"], Coding::Gzip),
            (&["*;q=0"], Coding::Identity),
            (&["identity"], Coding::Identity),
            (&["identity;q=1, gzip;q=0.5"], Coding::Identity),
            (&["identity;q=0.5, gzip;q=0.5"], Coding::Gzip),
            (&["identity;q=0"], Coding::Identity),
            (&["gzip;q=0"], Coding::Identity),
            (&["gzip;q=1.001"], Coding::Identity),
            (&["gzip;q=x"], Coding::Identity),
            (&["zstd"], Coding::Identity),
            (&["x-gzip"], Coding::Gzip),
        ] {
            assert_eq!(chosen(lines), coding, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_chosen_that_was_excluded(gzip in 0_u16..=1000, brotli in 0_u16..=1000) {
            let line = format!("gzip;q={}, br;q={}", f32::from(gzip) / 1000.0, f32::from(brotli) / 1000.0);
            let expected = match (gzip, brotli) {
                (0, 0) => Coding::Identity,
                (gzip, brotli) if gzip > brotli => Coding::Gzip,
                _ => Coding::Brotli,
            };
            prop_assert_eq!(chosen(&[&line]), expected);
        }

        #[test]
        fn any_line_is_read(line in "[a-z*;=,.0-9 ]{0,40}") {
            chosen(&[&line]);
        }
    }
}
