//! A guest without a machine: starts the daemon, speaks vhost-user with it and writes FUSE requests byte by byte, so
//! that it can send what no guest's kernel would.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use viv_shares::{FileDaemonSpec, ShareSpec, shares_line};
use vmm_sys_util::eventfd::EventFd;

/// Set in the environment of the process that becomes the daemon.
pub const DAEMON_VARIABLE: &str = "VIV_SHARES_TEST_DAEMON";
/// Also set there: the limit of open files to begin with.
pub const OPEN_FILES_VARIABLE: &str = "VIV_SHARES_TEST_OPEN_FILES";

/// Who runs the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Current,
    /// An ordinary user, if root runs the tests.
    Ordinary,
}

/// The ids of the ordinary user; nobody in particular.
pub const ORDINARY: u32 = 54_321;

/// What every daemon is told first.
pub const SPEC: FileDaemonSpec = FileDaemonSpec { guest_uid: 1000, guest_gid: 1001, thread_pool: 0 };

/// A daemon, and the socket on which it listens.
pub struct Daemon {
    pub child: Child,
    /// Where it is told; closed when it has been told all.
    input: Option<UnixStream>,
    ready: BufReader<File>,
    socket: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Daemon {
    /// Starts a daemon and tells it its shares.
    pub fn start(shares: &[ShareSpec], user: User, open_files: Option<u64>) -> Self {
        let mut daemon = Self::begin(user, open_files);
        daemon.say(&(SPEC.line() + &shares_line(shares).unwrap()));
        daemon.hush();
        daemon
    }

    /// Starts a daemon and tells it nothing yet.
    pub fn begin(user: User, open_files: Option<u64>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("fs.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (ready, ready_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (input, input_reader) = UnixStream::pair().unwrap();
        let mut command = Command::new("/proc/self/exe");
        command
            .env(DAEMON_VARIABLE, "1")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::from(ready_writer))
            .stderr(Stdio::from(OwnedFd::from(input_reader)));
        if let Some(limit) = open_files {
            command.env(OPEN_FILES_VARIABLE, limit.to_string());
        }
        if user == User::Ordinary {
            command.uid(ORDINARY).gid(ORDINARY);
        }
        let child = command.spawn().unwrap();
        // The command holds the write end of the pipe: without it, the line ends with the daemon.
        drop(command);
        let ready = BufReader::new(File::from(ready));
        Self { child, input: Some(input), ready, socket, _directory: directory }
    }

    /// Writes to its input.
    pub fn say(&mut self, text: &str) {
        // A daemon that has failed by now says why elsewhere.
        let _ = self.input.as_mut().unwrap().write_all(text.as_bytes());
    }

    /// Ends its input.
    pub fn hush(&mut self) {
        self.input = None;
    }

    /// Waits for the line that says how the start went.
    pub fn ready(&mut self) -> Result<(), viv_error::Report> {
        let mut line = String::new();
        self.ready.read_line(&mut line).unwrap();
        viv_shares::parse_ready(&line)
    }
}

/// The processes that process `id` has started, by name, as descriptors that tell of their end.
pub fn children_of(id: u32) -> Vec<(String, OwnedFd)> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let Ok(child) = entry.unwrap().file_name().to_string_lossy().parse() else { continue };
        // Processes of others come and go.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{child}/status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        if field("PPid:") == id.to_string() {
            let process = pidfd_open(Pid::from_raw(child).unwrap(), PidfdFlags::empty()).unwrap();
            children.push((field("Name:").to_owned(), process));
        }
    }
    children
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MEMORY_BYTES: u64 = 4 << 20;
const QUEUE_SIZE: u16 = 16;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Where the rings of the queue nobody uses are, relative to those of the other.
const SECOND: u64 = 0x8000;
const REQUEST: u64 = 0x1_0000;
const RESPONSE: u64 = 0x10_0000;
const RESPONSE_BYTES: u32 = 0x10_1000;

/// A guest, connected to its daemon and initialised.
pub struct Guest {
    pub daemon: Daemon,
    memory: File,
    frontend: Frontend,
    kick: EventFd,
    call: EventFd,
    sent: u16,
    unique: u64,
}

/// What the daemon answers: an errno, or the bytes after the header.
pub type Answer = Result<Vec<u8>, i32>;

impl Guest {
    pub fn connect(mut daemon: Daemon) -> Self {
        assert_eq!(daemon.ready(), Ok(()), "the daemon is not ready");
        let mut guest = Self::attach(daemon);
        guest.mount();
        guest
    }

    /// Connects, whether the daemon is ready or not.
    pub fn attach(daemon: Daemon) -> Self {
        let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        memory.set_len(MEMORY_BYTES).unwrap();
        let mut frontend = Frontend::from_stream(UnixStream::connect(&daemon.socket).unwrap(), 2);
        let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        let exited = pidfd_open(Pid::from_child(&daemon.child), PidfdFlags::empty()).unwrap();
        let wake = call.try_clone().unwrap();
        std::thread::spawn(move || {
            poll(&mut [PollFd::new(&exited, PollFlags::IN)], None).unwrap();
            wake.write(1).unwrap();
        });

        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        let wanted = (1 << 32) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        assert_eq!(offered & wanted, wanted);
        frontend.set_features(wanted).unwrap();
        frontend.get_protocol_features().unwrap();
        let features = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::DEVICE_STATE;
        frontend.set_protocol_features(features).unwrap();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES,
            userspace_addr: 0,
            mmap_offset: 0,
            mmap_handle: memory.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        for (queue, offset) in [(0, SECOND), (1, 0)] {
            let rings = VringConfigData {
                queue_max_size: QUEUE_SIZE,
                queue_size: QUEUE_SIZE,
                flags: 0,
                desc_table_addr: DESCRIPTORS + offset,
                used_ring_addr: USED + offset,
                avail_ring_addr: AVAILABLE + offset,
                log_addr: None,
            };
            frontend.set_vring_num(queue, QUEUE_SIZE).unwrap();
            frontend.set_vring_addr(queue, &rings).unwrap();
            frontend.set_vring_base(queue, 0).unwrap();
            frontend.set_vring_call(queue, &call).unwrap();
            frontend.set_vring_kick(queue, &kick.try_clone().unwrap()).unwrap();
            frontend.set_vring_enable(queue, queue == 1).unwrap();
        }
        Self { daemon, memory, frontend, kick, call, sent: 0, unique: 0 }
    }

    /// Hangs up, as a VMM that ends does; how the daemon ended then.
    pub fn disconnect(self) -> std::process::ExitStatus {
        let Self { mut daemon, frontend, .. } = self;
        drop(frontend);
        daemon.child.wait().unwrap()
    }

    /// Moves the state of the device, as a VMM does that is saved or restored.
    pub fn transfer(&self, direction: VhostTransferStateDirection, file: OwnedFd) {
        self.frontend.set_device_state_fd(direction, VhostTransferStatePhase::STOPPED, file).unwrap();
        self.frontend.check_device_state().unwrap();
    }

    /// What a guest's kernel asks first when it mounts the device.
    pub fn mount(&mut self) {
        const SUBMOUNTS: u32 = 1 << 27;
        let body: Vec<u8> = [7_u32, 38, 0x2_0000, SUBMOUNTS].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.request(26, 0, &[&body]).unwrap();
    }

    /// Sends one request and waits for the answer. Panics if the daemon dies instead.
    pub fn request(&mut self, opcode: u32, node: u64, parts: &[&[u8]]) -> Answer {
        self.unique += 1;
        let length = 40 + parts.iter().map(|part| part.len()).sum::<usize>() as u32;
        let mut message = Vec::new();
        message.extend(length.to_le_bytes());
        message.extend(opcode.to_le_bytes());
        message.extend(self.unique.to_le_bytes());
        message.extend(node.to_le_bytes());
        // The caller: user 1234, group 1234, process 1.
        message.extend([1234_u32, 1234, 1, 0].iter().flat_map(|word| word.to_le_bytes()));
        parts.iter().for_each(|part| message.extend_from_slice(part));

        self.memory.write_all_at(&message, REQUEST).unwrap();
        self.describe(0, REQUEST, length, 1, 1);
        self.describe(1, RESPONSE, RESPONSE_BYTES, 2, 0);
        self.memory.write_all_at(&0_u16.to_le_bytes(), AVAILABLE + 4 + u64::from(self.sent % QUEUE_SIZE) * 2).unwrap();
        self.sent = self.sent.wrapping_add(1);
        self.memory.write_all_at(&self.sent.to_le_bytes(), AVAILABLE + 2).unwrap();
        self.kick.write(1).unwrap();
        while u16::from_le_bytes(self.read(USED + 2)) != self.sent {
            // Also written to when the daemon ends, see `connect`.
            self.call.read().unwrap();
            if let Some(status) = self.daemon.child.try_wait().unwrap() {
                panic!("the daemon died: {status}");
            }
        }
        let length = u32::from_le_bytes(self.read(RESPONSE)) as usize;
        let error = i32::from_le_bytes(self.read(RESPONSE + 4));
        if error != 0 {
            return Err(-error);
        }
        let mut body = vec![0; length.saturating_sub(16)];
        self.memory.read_exact_at(&mut body, RESPONSE + 16).unwrap();
        Ok(body)
    }

    fn describe(&self, index: u64, address: u64, length: u32, flags: u16, next: u16) {
        let mut descriptor = Vec::new();
        descriptor.extend(address.to_le_bytes());
        descriptor.extend(length.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend(next.to_le_bytes());
        self.memory.write_all_at(&descriptor, DESCRIPTORS + index * 16).unwrap();
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, address).unwrap();
        bytes
    }

    /// A name as a request has it.
    pub fn name(name: &str) -> Vec<u8> {
        [name.as_bytes(), b"\0"].concat()
    }

    /// Looks a name up; the node, or `ENOENT`.
    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<Node, i32> {
        let node = Node::parse(&self.request(1, parent, &[&Self::name(name)])?);
        if node.id == 0 { Err(libc::ENOENT) } else { Ok(node) }
    }

    /// Looks up each component of a path from the root of the device.
    pub fn walk(&mut self, path: &str) -> Result<Node, i32> {
        let mut node = Node { id: 1, ..Node::default() };
        for name in path.split('/') {
            node = self.lookup(node.id, name)?;
        }
        Ok(node)
    }

    pub fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Result<Node, i32> {
        self.request(9, parent, &[&words(&[mode, 0]), &Self::name(name)]).map(|body| Node::parse(&body))
    }

    pub fn mknod(&mut self, parent: u64, name: &str, mode: u32, device: u32) -> Result<Node, i32> {
        self.request(8, parent, &[&words(&[mode, device, 0, 0]), &Self::name(name)]).map(|body| Node::parse(&body))
    }

    /// Creates and opens a file: the node and the handle.
    pub fn create(&mut self, parent: u64, name: &str, flags: i32, mode: u32) -> Result<(Node, u64), i32> {
        let body = self.request(35, parent, &[&words(&[flags as u32, mode, 0, 0]), &Self::name(name)])?;
        Ok((Node::parse(&body), number(&body, 128)))
    }

    /// Opens a file: the handle, and whether the guest may keep what it has cached.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<(u64, bool), i32> {
        let body = self.request(14, node, &[&words(&[flags as u32, 0])])?;
        Ok((number(&body, 0), number(&body, 8) & 2 != 0))
    }

    pub fn release(&mut self, node: u64, handle: u64) -> Answer {
        self.request(18, node, &[&handle.to_le_bytes(), &[0; 16]])
    }

    pub fn write(&mut self, node: u64, handle: u64, bytes: &[u8]) -> Answer {
        let body = [&handle.to_le_bytes()[..], &[0; 8], &words(&[bytes.len() as u32, 0]), &[0; 16]].concat();
        self.request(16, node, &[&body, bytes])
    }

    pub fn read_file(&mut self, node: u64, handle: u64, size: u32) -> Answer {
        self.request(15, node, &[&handle.to_le_bytes(), &[0; 8], &words(&[size, 0]), &[0; 16]])
    }

    pub fn getattr(&mut self, node: u64) -> Result<Node, i32> {
        self.request(3, node, &[&[0; 16]]).map(|body| Node::parse_attributes(node, &body[16..]))
    }

    /// Changes what `valid` says of mode, owner and size.
    pub fn setattr(&mut self, node: u64, valid: u32, mode: u32, owner: u32, size: u64) -> Result<Node, i32> {
        let mut body = vec![0; 88];
        body[0..4].copy_from_slice(&valid.to_le_bytes());
        body[16..24].copy_from_slice(&size.to_le_bytes());
        body[68..72].copy_from_slice(&mode.to_le_bytes());
        body[76..80].copy_from_slice(&owner.to_le_bytes());
        body[80..84].copy_from_slice(&owner.to_le_bytes());
        self.request(4, node, &[&body]).map(|body| Node::parse_attributes(node, &body[16..]))
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Answer {
        let head = [&to.0.to_le_bytes()[..], &words(&[flags, 0])].concat();
        self.request(45, from.0, &[&head, &Self::name(from.1), &Self::name(to.1)])
    }

    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Answer {
        self.request(6, parent, &[&Self::name(name), &Self::name(target)])
    }

    pub fn link(&mut self, node: u64, parent: u64, name: &str) -> Answer {
        self.request(13, parent, &[&node.to_le_bytes(), &Self::name(name)])
    }

    pub fn unlink(&mut self, parent: u64, name: &str) -> Answer {
        self.request(10, parent, &[&Self::name(name)])
    }

    pub fn rmdir(&mut self, parent: u64, name: &str) -> Answer {
        self.request(11, parent, &[&Self::name(name)])
    }
}

/// What an answer says about a file.
#[derive(Debug, Default, Clone, Copy)]
pub struct Node {
    pub id: u64,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub submount: bool,
}

impl Node {
    fn parse(body: &[u8]) -> Self {
        Self::parse_attributes(number(body, 0), &body[40..])
    }

    fn parse_attributes(id: u64, attributes: &[u8]) -> Self {
        let word = |offset| number(attributes, offset) as u32;
        Self {
            id,
            size: number(attributes, 8),
            mode: word(60),
            uid: word(68),
            gid: word(72),
            submount: u32::from_le_bytes(attributes[84..88].try_into().unwrap()) & 1 != 0,
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn number(body: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(body[offset..offset + 8].try_into().unwrap())
}
