//! The guest's end of `cargo xtask bench net`: takes and gives bytes as it is told, by whichever way it
//! was reached.
//!
//! ```text
//! net-peer listen PORT              whoever connects to 127.0.0.1
//! net-peer connect ADDRESS COUNT    connects
//! net-peer proxy ADDRESS COUNT      connects through the proxy of HTTP_PROXY
//! net-peer stdio                    standard input and output
//! ```
//!
//! On each connection comes a command, again and again: `t` (take) or `g` (give) and a number of bytes,
//! 64 bits in network byte order. What is given is zeros; what was taken is answered by one byte. A
//! connection that this end made begins with the byte `+`.
//!
//! Built static, by itself: the same code at the end of each way, and little of it to translate under
//! emulation.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// What is read and written at once, in bytes.
const PIECE: usize = 64 * 1024;

/// In a thread's stack is nothing but calls: pieces are on the heap.
const STACK: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["listen", port] => {
            for connection in TcpListener::bind(format!("127.0.0.1:{port}"))?.incoming() {
                serve_in_thread(connection?)?;
            }
        }
        ["connect", address, count] => {
            for _ in 0..parse(count)? {
                begin(TcpStream::connect(address)?)?;
            }
            wait_for_the_end()?;
        }
        ["proxy", address, count] => {
            let proxy = std::env::var("HTTP_PROXY").map_err(|_| invalid("HTTP_PROXY is not set"))?;
            let proxy = proxy.trim_start_matches("http://").trim_end_matches('/');
            for _ in 0..parse(count)? {
                begin(through_proxy(proxy, address)?)?;
            }
            wait_for_the_end()?;
        }
        ["stdio"] => serve(io::stdin().lock(), io::stdout().lock())?,
        _ => return Err(invalid("usage: net-peer listen PORT | connect|proxy ADDRESS COUNT | stdio")),
    }
    Ok(())
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn parse(count: &str) -> io::Result<u32> {
    count.parse().map_err(|_| invalid("a count is a number"))
}

/// Whoever started this holds its standard input open.
fn wait_for_the_end() -> io::Result<()> {
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}

fn through_proxy(proxy: &str, address: &str) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(proxy)?;
    write!(connection, "CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 200") { Ok(connection) } else { Err(invalid("the proxy refused")) }
}

fn begin(mut connection: TcpStream) -> io::Result<()> {
    connection.write_all(b"+")?;
    serve_in_thread(connection)
}

fn serve_in_thread(connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let reader = connection.try_clone()?;
    // A connection that breaks ends its thread; the other side sees it.
    thread::Builder::new().stack_size(STACK).spawn(move || serve(reader, connection).is_ok())?;
    Ok(())
}

/// Does as it is told until there are no more commands.
fn serve(mut reader: impl Read, mut writer: impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut command = [0; 9];
    loop {
        reader.read_exact(&mut command)?;
        let [kind, count @ ..] = command;
        let mut left = u64::from_be_bytes(count);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            left -= match kind {
                b't' => match reader.read(&mut piece[..most])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    taken => taken as u64,
                },
                b'g' => {
                    writer.write_all(&piece[..most])?;
                    most as u64
                }
                _ => return Err(invalid("no such command")),
            };
        }
        if kind == b't' {
            writer.write_all(b".")?;
        }
        writer.flush()?;
    }
}
