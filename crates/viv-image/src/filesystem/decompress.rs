//! Decompressing archives while they are read.

use std::io::{self, BufReader, Read};

use crate::error::{Error, ErrorKind, Result};

/// Bytes read from the source at once.
const BUFFER: usize = 256 << 10;

/// Whatever `reader` holds, uncompressed: gzip, zstd and xz are told by their first bytes, and all
/// else is passed on. Several compressed streams one after another count as one. Nothing is bounded
/// here, whoever reads does that.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for a compressor that is not known, [`ErrorKind::Io`] if it cannot be read.
pub fn decompress<'a>(reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    let failed = |error: io::Error| Error::new(ErrorKind::Io, "cannot read the archive").source(error);
    // A pipe may give less than a magic number at once.
    let mut magic = Vec::new();
    reader.by_ref().take(6).read_to_end(&mut magic).map_err(failed)?;
    let whole = io::Cursor::new(magic.clone()).chain(reader);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(whole).map_err(failed)?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(whole)),
        [b'B', b'Z', b'h', ..] => {
            return Err(Error::new(ErrorKind::Corrupt, "the archive is packed with bzip2, which is not supported")
                .hint("unpack it with bunzip2, or pack it with zstd"));
        }
        _ => Box::new(whole),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_also_in_pieces_and_in_small_reads() {
        let data: Vec<u8> = (0..300_000_u32).map(|n| (n / 1000) as u8).collect();
        let mut packed = crate::compression::tests::packed(&data);
        packed.retain(|(name, _)| ["gzip", "xz", "zstd"].contains(name));
        assert_eq!(packed.len(), 3);
        packed.push(("nothing", data.clone()));
        for (name, packed) in packed {
            let twice = [packed.as_slice(), &packed].concat();
            let (first, second) = twice.split_at(3);
            let mut out = Vec::new();
            decompress(first.chain(second)).unwrap().read_to_end(&mut out).unwrap();
            assert!(out == [data.as_slice(), &data].concat(), "{name}");
            let cut = decompress(&packed[..packed.len() / 2]).and_then(|mut reader| {
                out.clear();
                reader.read_to_end(&mut out).map_err(|error| Error::new(ErrorKind::Io, "").source(error))
            });
            assert!(cut.is_err() || out != data, "{name}");
        }
        assert_eq!(*decompress(b"BZh91AY".as_slice()).err().unwrap().kind(), ErrorKind::Corrupt);
        assert_eq!(io::read_to_string(decompress(b"".as_slice()).unwrap()).unwrap(), "");
    }
}
