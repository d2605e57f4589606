//! TCP connections.

use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use viv_net::egress::Resolution;
use viv_net::event::{Via, What};
use viv_net::policy::Policy;
use viv_net::spec::Limits;
use viv_proto::network::{CONNECT_PORT, ConnectAnswer, SSH_AGENT_PORT};

use crate::support::{LOOPBACK, accept, hello, net, net_of, read_all, rules, upstream};

const ANY: &[&str] = &["*.test", "127.0.0.0/8"];

/// Long enough to notice that something was held back, short enough to wait for.
const MOMENT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn bytes_go_both_ways_each_end_for_itself_and_are_counted() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = net.connected("a.test", port).await;
    let mut server = accept(&listener).await;
    let up: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let down: Vec<u8> = up.iter().rev().copied().collect();
    let sent = async {
        guest.write_all(&up).await.unwrap();
        guest.shutdown().await.unwrap();
        // The server answers only after the end of what it is told.
        read_all(&mut guest).await
    };
    let served = async {
        let told = read_all(&mut server).await;
        server.write_all(&down).await.unwrap();
        drop(server);
        told
    };
    let (answer, told) = tokio::join!(sent, served);
    assert!(told == up && answer == down);
    let (address, rule) = net
        .event(|what| match what {
            What::Connected { address, rule, via: Via::Tcp, .. } => Some((address, rule)),
            _ => None,
        })
        .await;
    assert_eq!((address, rule.as_str()), (LOOPBACK, "*.test"));
    let counts = net
        .event(|what| match what {
            What::Closed { sent, received, .. } => Some((sent, received)),
            _ => None,
        })
        .await;
    assert_eq!(counts, (12_000_000, 12_000_000));
}

#[tokio::test]
async fn a_server_that_speaks_first_is_not_delayed() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = net.connected("a.test", port).await;
    let mut server = accept(&listener).await;
    server.write_all(b"SSH-2.0-server\r\n").await.unwrap();
    let mut greeting = [0; 16];
    guest.read_exact(&mut greeting).await.unwrap();
    guest.write_all(b"S").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'S');
}

#[tokio::test]
async fn a_true_hello_passes_whole_and_a_lying_one_not_at_all() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let truth = hello("a.test");
    let mut guest = net.connected("A.test", port).await;
    let mut server = accept(&listener).await;
    for piece in truth.chunks(7) {
        guest.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut got = vec![0; truth.len()];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got, truth);

    for lie in [hello("evil.test"), b"\x16\x03\x01\x00\x05hello".to_vec(), truth[..60].to_vec()] {
        let mut guest = net.connected("a.test", port).await;
        let mut server = accept(&listener).await;
        for piece in lie.chunks(50) {
            // The egress may have hung up already.
            let _ = guest.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ = guest.shutdown().await;
        assert_eq!(read_all(&mut guest).await, [21, 3, 1, 0, 2, 2, 49], "no TLS alert");
        assert_eq!(read_all(&mut server).await, b"", "bytes of a lying hello went out");
    }
    let reason = net.event(|what| if let What::Denied(denial) = what { Some(denial.reason) } else { None }).await;
    assert_eq!(reason, "the TLS server name evil.test is not the name a.test that was connected to");
    // An address is no name: there is nothing to agree with.
    let mut guest = net.connected("127.0.0.1", port).await;
    guest.write_all(&hello("whatever.test")).await.unwrap();
    assert_eq!(accept(&listener).await.read_u8().await.unwrap(), 22);
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_does_not_end_is_refused_in_time() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = net.connected("a.test", port).await;
    let mut server = accept(&listener).await;
    guest.write_all(&hello("a.test")[..40]).await.unwrap();
    assert_eq!(read_all(&mut guest).await, [21, 3, 1, 0, 2, 2, 49]);
    assert_eq!(read_all(&mut server).await, b"");
}

#[tokio::test]
async fn refusals_come_at_once_and_say_what_would_permit_it() {
    let net = net(&["a.test:443", "rebound.example"]);
    net.told.tell("rebound.example", vec![Resolution::Addresses(vec!["169.254.169.254".parse().unwrap()])]);
    for (host, port, expected) in [
        ("b.test", 443, "no rule allows b.test:443 (--allow b.test:443 would permit it)"),
        ("a.test", 80, "a.test:443 allows another port, no rule allows a.test:80 (--allow a.test:80 would permit it)"),
        ("a.test", 25, "port 25 (SMTP) is refused unless a rule names it (--allow a.test:25 would permit it)"),
        ("8.8.8.8", 53, "no rule allows 8.8.8.8:53 (--allow 8.8.8.8:53 would permit it)"),
        (
            "rebound.example",
            80,
            "rebound.example resolves to 169.254.169.254, a cloud's metadata service, which only an address rule \
             allows (--allow 169.254.169.254:80 would permit it)",
        ),
        ("0x7f.1", 80, "neither a host name nor an address"),
    ] {
        assert_eq!(net.refused(host, port).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_changes_its_address_after_it_was_allowed_is_refused() {
    let net = net(&["rebound.example"]);
    let answers = [[203, 0, 113, 80], [127, 0, 0, 1]].map(|octets| Resolution::Addresses(vec![IpAddr::from(octets)]));
    net.told.tell("rebound.example", answers.to_vec());
    assert_eq!(net.name("rebound.example").await, viv_proto::network::NameAnswer::Known);
    // What was found out is used: the check and the connection are about the same address.
    let (listener, port) = upstream().await;
    for _ in 0..3 {
        assert_ne!(net.connect("rebound.example", port).await.0, ConnectAnswer::Connected);
    }
    drop(listener);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let net = net(&["*.test", "127.0.0.0/8"]);
    let (listener, port) = upstream().await;
    // Nothing listens on the first, the second is not to be used, the third does not exist.
    let addresses = ["127.9.9.9", "10.0.0.1", "127.0.0.1"].map(|text| text.parse().unwrap());
    net.told.tell("many.test", vec![Resolution::Addresses(addresses.to_vec())]);
    let mut guest = net.connected("many.test", port).await;
    guest.write_all(b"x").await.unwrap();
    assert_eq!(accept(&listener).await.read_u8().await.unwrap(), b'x');
    drop(listener);
    let (ConnectAnswer::Failed { reason }, _) = net.connect("many.test", port).await else { panic!("connected") };
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn an_upstream_that_resets_ends_the_connection() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let mut guest = net.connected("a.test", port).await;
    let server = accept(&listener).await;
    guest.write_all(b"request").await.unwrap();
    server.peek(&mut [0; 7]).await.unwrap();
    // Closed with unread bytes: a reset.
    drop(server);
    assert_eq!(read_all(&mut guest).await, b"");
    net.event(|what| matches!(what, What::Failed { .. }).then_some(())).await;
    net.event(|what| matches!(what, What::Closed { sent: 7, .. }).then_some(())).await;
}

#[tokio::test]
async fn a_guest_that_does_not_read_stops_the_upstream() {
    let net = net(ANY);
    let (listener, port) = upstream().await;
    let guest = net.connected("a.test", port).await;
    let mut server = accept(&listener).await;
    let chunk = vec![7; 64 * 1024];
    let mut sent = 0;
    while let Ok(Ok(bytes)) = tokio::time::timeout(MOMENT, server.write(&chunk)).await {
        sent += bytes;
        assert!(sent < 64 << 20, "the egress takes whatever comes");
    }
    drop(guest);
    // The guest is gone: the upstream learns it.
    while let Ok(bytes) = server.write(&chunk).await {
        assert_ne!(bytes, 0);
    }
}

#[tokio::test]
async fn connections_are_limited_in_number_and_rate() {
    let policy = || Policy { allow: rules(ANY), ..Policy::default() };
    let (listener, port) = upstream().await;
    let few = net_of(policy(), |spec| spec.limits = Limits { connections: 3, ..Limits::default() });
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push((few.connected("a.test", port).await, accept(&listener).await));
    }
    assert_eq!(few.greet(CONNECT_PORT).await.0, "ERR more than 3 connections are open\n");
    open.pop();
    few.event(|what| matches!(what, What::Closed { .. }).then_some(())).await;
    // The slot is free as soon as the connection's end has been told.
    while few.greet(CONNECT_PORT).await.0 != "OK\n" {
        tokio::task::yield_now().await;
    }
    let slow = net_of(policy(), |spec| spec.limits = Limits { connections_per_second: 1, ..Limits::default() });
    let mut refused = Vec::new();
    for _ in 0..10 {
        if let ConnectAnswer::Denied { reason } = slow.connect("a.test", port).await.0 {
            refused.push(reason);
        }
    }
    assert!(refused.len() >= 5 && refused[0] == "more than 1 connections in a second", "{refused:?}");
}

#[tokio::test]
async fn the_ssh_agent_answers_only_where_it_is_given() {
    let without = net(ANY);
    assert_eq!(without.greet(SSH_AGENT_PORT).await.0, "ERR this sandbox may not use the host's SSH agent\n");
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent");
    let agent = tokio::net::UnixListener::bind(&socket).unwrap();
    let with = net_of(Policy::default(), |spec| {
        spec.ssh_agent = Some(socket.clone());
        // It needs no network.
        spec.policy = None;
    });
    let mut guest = with.open(SSH_AGENT_PORT).await;
    let (mut served, _) = agent.accept().await.unwrap();
    guest.write_all(b"\0\0\0\x01\x0b").await.unwrap();
    let mut question = [0; 5];
    served.read_exact(&mut question).await.unwrap();
    served.write_all(b"answer").await.unwrap();
    drop(served);
    assert_eq!(read_all(&mut guest).await, b"answer");
}
