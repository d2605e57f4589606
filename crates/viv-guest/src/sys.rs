//! What has no safe wrapper: starting a process without copying this one, a few ioctls, vsock sockets,
//! bpf(2), datagrams with both their ends. All of the crate's `unsafe` is here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{Gid, Uid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A process to start: everything is prepared, since the child may not allocate.
pub struct Command {
    /// The file to execute, absolute or relative to `directory`.
    pub program: CString,
    /// The arguments, the program's name first.
    pub arguments: Vec<CString>,
    /// `NAME=value`.
    pub environment: Vec<CString>,
    /// Where it starts; entered with its credentials.
    pub directory: CString,
    /// `None` to keep those of this process.
    pub credentials: Option<Credentials>,
    /// Its descriptors 0, 1 and 2. All numbered above 2 in this process.
    pub stdio: [OwnedFd; 3],
    /// Whether descriptor 0 becomes its controlling terminal.
    pub terminal: bool,
}

/// How far starting a process got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// Session, descriptors, credentials.
    Prepare,
    /// Entering the directory.
    Directory,
    /// Executing the program.
    Execute,
}

/// The signals this process handles or ignores, which the child must not inherit.
const HANDLED_SIGNALS: [c_int; 5] = [libc::SIGCHLD, libc::SIGINT, libc::SIGTERM, libc::SIGPWR, libc::SIGPIPE];

const CHILD_STACK_BYTES: usize = 64 * 1024;

/// What the child reads and where it leaves its failure; it shares this memory.
struct Shared<'a> {
    command: &'a Command,
    arguments: Vec<*const c_char>,
    script_arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    groups: Vec<Gid>,
    failure: Option<(Step, Errno)>,
}

/// Starts a process in a session of its own, with an empty signal mask and umask 022.
///
/// A file the kernel has no loader for is run by `/bin/sh`, as shells do. This thread waits until
/// the program is being executed or has failed to be.
///
/// # Errors
/// The step that failed, and why. The child is then already reaped.
pub fn spawn(command: &Command) -> Result<Pid, (Step, Errno)> {
    if command.stdio.iter().any(|descriptor| descriptor.as_raw_fd() <= 2) {
        // The child puts them in place one after the other and would overwrite the next.
        return Err((Step::Prepare, Errno::BADF));
    }
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let arguments = pointers(&command.arguments);
    let mut script_arguments = vec![c"/bin/sh".as_ptr(), command.program.as_ptr()];
    script_arguments.extend(arguments.iter().skip(1));
    if arguments.len() <= 1 {
        script_arguments.push(ptr::null());
    }
    let groups = command.credentials.iter().flat_map(|credentials| &credentials.groups);
    let mut shared = Shared {
        command,
        arguments,
        script_arguments,
        environment: pointers(&command.environment),
        groups: groups.map(|&group| Gid::from_raw(group)).collect(),
        failure: None,
    };
    let mut stack = vec![0u128; CHILD_STACK_BYTES / mem::size_of::<u128>()];
    let stack_top = stack.as_mut_ptr_range().end;
    // SAFETY: the sets are plain data initialised by sigfillset and pthread_sigmask. With every
    // signal blocked none of this process's handlers runs in the child, which shares its memory.
    // The stack is aligned, larger than what the child uses, and outlives it: with CLONE_VFORK this
    // call returns only once the child has executed a program or exited. `shared` is not touched by
    // this thread meanwhile, and `child` makes system calls only.
    let pid = unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::clone(
            child,
            stack_top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            ptr::from_mut(&mut shared).cast(),
        );
        let error = Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 { Err((Step::Prepare, error)) } else { Ok(pid) }
    }?;
    let pid = Pid::from_raw(pid).ok_or((Step::Prepare, Errno::AGAIN))?;
    match shared.failure {
        None => Ok(pid),
        Some(failure) => {
            // It has exited or is about to; whoever reaps in general is kept out by the caller.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(failure)
        }
    }
}

/// The child's side of [`spawn`].
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Shared`, and does not touch it while this runs.
    let shared = unsafe { &mut *argument.cast::<Shared<'_>>() };
    let failure = match prepare(shared) {
        Err(failure) => failure,
        Ok(()) => {
            // SAFETY: the arrays end in null and their strings outlive this call.
            unsafe {
                let program = shared.command.program.as_ptr();
                libc::execve(program, shared.arguments.as_ptr(), shared.environment.as_ptr());
                let mut error = io::Error::last_os_error();
                if error.raw_os_error() == Some(libc::ENOEXEC) {
                    libc::execve(c"/bin/sh".as_ptr(), shared.script_arguments.as_ptr(), shared.environment.as_ptr());
                    error = io::Error::last_os_error();
                }
                (Step::Execute, Errno::from_io_error(&error).unwrap_or(Errno::NOEXEC))
            }
        }
    };
    shared.failure = Some(failure);
    // SAFETY: ends the child without running what belongs to the parent.
    unsafe { libc::_exit(127) }
}

/// Everything before the program is executed. System calls only: memory belongs to the parent.
fn prepare(shared: &Shared<'_>) -> Result<(), (Step, Errno)> {
    let command = shared.command;
    let at = |step| move |error| (step, error);
    for signal in HANDLED_SIGNALS {
        // SAFETY: sets a default action; handlers are not shared with the parent.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    rustix::process::setsid().map_err(at(Step::Prepare))?;
    rustix::stdio::dup2_stdin(&command.stdio[0]).map_err(at(Step::Prepare))?;
    rustix::stdio::dup2_stdout(&command.stdio[1]).map_err(at(Step::Prepare))?;
    rustix::stdio::dup2_stderr(&command.stdio[2]).map_err(at(Step::Prepare))?;
    if command.terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(at(Step::Prepare))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if let Some(credentials) = &command.credentials {
        let (uid, gid) = (Uid::from_raw(credentials.uid), Gid::from_raw(credentials.gid));
        rustix::thread::set_thread_groups(&shared.groups).map_err(at(Step::Prepare))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at(Step::Prepare))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at(Step::Prepare))?;
    }
    rustix::process::chdir(command.directory.as_c_str()).map_err(at(Step::Directory))?;
    // SAFETY: an empty set is plain data; the child's handlers are at their defaults by now.
    unsafe {
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
    Ok(())
}

/// A descriptor whose readiness the runtime tells.
///
/// # Errors
/// If it is of a kind that has none, such as a plain file.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always gives the same open descriptor, and its owner from here on, the
    // value returned, gives it away only after it has taken it out of the runtime again.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sends any signal to a process (`pid` above 0), a process group (below -1) or everyone but the
/// caller (-1). Signal 0 only asks whether someone is there.
///
/// # Errors
/// As kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes two numbers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// The session a process belongs to: 0 for the kernel's own, -1 if it is gone.
#[must_use]
pub fn session_of(pid: i32) -> i32 {
    // SAFETY: takes a number.
    unsafe { libc::getsid(pid) }
}

/// Adds random bytes to the kernel's generator, counts them as entropy, and uses them at once.
///
/// # Errors
/// As the ioctls RNDADDENTROPY and RNDRESEEDCRNG.
pub fn add_entropy(device: BorrowedFd<'_>, bytes: &[u8; 32]) -> io::Result<()> {
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: c_int,
        size: c_int,
        bytes: [u8; 32],
    }
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    let info = PoolInfo { entropy_bits: 256, size: 32, bytes: *bytes };
    // SAFETY: the kernel reads a struct rand_pool_info with `size` bytes after its header.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) }).map(drop)
}

/// Brings a network interface up.
///
/// # Errors
/// As the ioctl SIOCSIFFLAGS; `InvalidInput` for a name that is too long.
pub fn interface_up(name: &CStr) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an ifreq is plain data, valid when zero.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let bytes = name.to_bytes_with_nul();
    if bytes.len() > request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (target, &byte) in request.ifr_name.iter_mut().zip(bytes) {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads an ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

/// A nonblocking socket that listens on a vsock port of every address.
///
/// # Errors
/// If the kernel has no vsock, or the port is taken.
pub fn vsock_listen(port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers.
    let raw = check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
    // SAFETY: a descriptor just made, owned by no one else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: a sockaddr_vm is plain data, valid when zero.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_ANY;
    address.svm_port = port;
    let length = mem::size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address is a sockaddr_vm of the length given.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: takes numbers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 64) })?;
    Ok(socket)
}

/// Accepts a connection, nonblocking, and says which context it comes from.
///
/// # Errors
/// As accept4(2); `WouldBlock` if no one waits.
pub fn vsock_accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, u32)> {
    // SAFETY: a sockaddr_vm is plain data, valid when zero.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the kernel writes at most `length` bytes of address.
    let raw = check(unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut address).cast(), &raw mut length, flags) })?;
    // SAFETY: a descriptor just made, owned by no one else.
    Ok((unsafe { OwnedFd::from_raw_fd(raw) }, address.svm_cid))
}

/// A number of bpf(2).
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
enum BpfCommand {
    MapCreate = 0,
    MapUpdate = 2,
    MapDelete = 3,
    ProgramLoad = 5,
    LinkCreate = 28,
}

/// The type BPF_MAP_TYPE_HASH.
pub const BPF_MAP_HASH: u32 = 1;

/// The type BPF_MAP_TYPE_SOCKMAP.
pub const BPF_MAP_SOCKETS: u32 = 15;

/// BPF_PROG_TYPE_SK_LOOKUP, and where its programs are attached (BPF_SK_LOOKUP).
const BPF_SOCKET_LOOKUP: (u32, u32) = (30, 36);

/// # Safety
/// `attribute` is what the kernel reads for the command, and pointers in it are to what they say.
unsafe fn bpf<T>(command: BpfCommand, attribute: &T) -> io::Result<c_int> {
    // SAFETY: the caller's; the kernel reads `size` bytes, and takes what is missing for zero.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as c_int, ptr::from_ref(attribute), mem::size_of::<T>() as libc::c_uint)
    };
    check(c_int::try_from(result).unwrap_or(-1))
}

/// # Safety
/// As [`bpf`]; the command answers a descriptor.
unsafe fn bpf_descriptor<T>(command: BpfCommand, attribute: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let raw = unsafe { bpf(command, attribute) }?;
    // SAFETY: a descriptor just made, owned by no one else; bpf(2) sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A map of BPF with keys of `K` bytes and values of `V`.
pub struct BpfMap<const K: usize, const V: usize>(OwnedFd);

#[repr(C)]
struct BpfElement {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl<const K: usize, const V: usize> BpfMap<K, V> {
    /// Makes one of a kind ([`BPF_MAP_HASH`], [`BPF_MAP_SOCKETS`]) with room for so many entries.
    ///
    /// # Errors
    /// As bpf(2): `PermissionDenied` without CAP_BPF, ENOSYS in a kernel without it.
    pub fn new(kind: u32, entries: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Attribute([u32; 5]);
        let attribute = Attribute([kind, K as u32, V as u32, entries, 0]);
        // SAFETY: the first five members of the kernel's structure, all numbers.
        unsafe { bpf_descriptor(BpfCommand::MapCreate, &attribute) }.map(Self)
    }

    fn element(&self, key: &[u8; K], value: u64) -> BpfElement {
        BpfElement { map: self.number(), unused: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }

    /// What a program names it by when it is loaded.
    pub fn number(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }

    /// Puts an entry in, in place of the one with this key.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn put(&self, key: &[u8; K], value: &[u8; V]) -> io::Result<()> {
        // SAFETY: the kernel reads as many bytes of key and value as the map was made for: K and V.
        unsafe { bpf(BpfCommand::MapUpdate, &self.element(key, value.as_ptr() as u64)) }.map(drop)
    }

    /// Takes an entry out.
    ///
    /// # Errors
    /// As bpf(2); `NotFound` if it is not there.
    pub fn remove(&self, key: &[u8; K]) -> io::Result<()> {
        // SAFETY: the kernel reads as many bytes of the key as the map was made for: K.
        unsafe { bpf(BpfCommand::MapDelete, &self.element(key, 0)) }.map(drop)
    }
}

/// Loads a program that chooses the socket of a new connection or a datagram, and lets it choose in a
/// network namespace (`/proc/self/ns/net`, open) until the descriptor returned is closed.
///
/// # Errors
/// As bpf(2): `InvalidInput` or `PermissionDenied` for a program its verifier does not take.
pub fn bpf_choose_sockets(program: &[u64], namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_bytes: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_to: u32,
    }
    #[repr(C)]
    struct Attach([u32; 4]);
    let (kind, attach_to) = BPF_SOCKET_LOOKUP;
    let load = Load {
        kind,
        instructions: u32::try_from(program.len()).unwrap_or(u32::MAX),
        program: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: *b"viv_capture\0\0\0\0\0",
        attach_to,
        ..Load::default()
    };
    // SAFETY: the beginning of the kernel's structure; program and licence outlive the call.
    let program = unsafe { bpf_descriptor(BpfCommand::ProgramLoad, &load) }?;
    let descriptor = |fd: c_int| fd.cast_unsigned();
    let attach = Attach([descriptor(program.as_raw_fd()), descriptor(namespace.as_raw_fd()), attach_to, 0]);
    // SAFETY: the beginning of the kernel's structure, all numbers.
    unsafe { bpf_descriptor(BpfCommand::LinkCreate, &attach) }
}

fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<()> {
    let on: c_int = 1;
    let length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the kernel reads an int.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), length) }).map(drop)
}

/// Lets an IPv6 socket that takes IPv4 too answer from whatever address it was addressed by.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_ADMIN.
pub fn answer_from_any_address(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Of linux/in6.h; it counts for both families.
    const IPV6_TRANSPARENT: c_int = 75;
    set_option(socket, libc::SOL_IPV6, IPV6_TRANSPARENT)
}

/// Has [`receive`] tell where datagrams were sent to.
///
/// # Errors
/// As setsockopt(2).
pub fn tell_destinations(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO)
}

/// A datagram's ends.
#[derive(Clone, Copy)]
pub struct Ends {
    peer: libc::sockaddr_in6,
    own: libc::in6_pktinfo,
}

const CONTROL_WORDS: usize = 16;

/// Receives a datagram of an IPv6 socket that [tells destinations](tell_destinations).
///
/// # Errors
/// As recvmsg(2); `InvalidData` if the kernel does not tell.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Ends)> {
    // SAFETY: plain data, valid when zero.
    let (mut peer, mut message): (libc::sockaddr_in6, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut control = [0u64; CONTROL_WORDS];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut peer).cast();
    message.msg_namelen = mem::size_of_val(&peer) as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: the kernel writes into what the message names, no more than the lengths given.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the control buffer, which is aligned as its headers are.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: a header within the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if (level, kind) == (libc::SOL_IPV6, libc::IPV6_PKTINFO) {
            // SAFETY: what follows a header of this kind is an in6_pktinfo.
            let own = unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>()) };
            return Ok((read, Ends { peer, own }));
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Answers a datagram, from where it was sent to.
///
/// # Errors
/// As sendmsg(2).
pub fn answer(socket: BorrowedFd<'_>, mut ends: Ends, bytes: &[u8]) -> io::Result<()> {
    // The answer goes by its own route: back to a container's bridge, say.
    ends.own.ipi6_ifindex = 0;
    // SAFETY: plain data, valid when zero.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    let mut control = [0u64; CONTROL_WORDS];
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let size = mem::size_of::<libc::in6_pktinfo>() as libc::c_uint;
    message.msg_name = (&raw mut ends.peer).cast();
    message.msg_namelen = mem::size_of_val(&ends.peer) as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: arithmetic on a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
    // SAFETY: the buffer has room for one header and an in6_pktinfo, and is aligned for them; the kernel
    // only reads what the message names.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_IPV6;
        (*header).cmsg_type = libc::IPV6_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), ends.own);
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
