//! The encoded twins of a page's body, made once for all who can read them.

use std::io::Write;

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// A content coding (RFC 9110 §8.4.1) that pages are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// None.
    Identity,
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
}

impl Coding {
    /// Its name in `Content-Encoding`; `None` for identity, which has none.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
        }
    }
}

/// A body in the codings that make it smaller.
#[derive(Debug, Default)]
pub struct Encodings {
    gzip: Option<Bytes>,
    brotli: Option<Bytes>,
}

/// Below this size, in bytes, a coding saves less than its header fields take.
const SMALLEST: usize = 256;

/// The middle of both scales: a page is read many times, but a few seconds only.
const GZIP_LEVEL: u32 = 6;
const BROTLI_QUALITY: u32 = 5;

/// As large as a usual page; a larger one is taken in pieces.
const BUFFER: usize = 4096;

/// The base-2 logarithm of how far back Brotli may point, in bytes: 4 MiB.
const BROTLI_WINDOW: u32 = 22;

impl Encodings {
    /// Encodes `body`. This takes milliseconds for a large one, so it has no place on a thread that serves.
    pub fn of(body: &[u8]) -> Self {
        if body.len() < SMALLEST {
            return Self::default();
        }
        let smaller = |twin: Vec<u8>| (twin.len() < body.len()).then(|| Bytes::copy_from_slice(&twin));
        Self { gzip: smaller(gzip(body)), brotli: smaller(brotli(body)) }
    }

    /// The body in `coding`, if it is kept.
    pub fn get(&self, coding: Coding) -> Option<&Bytes> {
        match coding {
            Coding::Identity => None,
            Coding::Gzip => self.gzip.as_ref(),
            Coding::Brotli => self.brotli.as_ref(),
        }
    }

    /// The bytes that it holds elsewhere in memory.
    pub fn size(&self) -> usize {
        self.gzip.iter().chain(&self.brotli).map(Bytes::len).sum()
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("writing to memory cannot fail")
}

fn brotli(body: &[u8]) -> Vec<u8> {
    let mut encoder = CompressorWriter::new(Vec::new(), BUFFER, BROTLI_QUALITY, BROTLI_WINDOW);
    encoder.write_all(body).expect("writing to memory cannot fail");
    encoder.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    fn decoded(encodings: &Encodings, coding: Coding) -> Option<Vec<u8>> {
        let twin = encodings.get(coding)?;
        let mut body = Vec::new();
        match coding {
            Coding::Identity => return None,
            Coding::Gzip => flate2::read::GzDecoder::new(&twin[..]).read_to_end(&mut body).expect("gzip"),
            Coding::Brotli => brotli::Decompressor::new(&twin[..], BUFFER).read_to_end(&mut body).expect("brotli"),
        };
        Some(body)
    }

    #[test]
    fn what_would_not_get_smaller_is_not_kept() {
        assert_eq!(Encodings::of(b"{}").size(), 0);
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(5_000).collect();
        assert_eq!(Encodings::of(&noise).size(), 0);
    }

    proptest! {
        #[test]
        fn twins_decode_to_the_body(word in "[a-z{}\":,]{1,40}", times in 20_usize..400) {
            let body = word.repeat(times).into_bytes();
            let encodings = Encodings::of(&body);
            for coding in [Coding::Gzip, Coding::Brotli] {
                if let Some(decoded) = decoded(&encodings, coding) {
                    prop_assert_eq!(&decoded, &body);
                } else {
                    prop_assert!(body.len() < SMALLEST);
                }
            }
        }
    }
}
