//! The guest's name server on any question: whatever is asked, what is said is a well-formed answer to it.

#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use viv_guest::network::message::{Answer, MAX_DATAGRAM_BYTES, MAX_NAME_BYTES, Refusal, address_in, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let question = match parse(bytes) {
        Ok(question) => question,
        Err(Refusal::Say(answer)) => return assert_eq!(answer[..2], bytes[..2]),
        Err(Refusal::Silence) => return,
    };
    if let Some(name) = &question.name {
        assert!(name.len() <= MAX_NAME_BYTES);
        let _ = address_in(name);
    }
    for answer in [
        Answer::V4(Ipv4Addr::LOCALHOST),
        Answer::V6(Ipv6Addr::LOCALHOST),
        Answer::Nothing,
        Answer::NoSuchName,
        Answer::Failure,
    ] {
        let message = question.answer(&answer, 60);
        assert!(message.len() <= MAX_DATAGRAM_BYTES);
        assert_eq!(message[..2], bytes[..2]);
        // An answer is no question: two servers cannot keep each other busy.
        assert_eq!(parse(&message), Err(Refusal::Silence));
    }
});
