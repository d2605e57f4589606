//! The daemon's own seccomp program, on top of the list of allowed system calls that virtiofsd brings.
//!
//! virtiofsd's list knows numbers only. This one looks at arguments: a daemon taken over by its guest can neither
//! start or signal a process, nor enter namespaces of its own, nor make what must not appear in a share. Calls it
//! refuses fail with EPERM. It is a second line: the first is [`crate::share_fs`].

use libc::sock_filter;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// What an argument must look like for the call to pass.
struct Rule {
    call: libc::c_long,
    /// Which argument, from 0; its lower 32 bits count.
    argument: u32,
    mask: u32,
    equals: u32,
}

/// The rules, with who needs the call at all.
fn rules(process: u32) -> Vec<Rule> {
    let set_user_id = libc::S_ISUID;
    let set_either_id = libc::S_ISUID | libc::S_ISGID;
    // The bit that character devices, block devices and symbolic links share, unlike all other types.
    let device = libc::S_IFCHR;
    let rule = |call, argument, mask, equals| Rule { call, argument, mask, equals };
    vec![
        // Rust's threads: the queue worker and the thread pool. Processes are made without this flag.
        rule(libc::SYS_clone, 0, libc::CLONE_THREAD as u32, libc::CLONE_THREAD as u32),
        // The thread pool gives each thread a working directory of its own. Anything else makes namespaces.
        rule(libc::SYS_unshare, 0, !(libc::CLONE_FS as u32), 0),
        // abort() signals the calling thread.
        rule(libc::SYS_tgkill, 0, u32::MAX, process),
        // chmod in the guest. The set-group-id bit of directories may be kept, see `share_fs`.
        rule(libc::SYS_fchmod, 1, set_user_id, 0),
        rule(libc::SYS_fchmodat, 2, set_user_id, 0),
        rule(libc::SYS_mkdirat, 2, set_either_id, 0),
        // mkfifo, bind and plain files in the guest.
        rule(libc::SYS_mknodat, 2, set_either_id | device, 0),
    ]
}

/// The program for a process of this id.
pub(crate) fn program(process: u32) -> Vec<sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const NUMBER_OFFSET: u32 = 0;
    const ARCHITECTURE_OFFSET: u32 = 4;
    const ARGUMENTS_OFFSET: u32 = 16;
    let op = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let refuse = |errno: i32| op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32);

    let mut program = vec![
        op(LOAD, 0, 0, ARCHITECTURE_OFFSET),
        op(IF_EQUAL, 1, 0, ARCHITECTURE),
        op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, 0, 0, NUMBER_OFFSET),
        // The flags of clone3 are in memory, out of a filter's sight: the C library falls back to clone.
        op(IF_EQUAL, 0, 1, libc::SYS_clone3 as u32),
        refuse(libc::ENOSYS),
        // Superseded by tgkill, which a process id can be checked in.
        op(IF_EQUAL, 0, 1, libc::SYS_tkill as u32),
        refuse(libc::EPERM),
    ];
    for rule in rules(process) {
        program.extend([
            op(IF_EQUAL, 0, 5, rule.call as u32),
            op(LOAD, 0, 0, ARGUMENTS_OFFSET + rule.argument * 8),
            op(AND, 0, 0, rule.mask),
            op(IF_EQUAL, 1, 0, rule.equals),
            refuse(libc::EPERM),
            op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]);
    }
    program.push(op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: u32 = 4321;

    /// What the kernel would make of a call.
    fn run(architecture: u32, call: libc::c_long, arguments: &[u64]) -> u32 {
        let program = program(PROCESS);
        let load = |offset: u32| match offset {
            0 => call as u32,
            4 => architecture,
            offset => arguments.get((offset as usize - 16) / 8).copied().unwrap_or(0) as u32,
        };
        let (mut accumulator, mut next) = (0, 0);
        loop {
            let op = &program[next];
            next += 1;
            match u32::from(op.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => accumulator = load(op.k),
                code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= op.k,
                code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    next += usize::from(if accumulator == op.k { op.jt } else { op.jf });
                }
                code if code == libc::BPF_RET | libc::BPF_K => return op.k,
                code => panic!("{code:#x}"),
            }
        }
    }

    fn allowed(call: libc::c_long, arguments: &[u64]) -> bool {
        match run(ARCHITECTURE, call, arguments) {
            libc::SECCOMP_RET_ALLOW => true,
            result if result & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO => false,
            result => panic!("{result:#x}"),
        }
    }

    #[test]
    fn what_the_daemon_does_passes_and_its_neighbour_does_not() {
        let thread = (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_THREAD) as u64;
        let regular = u64::from(libc::S_IFREG | 0o644);
        // A call, the arguments the daemon uses, and those it must not.
        let cases: &[(libc::c_long, &[u64], &[u64])] = &[
            (libc::SYS_clone, &[thread], &[libc::SIGCHLD as u64]),
            (libc::SYS_clone, &[thread], &[libc::CLONE_NEWUSER as u64]),
            (libc::SYS_unshare, &[libc::CLONE_FS as u64], &[libc::CLONE_NEWUSER as u64]),
            (libc::SYS_unshare, &[libc::CLONE_FS as u64], &[(libc::CLONE_FS | libc::CLONE_NEWNS) as u64]),
            (libc::SYS_tgkill, &[u64::from(PROCESS), 1, 6], &[1, 1, 9]),
            (libc::SYS_fchmod, &[3, 0o2755], &[3, 0o4755]),
            (libc::SYS_fchmodat, &[3, 0, 0o2755], &[3, 0, 0o4755]),
            (libc::SYS_mkdirat, &[3, 0, 0o1777], &[3, 0, 0o2777]),
            (libc::SYS_mknodat, &[3, 0, regular], &[3, 0, u64::from(libc::S_IFCHR | 0o644)]),
            (libc::SYS_mknodat, &[3, 0, u64::from(libc::S_IFIFO)], &[3, 0, u64::from(libc::S_IFBLK)]),
            (libc::SYS_mknodat, &[3, 0, u64::from(libc::S_IFSOCK)], &[3, 0, regular | 0o4000]),
        ];
        for (call, good, bad) in cases {
            assert!(allowed(*call, good), "{call} {good:?}");
            assert!(!allowed(*call, bad), "{call} {bad:?}");
        }
        assert!(allowed(libc::SYS_read, &[0, 0, 0]));
        assert!(!allowed(libc::SYS_tkill, &[1, 9]));
        assert_eq!(run(ARCHITECTURE, libc::SYS_clone3, &[]), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    }

    #[test]
    fn calls_of_another_architecture_kill() {
        assert_eq!(run(0x4000_0003, libc::SYS_read, &[]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn every_rule_decides_something() {
        for rule in rules(PROCESS) {
            let argument = |value: u32| {
                let mut arguments = [0; 6];
                arguments[rule.argument as usize] = u64::from(value);
                arguments
            };
            assert!(allowed(rule.call, &argument(rule.equals)), "{}", rule.call);
            assert!(!allowed(rule.call, &argument(rule.equals ^ rule.mask)), "{}", rule.call);
        }
    }
}
