//! Addresses that stand for names.
//!
//! A program asks for a name, gets an address of this pool and connects to it; the address leads back to
//! the name, which is all that the host is told.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many names have an address at once.
pub const MAX_NAMES: usize = 65_536;

/// How long an answer may be used by whoever asked.
pub const ANSWER_TTL: Duration = Duration::from_secs(60);

/// How long an address is kept for its name after it was last asked for: programs look at the clock when
/// they get around to it.
const KEPT: Duration = Duration::from_secs(2 * ANSWER_TTL.as_secs());

/// 198.19.0.0/16: half of what is set aside for tests of devices between networks (RFC 2544), and so
/// reaches nothing on any network.
const V4: [u8; 2] = [198, 19];

/// fd76:6976:6e61:6d65::/64, a unique local prefix (RFC 4193). The address's last two bytes count.
const V6: [u16; 4] = [0xfd76, 0x6976, 0x6e61, 0x6d65];

/// Where an address of the pool leads.
#[derive(Debug)]
pub enum Place {
    /// To a name.
    Name(InUse),
    /// Nowhere: no name has it.
    Nowhere,
    /// It is not of this pool.
    Elsewhere,
}

/// Names and their addresses.
#[derive(Default)]
struct Names {
    /// By the numbers in their addresses.
    entries: Vec<Entry>,
    by_name: HashMap<Arc<str>, u16>,
    /// Where the search for one that is not needed any more goes on.
    hand: usize,
}

struct Entry {
    name: Arc<str>,
    asked: Instant,
    connections: u32,
    /// Used since the hand was here last.
    used: bool,
}

/// A bounded set of names with addresses; cheap to clone, all clones are the same set.
#[derive(Clone, Default)]
pub struct Pool(Arc<Mutex<Names>>);

impl Pool {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a name, in lower case. `None` if there are too many names in use.
    pub fn number(&self, name: &str, now: Instant) -> Option<u16> {
        self.names().number(name, now)
    }

    /// Where an address leads. Its name keeps the address until the value returned is dropped.
    pub fn place(&self, address: IpAddr) -> Place {
        let Some(number) = number_of(address) else { return Place::Elsewhere };
        let mut names = self.names();
        let Some(entry) = names.entries.get_mut(usize::from(number)) else { return Place::Nowhere };
        entry.connections += 1;
        entry.used = true;
        Place::Name(InUse { pool: self.clone(), number, name: Arc::clone(&entry.name) })
    }

    /// The name an address stands for.
    pub fn name(&self, address: IpAddr) -> Option<Arc<str>> {
        let number = usize::from(number_of(address)?);
        self.names().entries.get(number).map(|entry| Arc::clone(&entry.name))
    }
}

impl Names {
    fn number(&mut self, name: &str, now: Instant) -> Option<u16> {
        if let Some(&number) = self.by_name.get(name) {
            let entry = &mut self.entries[usize::from(number)];
            (entry.asked, entry.used) = (now, true);
            return Some(number);
        }
        let entry = Entry { name: name.into(), asked: now, connections: 0, used: true };
        let number = if self.entries.len() < MAX_NAMES { self.entries.len() } else { self.dispensable(now)? };
        let known = u16::try_from(number).ok()?;
        self.by_name.insert(Arc::clone(&entry.name), known);
        match self.entries.get_mut(number) {
            Some(place) => {
                let former = std::mem::replace(place, entry);
                self.by_name.remove(&former.name);
            }
            None => self.entries.push(entry),
        }
        Some(known)
    }

    /// An entry that nobody needs: the clock algorithm, which is nearly the least recently used one.
    fn dispensable(&mut self, now: Instant) -> Option<usize> {
        for _ in 0..2 * self.entries.len() {
            let at = self.hand;
            self.hand = (at + 1) % self.entries.len();
            let entry = &mut self.entries[at];
            if entry.connections > 0 || now.saturating_duration_since(entry.asked) < KEPT {
                continue;
            }
            if !std::mem::take(&mut entry.used) {
                return Some(at);
            }
        }
        None
    }
}

/// A name whose address is in use.
pub struct InUse {
    pool: Pool,
    number: u16,
    name: Arc<str>,
}

impl std::fmt::Debug for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.name.fmt(f)
    }
}

impl InUse {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(entry) = self.pool.names().entries.get_mut(usize::from(self.number)) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

/// The IPv4 address with a number.
#[must_use]
pub fn v4(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(V4[0], V4[1], high, low)
}

/// The IPv6 address with a number.
#[must_use]
pub fn v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(V6[0], V6[1], V6[2], V6[3], 0, 0, 0, number)
}

fn number_of(address: IpAddr) -> Option<u16> {
    match address {
        IpAddr::V4(address) => {
            let [a, b, high, low] = address.octets();
            ([a, b] == V4).then(|| u16::from_be_bytes([high, low]))
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, zeros @ .., number] = address.segments();
            ([a, b, c, d] == V6 && zeros == [0; 3]).then_some(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_of_a_name_lead_back_to_it() {
        let pool = Pool::default();
        let now = Instant::now();
        let first = pool.number("example.com", now).unwrap();
        let second = pool.number("example.org", now).unwrap();
        assert_ne!(first, second);
        assert_eq!(pool.number("example.com", now), Some(first));
        for address in [IpAddr::V4(v4(second)), IpAddr::V6(v6(second))] {
            assert_eq!(pool.name(address).as_deref(), Some("example.org"));
            assert!(matches!(pool.place(address), Place::Name(name) if name.name() == "example.org"));
        }
        assert!(matches!(pool.place(v4(77).into()), Place::Nowhere));
        for address in ["198.18.0.1", "8.8.8.8", "fd76:6976:6e61:6d65::1:0", "::1"] {
            assert!(matches!(pool.place(address.parse().unwrap()), Place::Elsewhere), "{address}");
        }
    }

    #[test]
    fn an_address_in_use_is_not_given_to_another_name() {
        let pool = Pool::default();
        let now = Instant::now();
        let numbers: Vec<u16> = (0..MAX_NAMES).map(|n| pool.number(&format!("n{n}"), now).unwrap()).collect();
        assert_eq!(pool.number("one-more", now), None, "every answer is fresh");
        let later = now + KEPT;
        let held = pool.place(v4(numbers[0]).into());
        for name in 0..MAX_NAMES - 1 {
            assert_ne!(pool.number(&format!("later{name}"), later), Some(numbers[0]));
        }
        assert_eq!(pool.number("one-more", later), None);
        assert_eq!(pool.name(v4(numbers[0]).into()).as_deref(), Some("n0"));
        drop(held);
        assert_eq!(pool.number("one-more", later), Some(numbers[0]));
        assert_eq!(pool.names().by_name.len(), MAX_NAMES);
    }
}
