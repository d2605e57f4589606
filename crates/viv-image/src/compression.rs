//! Decompressing what kernels and modules are packed with, told apart by their first bytes.

use std::io::{self, Read};

/// Unpacks `data` if it begins like something packed, up to `limit` bytes; plain data is `None`.
///
/// # Errors
/// `InvalidData` for damaged data, an unknown compressor's magic or a result over the limit.
pub(crate) fn decompress(data: &[u8], limit: u64) -> io::Result<Option<Vec<u8>>> {
    let unpacked = match data {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data)?.single_frame();
            // Kernels are packed with the largest window there is.
            decoder.window_log_max(31)?;
            read_limited(decoder, limit)?
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read_limited(liblzma::bufread::XzDecoder::new(data), limit)?,
        [0x5d, 0, 0, ..] => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(u64::MAX).map_err(io::Error::other)?;
            read_limited(liblzma::bufread::XzDecoder::new_stream(data, stream), limit)?
        }
        [0x1f, 0x8b, ..] => read_limited(flate2::bufread::GzDecoder::new(data), limit)?,
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4_legacy(rest, limit)?,
        [b'B', b'Z', b'h', ..] | [0x89, b'L', b'Z', b'O', ..] => {
            return Err(invalid("packed with bzip2 or lzo, which is not supported"));
        }
        _ => return Ok(None),
    };
    Ok(Some(unpacked))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn read_limited(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(invalid("larger than it may be when unpacked"));
    }
    Ok(out)
}

/// The kernel's own use of lz4: blocks of at most 8 MiB unpacked, each after its packed size.
fn lz4_legacy(mut data: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    while let Some((size, rest)) = data.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let Some((block, rest)) = rest.split_at_checked(size).filter(|(block, _)| !block.is_empty()) else {
            // What follows the last block (the unpacked size) is not a block.
            break;
        };
        out.extend(lz4_flex::block::decompress(block, BLOCK).map_err(|error| invalid(&error.to_string()))?);
        if out.len() as u64 > limit {
            return Err(invalid("larger than it may be when unpacked"));
        }
        data = rest;
    }
    Ok(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Every format, packing the same data.
    pub(crate) fn packed(data: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(data).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(data).unwrap();
        let options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(data).unwrap();
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        for block in data.chunks(8 << 20) {
            let block = lz4_flex::block::compress(block);
            lz4.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            lz4.extend(block);
        }
        vec![
            ("gzip", gzip.finish().unwrap()),
            ("xz", xz.finish().unwrap()),
            ("lzma", lzma.finish().unwrap()),
            ("lz4", lz4),
            ("zstd", zstd::encode_all(data, 1).unwrap()),
        ]
    }

    #[test]
    fn every_format_there_and_back() {
        let data: Vec<u8> = (0..9_000_000_u32).map(|n| (n / 1000) as u8).collect();
        for (name, packed) in packed(&data) {
            assert!(decompress(&packed, data.len() as u64).unwrap().unwrap() == data, "{name}");
            assert!(decompress(&packed, data.len() as u64 - 1).is_err(), "{name}: over the limit");
            assert!(
                decompress(&packed[..packed.len() / 2], u64::MAX).map_or(true, |out| out.unwrap() != data),
                "{name}: cut short"
            );
        }
        assert!(decompress(b"\x7fELF", 10).unwrap().is_none());
        assert!(decompress(b"", 10).unwrap().is_none());
    }
}
