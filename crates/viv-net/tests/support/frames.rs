//! What has to be so for any frame of a guest.

use std::net::IpAddr;

use viv_net::device::guard::may_pass;
use viv_net::device::refusal::refuse;

/// The longest answer: Ethernet's and IPv6's headers, ICMP's, and what it repeats of the packet.
const LONGEST_ANSWER: usize = 14 + 40 + 8 + 1200;

/// Judges and answers one.
pub fn any_frame(frame: &[u8]) {
    let mut asked: Option<IpAddr> = None;
    let passes = may_pass(frame, &mut |address| {
        asked = Some(address);
        false
    });
    if let Some(address) = asked {
        let never = match address {
            IpAddr::V4(address) => {
                address.is_loopback() || address.is_unspecified() || address.is_multicast() || address.is_broadcast()
            }
            IpAddr::V6(address) => {
                address.is_loopback() || address.to_ipv4_mapped().is_some() || address.is_multicast()
            }
        };
        assert!(passes && !never, "{address}");
        assert!(!may_pass(frame, &mut |_| true), "the host's own never passes");
    }
    if let Some(answer) = refuse(frame) {
        assert!(answer.len() <= LONGEST_ANSWER);
        assert_eq!(answer[..6], frame[6..12], "to whom it came from");
        assert_eq!(answer[12..14], frame[12..14]);
        assert_eq!(refuse(&answer), None, "an answer has no answer");
    }
}
