//! Sessions over in-memory carriers: opening, refusing, flow control, cuts and confusion.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use viv_link::{HostSession, Incoming, Link, LinkError, guest_sessions, host_session};
use viv_proto::handshake::{FIRST_TOKEN, Token, host_hello};

/// A guest that echoes on port 7, refuses port 8, and leaves port 9 unread.
fn serve(_link: Link, mut incoming: Incoming) {
    tokio::spawn(async move {
        let mut unread = Vec::new();
        while let Some(request) = incoming.next().await {
            match request.port {
                7 => {
                    tokio::spawn(async move {
                        let mut stream = request.accept().await.unwrap();
                        let (mut reader, mut writer) = tokio::io::split(&mut stream);
                        let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    });
                }
                9 => unread.push(request.accept().await.unwrap()),
                port => request.refuse(&format!("no port {port}")).await,
            }
        }
    });
}

async fn session(host: &mut DuplexStream, reset: &Token) -> (Link, Token, tokio::task::JoinHandle<()>)
where
{
    // Each session borrows nothing: a pump keeps the carrier across sessions.
    let (near, mut far) = duplex(1 << 16);
    let (mut from_far, mut to_far) = tokio::io::split(host_clone(host));
    let pump = tokio::spawn(async move {
        let (mut near_reader, mut near_writer) = tokio::io::split(&mut far);
        tokio::select! {
            _ = tokio::io::copy(&mut near_reader, &mut to_far) => {}
            _ = tokio::io::copy(&mut from_far, &mut near_writer) => {}
        }
    });
    let HostSession { link, next_reset, driver, .. } = host_session(near, reset).await.unwrap();
    tokio::spawn(async move {
        let _ = driver.run().await;
    });
    (link, next_reset, pump)
}

/// Takes the carrier out of its place; `session` is called once per carrier in these tests.
fn host_clone(host: &mut DuplexStream) -> DuplexStream {
    std::mem::replace(host, duplex(1).0)
}

async fn echo(link: &Link, bytes: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(link.open(7).await.unwrap());
    let mut back = vec![0; bytes.len()];
    let (sent, received) = tokio::join!(writer.write_all(bytes), reader.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    assert_eq!(back, bytes);
}

#[tokio::test]
async fn opens_echoes_and_refuses() {
    let (mut host, guest) = duplex(4096);
    tokio::spawn(guest_sessions(guest, serve));
    let (link, _, _pump) = session(&mut host, &FIRST_TOKEN).await;
    echo(&link, b"hello").await;
    match link.open(8).await {
        Err(LinkError::Refused { port: 8, reason }) => assert_eq!(reason, "no port 8"),
        other => panic!("port 8 was not refused: {}", other.is_ok()),
    }
}

#[tokio::test]
async fn a_stalled_stream_stalls_itself_alone() {
    let (mut host, guest) = duplex(4096);
    tokio::spawn(guest_sessions(guest, serve));
    let (link, _, _pump) = session(&mut host, &FIRST_TOKEN).await;
    let mut stalled = link.open(9).await.unwrap();
    let flood = tokio::spawn(async move {
        let block = vec![1; 1 << 16];
        while stalled.write_all(&block).await.is_ok() {}
    });
    echo(&link, &vec![7; 3 << 20]).await;
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn more_streams_than_fit_wait_for_their_turn() {
    let (mut host, guest) = duplex(4096);
    tokio::spawn(guest_sessions(guest, serve));
    let (link, _, _pump) = session(&mut host, &FIRST_TOKEN).await;
    let open = (0..4 * viv_link::MAX_STREAMS).map(|_| async {
        let mut stream = link.open(7).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    });
    futures::future::join_all(open).await;
    echo(&link, b"alive").await;
}

#[tokio::test]
async fn a_new_session_begins_in_the_middle_of_an_old_frame() {
    let (host, guest) = duplex(1 << 16);
    tokio::spawn(guest_sessions(guest, serve));
    let (mut host_reader, mut host_writer) = tokio::io::split(host);

    // First session by hand: hello, answer, then half a yamux frame.
    host_writer.write_all(&host_hello(&FIRST_TOKEN, &[5; 16])).await.unwrap();
    let mut answer = [0; 36];
    host_reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..16], [5; 16]);
    let mut reset = [0; 16];
    reset.copy_from_slice(&answer[20..]);
    host_writer.write_all(&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0xff, 0xff, b'x']).await.unwrap();

    let mut carrier = host_reader.unsplit(host_writer);
    let (link, _, _pump) = session(&mut carrier, &reset).await;
    echo(&link, b"again").await;
}

#[tokio::test]
async fn a_host_that_lost_the_answer_may_repeat_its_hello() {
    let (mut host, guest) = duplex(1 << 16);
    tokio::spawn(guest_sessions(guest, serve));
    host.write_all(&host_hello(&FIRST_TOKEN, &[5; 16])).await.unwrap();
    let (link, _, _pump) = session(&mut host, &FIRST_TOKEN).await;
    echo(&link, b"again").await;
}

#[tokio::test]
async fn garbage_before_and_instead_of_yamux_is_survived() {
    let (mut host, guest) = duplex(1 << 16);
    tokio::spawn(guest_sessions(guest, serve));
    host.write_all(&[0xAA; 5000]).await.unwrap();
    host.write_all(&host_hello(&FIRST_TOKEN, &[6; 16])).await.unwrap();
    let mut answer = [0; 36];
    host.read_exact(&mut answer).await.unwrap();
    let mut reset = [0; 16];
    reset.copy_from_slice(&answer[20..]);
    host.write_all(&[0xFF; 3000]).await.unwrap();
    let (link, _, _pump) = session(&mut host, &reset).await;
    echo(&link, b"still here").await;
}

#[tokio::test]
async fn a_cut_carrier_ends_every_stream() {
    let (mut host, guest) = duplex(4096);
    let served = tokio::spawn(guest_sessions(guest, serve));
    let (link, _, pump) = session(&mut host, &FIRST_TOKEN).await;
    let mut stream = link.open(7).await.unwrap();
    pump.abort();
    let mut buffer = [0; 1];
    assert!(matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)));
    assert!(link.open(7).await.is_err());
    assert_eq!(served.await.unwrap().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_guest_of_another_version_is_refused_by_name() {
    let (host, mut guest) = duplex(4096);
    tokio::spawn(async move {
        let mut hello = [0; 36];
        guest.read_exact(&mut hello).await.unwrap();
        let mut answer = hello[20..].to_vec();
        answer.extend(99u32.to_le_bytes());
        answer.extend([0; 16]);
        guest.write_all(&answer).await.unwrap();
        std::future::pending::<()>().await;
    });
    match host_session(host, &FIRST_TOKEN).await {
        Err(LinkError::Protocol(viv_proto::ProtocolError::UnknownVersion { theirs: 99 })) => {}
        other => panic!("accepted: {}", other.is_ok()),
    }
}

/// A session whose guest opens the streams; the host echoes.
async fn from_the_guest() -> Link {
    let (host, guest) = duplex(1 << 16);
    let (told, link) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    tokio::spawn(guest_sessions(guest, move |link, _incoming| {
        let _ = told.take().map(|told| told.send(link));
    }));
    let HostSession { driver, incoming, link: _host, .. } = host_session(host, &FIRST_TOKEN).await.unwrap();
    tokio::spawn(driver.run());
    serve(_host, incoming);
    link.await.unwrap()
}

#[tokio::test]
async fn a_guest_has_more_than_a_thousand_streams_open() {
    let link = from_the_guest().await;
    let mut held = Vec::new();
    for _ in 0..viv_link::MAX_GUEST_OPENED {
        held.push(link.open(7).await.unwrap());
    }
    for stream in &mut held {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
    drop(held);
    // Given up and opened anew faster than the host notices: the session goes on.
    for _ in 0..10 {
        let open = (0..viv_link::MAX_GUEST_OPENED).map(|_| link.open(7));
        drop(futures::future::join_all(open).await);
    }
    echo(&link, b"alive").await;
}

#[tokio::test]
async fn streams_given_up_before_the_host_looks_do_not_end_the_session() {
    let (host, guest) = duplex(1 << 20);
    let (told, link) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    tokio::spawn(guest_sessions(guest, move |link, _incoming| {
        let _ = told.take().map(|told| told.send(link));
    }));
    let HostSession { driver, incoming, link: host, .. } = host_session(host, &FIRST_TOKEN).await.unwrap();
    let link = link.await.unwrap();
    for _ in 0..2 * viv_link::MAX_STREAMS {
        let given_up = async {
            // Long enough for the greeting to be under way.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            opened = link.open(7) => drop(opened.unwrap()),
            () = given_up => {}
        }
    }
    tokio::spawn(driver.run());
    serve(host, incoming);
    echo(&link, b"alive").await;
}

#[tokio::test]
async fn what_is_said_first_goes_along_with_the_greeting() {
    let link = from_the_guest().await;
    let mut stream = link.open_with(7, b"first, ").await.unwrap();
    stream.write_all(b"then").await.unwrap();
    let mut back = [0; 11];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"first, then");
    assert!(matches!(link.open_with(8, b"unheard").await, Err(LinkError::Refused { port: 8, .. })));
}

#[tokio::test]
async fn a_reset_is_told_from_an_end() {
    let (host, guest) = duplex(4096);
    tokio::spawn(guest_sessions(guest, |_link, mut incoming| {
        tokio::spawn(async move {
            while let Some(request) = incoming.next().await {
                let in_order = request.port == 1;
                let mut stream = request.accept().await.unwrap();
                if in_order {
                    stream.shutdown().await.unwrap();
                    // Until the other side has ended, too.
                    tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
                }
            }
        });
    }));
    let HostSession { link, driver, .. } = host_session(host, &FIRST_TOKEN).await.unwrap();
    let driver = tokio::spawn(driver.run());
    for (port, cut) in [(1, false), (2, true)] {
        let mut stream = link.open(port).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(std::future::poll_fn(|cx| std::task::Poll::Ready(stream.poll_is_cut(cx))).await, cut, "{port}");
    }
    assert!(!link.is_closed());
    driver.abort();
    assert!(driver.await.is_err());
    assert!(link.is_closed());
}
