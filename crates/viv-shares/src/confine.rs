//! Takes away from the process what serving files does not need.

use rustix::process::{Resource, Rlimit, Signal, getpid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::filter;
use crate::sys;

/// The capabilities the daemon keeps. They are those of root of its own user namespace: over files of the host user,
/// or of everybody if that is root.
///
/// - `DAC_OVERRIDE`: the guest's kernel has checked permissions before it asks; its root may write a read-only file.
/// - `FOWNER`: chmod and utimes on files of others, if the host user is root.
///
/// Absent, though virtiofsd keeps them by default: `CHOWN`, `SETUID`, `SETGID` (owners never change, see
/// [`crate::share_fs`]), `MKNOD`, `SETFCAP`, and `FSETID`, without which the kernel itself clears set-user-id and
/// set-group-id bits of every file that is written to.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::FOWNER);

/// Drops capabilities for good and forbids gaining any.
pub(crate) fn drop_capabilities() -> Result<()> {
    let failed = || "cannot drop the capabilities of the file daemon".to_owned();
    set_no_new_privs(true).context(ErrorKind::Confinement, failed)?;
    clear_ambient_capability_set().context(ErrorKind::Confinement, failed)?;
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        // A kernel older than this list does not know them all.
        match remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(Error::new(ErrorKind::Confinement, failed()).source(std::io::Error::from(errno))),
        }
    }
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context(ErrorKind::Confinement, failed)
}

/// Keeps the daemon small, the guest's data out of core dumps, the daemon alive when the host user's file size limit is reached, and the
/// table of processes free of the helper once it has ended: nobody waits for it.
pub(crate) fn limit_side_effects() -> Result<()> {
    let failed = || "cannot limit the file daemon".to_owned();
    sys::share_one_heap();
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context(ErrorKind::Confinement, failed)?;
    sys::ignore(Signal::XFSZ).and_then(|()| sys::ignore(Signal::CHILD)).context(ErrorKind::Confinement, failed)
}

/// Allows only the system calls that serving files needs. A call that is not on virtiofsd's list kills the process;
/// one that is, with arguments nobody needs, fails.
pub(crate) fn filter_system_calls() -> Result<()> {
    let failed = || "cannot filter the system calls of the file daemon".to_owned();
    // First the program of our own: loading it takes a call that is not on the list.
    sys::install_filter(&filter::program(getpid().as_raw_nonzero().get().unsigned_abs()))
        .context(ErrorKind::Confinement, failed)?;
    enable_seccomp(SeccompAction::Kill, false)
        .map_err(|error| Error::new(ErrorKind::Confinement, failed()).source(error))
}
