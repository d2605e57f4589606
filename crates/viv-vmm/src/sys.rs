//! The crate's only unsafe code: one ioctl, one processor instruction, one call between fork and exec.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `KVM_GET_API_VERSION`, `_IO(0xAE, 0x00)` (linux/kvm.h).
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;

/// The KVM API's version; 12 since 2007.
pub(crate) fn kvm_api_version(kvm: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 { Err(io::Error::last_os_error()) } else { Ok(version) }
}

/// Whether the processor can run guests by itself: VMX (leaf 1, ECX bit 5) on Intel, SVM (leaf
/// 0x8000_0001, ECX bit 2) on AMD. A host may show a /dev/kvm that does without, in which QEMU's
/// machines do not run.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_virtualisation() -> bool {
    use core::arch::x86_64::__cpuid;
    let vmx = __cpuid(1).ecx & (1 << 5) != 0;
    let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    vmx || svm
}

/// The processor's time-stamp counter.
#[cfg(target_arch = "x86_64")]
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and it has no memory effects. A host that forbids
    // it to user space (PR_TSC_SIGSEGV) forbids it to QEMU as well.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Makes the command's process die with the thread that starts it, whatever kills that.
pub fn die_with_parent(command: &mut tokio::process::Command) {
    let parent = std::process::id();
    let in_child = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the request took hold.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and only makes the calls above.
    unsafe { command.pre_exec(in_child) };
}
