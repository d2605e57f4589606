//! Clones of one template are different machines to whoever looks.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{Host, finish};

const CLONES: usize = 50;

/// What a clock may be off by.
const CLOCK: Duration = Duration::from_millis(10);

/// Says everything that tells machines apart, as JSON. Root also learns from where the kernel counts
/// TCP's sequence numbers: for one address and one key that only depends on the time, of which there
/// are 2^32 values, one for each 64 ns.
const PROBE: &str = r#"
import ctypes, json, os, random, socket, struct, subprocess, time, uuid
libc = ctypes.CDLL(None)
def read(path):
    with open(path, 'rb') as file: return file.read().decode().strip()
def output(*command): return subprocess.check_output(command, text=True).strip()
def from_libc(fill, *more):
    buffer = ctypes.create_string_buffer(32)
    fill(buffer, 32, *more)
    return buffer.raw.hex()
def at_random():
    with open('/proc/self/auxv', 'rb') as file: pairs = list(struct.iter_unpack('QQ', file.read()))
    return ctypes.string_at(dict(pairs)[25], 16).hex()
def sequence():
    listener = socket.create_server(('127.0.0.1', 40000))
    client = socket.socket()
    client.bind(('127.0.0.1', 40001))
    before = time.time_ns()
    client.connect(('127.0.0.1', 40000))
    client.setsockopt(socket.IPPROTO_TCP, 19, 1)
    client.setsockopt(socket.IPPROTO_TCP, 20, 2)
    return (client.getsockopt(socket.IPPROTO_TCP, 21) - (before >> 6)) % 2**32
clock = time.time_ns()
with open('/dev/urandom', 'rb') as file: urandom = file.read(32).hex()
output('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', '/tmp/key')
print(json.dumps({
    'urandom': urandom,
    'getrandom, the system call': os.getrandom(32).hex(),
    'getrandom, the library': from_libc(libc.getrandom, 0),
    'arc4random': from_libc(libc.arc4random_buf),
    'uuid of the kernel': read('/proc/sys/kernel/random/uuid'),
    'uuid of the library': str(uuid.uuid4()),
    'uuid of time and node': str(uuid.uuid1()),
    'node': uuid.getnode(),
    'boot id': read('/proc/sys/kernel/random/boot_id'),
    'machine id': read('/etc/machine-id'),
    'host name': socket.gethostname(),
    'AT_RANDOM': at_random(),
    'stack': next(line for line in read('/proc/self/maps').splitlines() if '[stack]' in line).split()[0],
    'hash seed': hash('x'),
    'random': random.random(),
    'temporary name': output('mktemp', '--dry-run'),
    'shell': output('bash', '-c', 'echo $SRANDOM $SRANDOM'),
    'ssh key': read('/tmp/key.pub'),
    '/etc/hostname': read('/etc/hostname'),
    '/etc/hosts': read('/etc/hosts'),
    'clock': clock,
    'sequence': sequence() if os.getuid() == 0 else None,
}))
"#;

/// What may be the same, or has to be.
const NOT_COMPARED: [&str; 3] = ["/etc/hosts", "clock", "sequence"];

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Starts a clone and returns what it says of itself, having checked what it should.
fn probe(host: &Host, number: usize) -> BTreeMap<String, Value> {
    let name = format!("clone-{number}");
    let mut options = vec!["run", "--verbose", "--name", &name];
    if number.is_multiple_of(2) {
        options.push("--root");
    }
    options.extend(["--", "python3", "probe.py"]);
    let before = now();
    let ran = finish(host.viv(&options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let after = now();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.is_from_template(), "{ran:?}");
    let seen: BTreeMap<String, Value> = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!([&seen["host name"], &seen["/etc/hostname"]], [name.as_str(); 2], "{seen:?}");
    assert!(seen["/etc/hosts"].as_str().unwrap().contains(&format!("127.0.1.1\t{name}\n")), "{seen:?}");
    // As close as this tells; `clock` looks closer.
    let clock = Duration::from_nanos(seen["clock"].as_u64().unwrap());
    assert!(before < clock + CLOCK && clock < after + CLOCK, "{clock:?} is not between {before:?} and {after:?}");
    seen
}

#[test]
fn fifty_clones_have_nothing_in_common_that_should_be_unique() {
    let Some(host) = Host::ordinary() else { return };
    host.write("probe.py", PROBE);
    let next = AtomicUsize::new(0);
    let clones: Vec<BTreeMap<String, Value>> = std::thread::scope(|scope| {
        let work = || {
            let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            numbers.take_while(|number| *number < CLONES).map(|number| probe(&host, number)).collect::<Vec<_>>()
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(clones.len(), CLONES);
    for what in clones[0].keys().filter(|what| !NOT_COMPARED.contains(&what.as_str())) {
        let values: Vec<String> = clones.iter().map(|clone| clone[what].to_string()).collect();
        let different: BTreeSet<&String> = values.iter().collect();
        assert_eq!(different.len(), CLONES, "{what}: {values:?}");
    }

    // Clones that counted from the same place would all lie within the time the test's readings are
    // unsure by; others lie anywhere. A window is a 64th of the circle, 4 s.
    let mut sequences: Vec<u64> = clones.iter().filter_map(|clone| clone["sequence"].as_u64()).collect();
    assert_eq!(sequences.len(), CLONES / 2);
    sequences.sort_unstable();
    let within = |from: u64| sequences.iter().filter(|at| (*at + (1 << 32) - from) % (1 << 32) < 1 << 26).count();
    let most = sequences.iter().map(|from| within(*from)).max().unwrap();
    assert!(most < CLONES / 4, "{most} of {} count from about the same place: {sequences:?}", sequences.len());
    host.assert_nothing_is_left();
}
