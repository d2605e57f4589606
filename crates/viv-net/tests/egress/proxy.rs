//! The HTTP proxy.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use viv_net::event::{Via, What};
use viv_proto::network::PROXY_PORT;

use crate::support::{Net, Stream, accept, hello, net, read_all, upstream};

const ANY: &[&str] = &["*.test", "127.0.0.0/8"];

/// The header of a message, in lower case, up to its empty line.
async fn header(stream: &mut (impl AsyncBufReadExt + Unpin)) -> String {
    let mut header = String::new();
    while !header.ends_with("\r\n\r\n") {
        if stream.read_line(&mut header).await.unwrap() == 0 {
            break;
        }
    }
    header.to_lowercase()
}

/// Sends a whole request on a new connection and returns all that comes back.
async fn exchange(net: &Net, request: &str) -> String {
    let mut stream = net.open(PROXY_PORT).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = header(&mut stream).await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn parts(answer: &str) -> (&str, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn tunnel(net: &Net, authority: &str) -> Stream {
    let mut stream = net.open(PROXY_PORT).await;
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await.unwrap();
    assert!(header(&mut stream).await.starts_with("http/1.1 200"));
    stream
}

#[tokio::test]
async fn a_tunnel_carries_bytes_and_looks_at_the_hello() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = tunnel(&net, &format!("a.test:{port}")).await;
    let mut server = accept(&listener).await;
    let truth = hello("a.test");
    guest.write_all(&truth).await.unwrap();
    let mut got = vec![0; truth.len()];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got, truth);
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut guest).await, b"answer");

    let mut guest = tunnel(&net, &format!("a.test:{port}")).await;
    let mut server = accept(&listener).await;
    guest.write_all(&hello("evil.test")).await.unwrap();
    assert_eq!(read_all(&mut server).await, b"");
    assert_eq!(read_all(&mut guest).await, [21, 3, 1, 0, 2, 2, 49]);
    let denial = net.event(|what| if let What::Denied(denial) = what { Some(denial) } else { None }).await;
    assert_eq!((denial.via, denial.rule.as_str()), (Via::Proxy, "tls-server-name"));
}

#[tokio::test]
async fn bytes_that_come_with_the_request_are_the_tunnels_first() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = net.open(PROXY_PORT).await;
    let early = format!("CONNECT a.test:{port} HTTP/1.1\r\nHost: a.test:{port}\r\n\r\nhello");
    guest.write_all(early.as_bytes()).await.unwrap();
    let mut server = accept(&listener).await;
    let mut got = [0; 5];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn a_denial_is_a_403_that_says_what_would_permit_it() {
    let net = net(&["a.test:443"]);
    let answer = exchange(&net, "CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n").await;
    let (status, body) = parts(&answer);
    assert_eq!(status, "http/1.1 403 forbidden (viv: no rule allows b.test:443)");
    assert!(answer.contains("x-viv-denied: default\r\n"), "{answer}");
    insta::assert_snapshot!(body, @r#"{"allow":"--allow b.test:443","error":"no rule allows b.test:443; --allow b.test:443 would permit it","host":"b.test","port":443,"reason":"no rule allows b.test:443","rule":"default","type":"denied_by_viv"}"#);
    let answer = exchange(&net, "GET http://b.test/path HTTP/1.1\r\nHost: b.test\r\n\r\n").await;
    let (status, body) = parts(&answer);
    assert_eq!(status, "http/1.1 403 forbidden (viv: no rule allows b.test:80)");
    assert_eq!(body["allow"], "--allow b.test:80");
}

#[tokio::test]
async fn what_is_no_request_to_a_proxy_is_refused() {
    let net = net(&["*"]);
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        ("GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        ("GET http://user@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        ("CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        ("GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", 400),
        ("GET http://a.test/ HTTP/1.1\r\nHost: a.test:81\r\n\r\n", 400),
        ("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", 400),
        // To itself, or to what else the host has on its loopback interface.
        ("CONNECT 127.0.0.1:3128 HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n", 403),
        ("CONNECT localhost.test:3128 HTTP/1.1\r\nHost: localhost.test:3128\r\n\r\n", 403),
        ("CONNECT [::1]:3128 HTTP/1.1\r\nHost: [::1]:3128\r\n\r\n", 403),
        ("GET http://127.0.0.1:3128/ HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n", 403),
        ("CONNECT mail.test:25 HTTP/1.1\r\nHost: mail.test:25\r\n\r\n", 403),
        ("CONNECT nowhere.example:443 HTTP/1.1\r\nHost: nowhere.example:443\r\n\r\n", 502),
        ("nonsense\r\n\r\n", 400),
    ] {
        let answer = exchange(&net, request).await;
        assert!(answer.starts_with(&format!("http/1.1 {expected} ")), "{request:?}: {answer}");
    }
}

/// Serves one request with `HTTP/1.1 200` and the request's own header as the body.
async fn echo(server: &mut BufReader<TcpStream>) -> String {
    let head = header(server).await;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 2\r\n\
         Content-Length: {}\r\n\r\n{head}",
        head.len()
    );
    server.write_all(answer.as_bytes()).await.unwrap();
    head
}

#[tokio::test]
async fn plain_http_is_forwarded_without_what_is_between_neighbours() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let request = format!(
        "GET http://a.test:{port}/path?query HTTP/1.1\r\nHost: A.test:{port}\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Authorization: Basic c2VjcmV0\r\nConnection: X-Mine, Host\r\nX-Mine: 1\r\nUpgrade: h2c\r\nX-Other: 2\r\n\r\n"
    );
    let served = async { echo(&mut BufReader::new(accept(&listener).await)).await };
    let (answer, head) = tokio::join!(exchange(&net, &request), served);
    assert!(head.starts_with("get /path?query http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: a.test:{port}\r\n")) && head.contains("x-other: 2\r\n"), "{head}");
    assert!(head.contains("via: 1.1 viv\r\n"), "{head}");
    for stripped in ["proxy-", "x-mine", "upgrade", "connection"] {
        assert!(!head.contains(stripped), "{stripped} in {head}");
    }
    let answer = answer.split_once("\r\n\r\n").unwrap().0;
    assert!(answer.contains("x-kept: 2") && !answer.contains("x-secret") && !answer.contains("keep-alive"), "{answer}");
    net.event(|what| matches!(what, What::Closed { sent: 1.., received: 1.., .. }).then_some(())).await;
}

#[tokio::test]
async fn requests_to_one_server_share_a_connection_and_a_closed_one_is_replaced() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = net.open(PROXY_PORT).await;
    let request = format!("GET http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n");
    let served = async {
        let mut first = BufReader::new(accept(&listener).await);
        echo(&mut first).await;
        echo(&mut first).await;
        drop(first);
        echo(&mut BufReader::new(accept(&listener).await)).await;
    };
    let asked = async {
        for _ in 0..3 {
            guest.write_all(request.as_bytes()).await.unwrap();
            let head = header(&mut guest).await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            guest.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
        }
    };
    tokio::join!(served, asked);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = net.open(PROXY_PORT).await;
    let head =
        format!("POST http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\nTransfer-Encoding: chunked\r\n\r\n");
    guest.write_all(head.as_bytes()).await.unwrap();
    guest.write_all(b"5\r\nfirst\r\n").await.unwrap();
    let mut server = BufReader::new(accept(&listener).await);
    assert!(header(&mut server).await.contains("transfer-encoding: chunked"));
    let mut chunk = [0; 10];
    server.read_exact(&mut chunk).await.unwrap();
    assert_eq!(&chunk, b"5\r\nfirst\r\n");
    // The answer begins before the question has ended.
    server.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
    assert!(header(&mut guest).await.contains("transfer-encoding: chunked"));
    let mut chunk = [0; 8];
    guest.read_exact(&mut chunk).await.unwrap();
    assert_eq!(&chunk, b"3\r\none\r\n");
    guest.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    let mut rest = [0; 16];
    server.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"6\r\nsecond\r\n0\r\n\r\n");
    server.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    let mut rest = [0; 13];
    guest.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"3\r\ntwo\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_header_without_an_end_is_cut_off() {
    let net = net(ANY);
    let stream = net.open(PROXY_PORT).await;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let endless = tokio::spawn(async move {
        writing.write_all(b"GET http://a.test/ HTTP/1.1\r\nX: ").await.unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        for sent in 0..16 * 1024 {
            if writing.write_all(&chunk).await.is_err() {
                return sent;
            }
        }
        panic!("a header of 1 GiB was taken");
    });
    let answer = read_all(&mut reading).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    assert!(endless.await.unwrap() < 100);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dawdles_is_left() {
    let net = net(ANY);
    let started = tokio::time::Instant::now();
    let mut stream = net.open(PROXY_PORT).await;
    stream.write_all(b"GET http://a.test/ HT").await.unwrap();
    read_all(&mut stream).await;
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}
