//! Names to addresses, by the host's own resolver.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;

/// A resolver that has not answered by then has failed.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long an answer is used. getaddrinfo(3) does not say how long it holds, so not for long.
const FRESH: Duration = Duration::from_secs(10);

/// How long it is believed that there is no such name, or that the resolver does not work.
const FRESH_WITHOUT: Duration = Duration::from_secs(1);

/// Names remembered.
const REMEMBERED: usize = 1024;

/// Lookups under way, each of which occupies a thread.
pub(super) const LOOKUPS: usize = 16;

/// The addresses of one name that are used.
const ADDRESSES: usize = 16;

/// What a resolver says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Its addresses, the best first, at least one.
    Addresses(Vec<IpAddr>),
    /// There is no such name, or it has no address.
    Unknown,
    /// It could not be found out; why.
    Failed(String),
}

/// Something that knows the addresses of names.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up a name in its normal form. Who asks has a deadline of its own.
    fn resolve(&self, name: String) -> BoxFuture<'static, Resolution>;
}

/// What programs of the host use: getaddrinfo(3), with its hosts file, its search domains and its name services.
pub struct HostResolver {
    threads: Arc<Semaphore>,
}

impl Default for HostResolver {
    fn default() -> Self {
        Self { threads: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

impl Resolve for HostResolver {
    fn resolve(&self, name: String) -> BoxFuture<'static, Resolution> {
        let threads = Arc::clone(&self.threads);
        async move {
            let Ok(thread) = threads.acquire_owned().await else { return Resolution::Failed("no thread".into()) };
            let lookup = move || {
                // Held by the thread itself: who asked may have given up long before.
                let _thread = thread;
                look_up(&name)
            };
            tokio::task::spawn_blocking(lookup).await.unwrap_or_else(|error| Resolution::Failed(error.to_string()))
        }
        .boxed()
    }
}

fn look_up(name: &str) -> Resolution {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    match dns_lookup::getaddrinfo(Some(name), None, Some(hints)) {
        Ok(found) => {
            let mut addresses = Vec::new();
            for entry in found.flatten() {
                let address = entry.sockaddr.ip().to_canonical();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() { Resolution::Unknown } else { Resolution::Addresses(addresses) }
        }
        Err(error) => match error.kind() {
            LookupErrorKind::NoName | LookupErrorKind::NoData => Resolution::Unknown,
            _ => Resolution::Failed(std::io::Error::from(error).to_string()),
        },
    }
}

type Lookup = Shared<BoxFuture<'static, (Resolution, Instant)>>;

/// A resolver that is asked for a name once, however many want to know.
pub(super) struct Names {
    resolver: Arc<dyn Resolve>,
    lookups: Mutex<HashMap<String, (Lookup, Instant)>>,
}

impl Names {
    pub(super) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, lookups: Mutex::default() }
    }

    /// The addresses of a name, within five seconds.
    pub(super) async fn resolve(&self, name: &str) -> Resolution {
        let lookup = self.lookup(name);
        lookup.await.0
    }

    fn lookup(&self, name: &str) -> Lookup {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((lookup, begun)) = lookups.get(name)
            && is_fresh(lookup, *begun)
        {
            return lookup.clone();
        }
        if lookups.len() >= REMEMBERED {
            lookups.retain(|_, (lookup, begun)| is_fresh(lookup, *begun));
            if lookups.len() >= REMEMBERED {
                lookups.clear();
            }
        }
        let answer = tokio::time::timeout(DEADLINE, self.resolver.resolve(name.to_owned()));
        let lookup = async move {
            let mut resolution = answer.await.unwrap_or_else(|_| {
                Resolution::Failed(format!("the host's resolver did not answer within {} s", DEADLINE.as_secs()))
            });
            if let Resolution::Addresses(addresses) = &mut resolution {
                addresses.truncate(ADDRESSES);
            }
            (resolution, Instant::now())
        };
        let lookup = lookup.boxed().shared();
        lookups.insert(name.to_owned(), (lookup.clone(), Instant::now()));
        lookup
    }
}

fn is_fresh(lookup: &Lookup, begun: Instant) -> bool {
    match lookup.peek() {
        Some((Resolution::Addresses(_), at)) => at.elapsed() < FRESH,
        Some((_, at)) => at.elapsed() < FRESH_WITHOUT,
        // Under way, unless everyone who waited for it has gone.
        None => begun.elapsed() < DEADLINE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is asked; knows only `known.example`, and answers nothing for `stalled.example`.
    struct Counting(AtomicUsize);

    impl Resolve for Counting {
        fn resolve(&self, name: String) -> BoxFuture<'static, Resolution> {
            self.0.fetch_add(1, Ordering::Relaxed);
            async move {
                match name.as_str() {
                    "known.example" => Resolution::Addresses(vec![IpAddr::from([203, 0, 113, 1])]),
                    "stalled.example" => std::future::pending().await,
                    _ => Resolution::Unknown,
                }
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn many_askers_are_one_lookup() {
        let counting = Arc::new(Counting(AtomicUsize::new(0)));
        let names = Names::new(Arc::clone(&counting) as Arc<dyn Resolve>);
        let answers = futures::future::join_all((0..100).map(|_| names.resolve("known.example"))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Resolution::Addresses(_))));
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        for number in 0..5000 {
            assert_eq!(names.resolve(&format!("host{number}.example")).await, Resolution::Unknown);
        }
        assert!(names.lookups.lock().unwrap().len() <= REMEMBERED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_resolver_has_failed_after_its_deadline() {
        let names = Names::new(Arc::new(Counting(AtomicUsize::new(0))));
        let Resolution::Failed(reason) = names.resolve("stalled.example").await else { panic!("it answered") };
        assert_eq!(reason, "the host's resolver did not answer within 5 s");
    }

    #[test]
    fn the_host_knows_itself_and_not_what_cannot_be() {
        let Resolution::Addresses(addresses) = look_up("localhost") else { panic!("no localhost") };
        assert!(addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        // RFC 6761, section 6.4. Without a resolver the host cannot know it.
        assert!(!matches!(look_up("nothing.invalid"), Resolution::Addresses(_)));
    }
}
