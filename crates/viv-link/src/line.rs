//! Lines over any byte stream.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};
use viv_proto::envelope::LineBuffer;

/// Reads one line, without its newline; `None` at an end before it.
///
/// `rest` holds the bytes read beyond the line before, and afterwards those beyond this one.
///
/// # Errors
/// `InvalidData` for a line longer than [`viv_proto::MAX_LINE_BYTES`], else the reader's own.
pub async fn read_line(reader: &mut (impl AsyncRead + Unpin), rest: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let too_long = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut buffer = LineBuffer::default();
    buffer.push(rest).map_err(too_long)?;
    rest.clear();
    let mut chunk = [0; 4096];
    loop {
        if let Some(line) = buffer.next_line().map_err(too_long)? {
            *rest = buffer.into_rest();
            return Ok(Some(line));
        }
        let read = reader.read(&mut chunk).await?;
        if read == 0 {
            return Ok(None);
        }
        buffer.push(&chunk[..read]).map_err(too_long)?;
    }
}
