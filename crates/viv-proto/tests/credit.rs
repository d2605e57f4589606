//! Flow control inside one operation: what is granted is what may be sent.

use viv_proto::credit::{ReceiveCredit, SendCredit};
use viv_proto::{ProtocolError, STREAM_WINDOW_BYTES};

#[test]
fn a_window_may_be_sent_without_a_grant_and_no_byte_more() {
    let mut receiver = ReceiveCredit::default();
    assert_eq!(receiver.receive(1), Ok(()));
    assert_eq!(receiver.receive(STREAM_WINDOW_BYTES - 1), Ok(()));
    assert_eq!(receiver.receive(3), Err(ProtocolError::CreditExceeded(3)));
}

#[test]
fn what_is_delivered_is_granted_anew_in_batches() {
    let mut sender = SendCredit::default();
    let mut receiver = ReceiveCredit::default();
    sender.spend(STREAM_WINDOW_BYTES);
    receiver.receive(STREAM_WINDOW_BYTES).unwrap();
    assert_eq!(sender.available(), 0);
    assert_eq!(receiver.deliver(STREAM_WINDOW_BYTES / 4 - 1), None);
    let grant = receiver.deliver(1).expect("a quarter of the window left");
    assert_eq!(grant, STREAM_WINDOW_BYTES / 4);
    sender.grant(grant);
    assert_eq!(sender.available(), grant);
    assert_eq!(receiver.receive(grant), Ok(()));
    assert_eq!(receiver.receive(1), Err(ProtocolError::CreditExceeded(1)));
}

#[test]
fn a_peer_cannot_grant_more_than_a_window() {
    let mut sender = SendCredit::default();
    sender.grant(u32::MAX);
    assert_eq!(sender.available(), STREAM_WINDOW_BYTES);
    sender.spend(u32::MAX);
    assert_eq!(sender.available(), 0);
}
