//! What a TLS client says first, read without opening TLS: whom it believes to talk to.

use rustls::server::Acceptor;

/// A hello is at most this long, in bytes of the stream: four times what one with post-quantum key shares takes.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// The record layer's type of a handshake message, and the major version of all TLS (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;

/// A fatal alert, `access_denied` (RFC 8446, section 6): a client's error message, and not a silence.
pub(super) const ACCESS_DENIED: [u8; 7] = [21, MAJOR_VERSION, 1, 0, 2, 2, 49];

/// What to do with the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Hold them: what they are shows later.
    Wait,
    /// Pass them on, and do not look at what follows.
    Pass,
    /// Let none of them out; why.
    Refuse(String),
}

/// Looks at the first bytes of a connection that was allowed by name. If they are a TLS ClientHello, its server
/// name must be the name.
///
/// A hello without a server name passes: it does not lie, and the server decides what it is. So does whatever is
/// not TLS from its first byte on, even if it changes to TLS later (STARTTLS).
pub struct Inspector {
    name: String,
    acceptor: Acceptor,
    first: Vec<u8>,
    seen: usize,
}

impl Inspector {
    /// For a connection to this name, in its normal form.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), acceptor: Acceptor::default(), first: Vec::new(), seen: 0 }
    }

    /// Looks at the next bytes. After anything but [`Verdict::Wait`] there is nothing more to look at.
    pub fn inspect(&mut self, bytes: &[u8]) -> Verdict {
        if self.seen < 2 {
            self.first.extend(bytes.iter().take(2 - self.seen));
            match self.first[..] {
                [] | [HANDSHAKE] | [HANDSHAKE, MAJOR_VERSION] => {}
                _ => return Verdict::Pass,
            }
        }
        self.seen += bytes.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.acceptor.read_tls(&mut rest).is_err() {
                return unreadable();
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return self.judge(accepted.client_hello().server_name()),
                Err(_) => return unreadable(),
            }
        }
        if self.seen >= MAX_HELLO_BYTES {
            return Verdict::Refuse(format!("a TLS ClientHello of more than {MAX_HELLO_BYTES} bytes"));
        }
        Verdict::Wait
    }

    fn judge(&self, server_name: Option<&str>) -> Verdict {
        let name = &self.name;
        match server_name {
            None => Verdict::Pass,
            Some(server) if server.eq_ignore_ascii_case(name) => Verdict::Pass,
            Some(server) => {
                Verdict::Refuse(format!("the TLS server name {server} is not the name {name} that was connected to"))
            }
        }
    }
}

fn unreadable() -> Verdict {
    Verdict::Refuse("a TLS ClientHello that cannot be read".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(server_name: &str, with_name: bool) -> Vec<u8> {
        let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.enable_sni = with_name;
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn in_pieces(name: &str, bytes: &[u8], size: usize) -> Verdict {
        let mut inspector = Inspector::new(name);
        let mut verdicts = bytes.chunks(size).map(|piece| inspector.inspect(piece));
        verdicts.find(|verdict| *verdict != Verdict::Wait).unwrap_or(Verdict::Wait)
    }

    /// The same message in records of `size` bytes each.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&hello[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
        hello[5..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn the_server_name_must_be_the_name_however_it_is_cut() {
        let bytes = hello("a.example", true);
        for size in [1, 2, 5, 6, 100, 10_000] {
            assert_eq!(in_pieces("a.example", &bytes, size), Verdict::Pass, "in pieces of {size}");
            assert!(matches!(in_pieces("b.example", &bytes, size), Verdict::Refuse(_)), "in pieces of {size}");
            let records = in_records(&bytes, size);
            assert_eq!(in_pieces("a.example", &records, 1000), Verdict::Pass, "in records of {size}");
            assert!(matches!(in_pieces("b.example", &records, 1000), Verdict::Refuse(_)), "in records of {size}");
        }
        let Verdict::Refuse(reason) = in_pieces("b.example", &bytes, 10_000) else { panic!("it passed") };
        assert_eq!(reason, "the TLS server name a.example is not the name b.example that was connected to");
    }

    #[test]
    fn a_hello_without_a_name_does_not_lie() {
        assert_eq!(in_pieces("a.example", &hello("a.example", false), 10_000), Verdict::Pass);
    }

    #[test]
    fn what_is_not_tls_passes_with_its_first_byte_that_shows_it() {
        assert_eq!(Inspector::new("a.example").inspect(b"G"), Verdict::Pass);
        assert_eq!(in_pieces("a.example", b"\x16\x02", 1), Verdict::Pass);
        assert_eq!(Inspector::new("a.example").inspect(b"\x16"), Verdict::Wait);
        assert_eq!(Inspector::new("a.example").inspect(b""), Verdict::Wait);
    }

    #[test]
    fn an_endless_hello_ends() {
        let mut bytes = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
        bytes.resize(2 * MAX_HELLO_BYTES, 3);
        assert!(matches!(in_pieces("a.example", &bytes, 1000), Verdict::Refuse(_)));
    }

    proptest! {
        #[test]
        fn a_damaged_hello_of_another_name_never_passes(at in 2usize..500, bits in 1u8.., size in 1usize..600) {
            let mut bytes = hello("other-server.example", true);
            let at = at % bytes.len();
            bytes[at] ^= bits;
            if at > 1 && in_pieces("a.example", &bytes, size) == Verdict::Pass {
                // Only if the name is no longer an extension a server would find.
                let mut acceptor = Acceptor::default();
                acceptor.read_tls(&mut &bytes[..]).unwrap();
                let accepted = acceptor.accept().unwrap().unwrap();
                prop_assert!(accepted.client_hello().server_name().is_none());
            }
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), size in 1usize..100) {
            in_pieces("a.example", &bytes, size);
            in_pieces("a.example", &[&[22, 3, 1, 0, 200, 1, 0, 0, 196][..], &bytes].concat(), size);
        }
    }
}
