//! The bounded, stable-Rust side of the fuzz target `egress`: random bytes, and a real hello that is damaged.

#[path = "support/hostile.rs"]
mod hostile;

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

/// What a TLS client says first to `a.example`.
fn hello() -> Vec<u8> {
    let config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("a.example").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..512)) {
        hostile::any_bytes(&bytes);
    }

    #[test]
    fn random_rules(parts in vec(prop::sample::select(vec![
        "*", ".", ":", "/", "[", "]", "a", "b-c", "example", "xn--", "1", "0", "255", "10.0.0.0", "fd00::", "443", "ü", "@", "%", " ",
    ]), 0..12)) {
        hostile::any_bytes(parts.concat().as_bytes());
    }

    #[test]
    fn damaged_hellos(
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        again in any::<prop::sample::Index>(),
    ) {
        let mut bytes = hello();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let again = bytes[again.index(bytes.len())..].to_vec();
        bytes.truncate(cut.index(bytes.len() + 1));
        bytes.extend_from_slice(&again);
        hostile::any_bytes(&bytes);
    }
}
