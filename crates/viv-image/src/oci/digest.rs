//! Digests, and checking what is read against them while it is read.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// A SHA-256, the one algorithm that every registry and tool has
/// (<https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests>).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(String);

impl Digest {
    /// Reads `sha256:HEX`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| {
            let name = text.split(':').next().unwrap_or_default().chars().take(20).collect::<String>();
            let message = format!("`{}` is no digest that can be checked: only sha256 is", name.escape_debug());
            Error::new(ErrorKind::UnsupportedImage, message)
        })?;
        if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(hex.to_owned()));
        }
        Err(Error::new(ErrorKind::BadReference, "a digest is sha256: and 64 digits from 0 to 9 and a to f"))
    }

    /// The digest of bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// Its 64 hexadecimal digits.
    pub(crate) fn hex(&self) -> &str {
        &self.0
    }

    /// That `found` is what was expected of `what`.
    pub(crate) fn check(&self, what: &str, found: &Self) -> Result<()> {
        if self == found {
            return Ok(());
        }
        let message = format!("{what} is damaged: its digest is {found} instead of {self}");
        Err(Error::new(ErrorKind::DigestMismatch, message)
            .hint("try again; if it stays so, whoever keeps the image has it damaged"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest of bytes that come one after the other.
#[derive(Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Digest {
        Digest(hex::encode(self.0.finalize()))
    }
}

/// Passes bytes on and knows their digest and number.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default(), count: 0 }
    }

    /// Reads what is left, and says what all of it was.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.hasher.finish(), self.count))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        let digest = Digest::of(b"hello");
        assert_eq!(Digest::parse(&digest.to_string()).unwrap(), digest);
        let (found, count) = Hashing::new(&b"hello"[..]).finish().unwrap();
        assert_eq!((&found, count), (&digest, 5));
        digest.check("it", &found).unwrap();
        assert_eq!(*digest.check("it", &Digest::of(b"")).unwrap_err().kind(), ErrorKind::DigestMismatch);
        for bad in ["", "sha256:", "sha512:00", "sha256:../../x", &digest.to_string().to_uppercase()] {
            Digest::parse(bad).unwrap_err();
        }
    }
}
