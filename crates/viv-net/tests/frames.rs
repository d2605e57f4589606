//! The bounded, stable-Rust side of the fuzz target `frames`: random bytes, and frames that are almost right.

#[path = "support/frames.rs"]
mod frames;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..200)) {
        frames::any_frame(&bytes);
    }

    #[test]
    fn almost_ipv4(macs in any::<[u8; 12]>(), protocol in prop::sample::select(vec![1, 6, 17]), rest in vec(any::<u8>(), 0..80)) {
        let length = u16::try_from(20 + rest.len()).unwrap().to_be_bytes();
        let front = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2];
        frames::any_frame(&[&macs[..], &[0x08, 0x00], &front, &[203, 0, 113, 2], &rest].concat());
        frames::any_frame(&[&macs[..], &[0x08, 0x00], &front, &rest].concat());
    }

    #[test]
    fn almost_ipv6(macs in any::<[u8; 12]>(), protocol in prop::sample::select(vec![6, 17, 58]), rest in vec(any::<u8>(), 32..1400)) {
        let length = u16::try_from(rest.len() - 32).unwrap().to_be_bytes();
        frames::any_frame(&[&macs[..], &[0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], protocol, 64], &rest].concat());
    }
}
