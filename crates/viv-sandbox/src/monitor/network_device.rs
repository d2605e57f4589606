//! What stands behind a sandbox's network device: passt and the guard before it, or a port of a bridge.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use command_fds::FdMapping;
use tokio::process::{Child, Command};
use viv_net::device::bridge::{self, Membership};
use viv_net::device::find_program;
use viv_net::device::guard::Guard;
use viv_net::device::nat::Nat;
use viv_proto::message;
use viv_vmm::Tail;

use crate::error::{adopt, io};
use crate::process::start_child;
use crate::{Error, ErrorKind, NetworkMode, Result, SandboxSpec, nic, sys};

/// passt's end of its socket, in its process.
const PASST_SOCKET: i32 = 3;

/// How many of passt's last lines an error shows.
const LINES: usize = 6;

/// What belongs to a network device as long as its machine lives.
pub(crate) struct NetworkDevice {
    description: message::NetworkDevice,
    backend: Backend,
}

enum Backend {
    /// passt ends when its socket closes, which it does when the guard or this process ends.
    Nat {
        passt: Child,
        words: Tail,
        _guard: Guard,
    },
    Bridge(Membership),
}

impl NetworkDevice {
    /// Makes what a sandbox's network device needs, and what the VMM gets of it; nothing if it has none.
    /// `state` is viv's state directory.
    pub(super) fn open(spec: &SandboxSpec, state: &Path) -> Result<Option<(Self, OwnedFd)>> {
        let sandbox = nic::on_bridge(spec);
        match &spec.network.mode {
            NetworkMode::None | NetworkMode::Filtered { .. } => Ok(None),
            NetworkMode::Nat => {
                let nat = Nat::probe().map_err(adopt)?;
                let (vmm, backend) = start_passt(&nat)?;
                Ok(Some((Self { description: nat.guest(&sandbox.mac()), backend }, vmm)))
            }
            NetworkMode::Bridge { bridge } => {
                let (membership, tap) = bridge::join(bridge, state, sandbox, sys::open_tap).map_err(adopt)?;
                let description = membership.device().clone();
                Ok(Some((Self { description, backend: Backend::Bridge(membership) }, tap)))
            }
        }
    }

    /// What the guest is told of it.
    pub(super) fn description(&self) -> &message::NetworkDevice {
        &self.description
    }

    /// Resolves when it is lost, to why. Cancel-safe.
    pub(super) async fn trouble(&mut self) -> Error {
        let Backend::Nat { passt, words, .. } = &mut self.backend else { return std::future::pending().await };
        let how = match passt.wait().await {
            Ok(status) => format!("passt ended with {status}"),
            Err(error) => format!("passt cannot be waited for: {error}"),
        };
        let lines = words.lines(LINES);
        let lost = Error::new(ErrorKind::NetworkLost, "the sandbox's network device was lost");
        lost.source(std::iter::once(how).chain(lines).collect::<Vec<_>>().join("\n"))
    }

    /// Ends it, after the machine.
    pub(super) async fn end(self) {
        match self.backend {
            // It can only fail if the process has ended already.
            Backend::Nat { mut passt, .. } => drop(passt.kill().await),
            // The next sandbox on this bridge does what was not done here.
            Backend::Bridge(membership) => drop(membership.leave()),
        }
    }
}

/// Starts passt behind a guard; returns the VMM's end.
///
/// As root, passt becomes `nobody`, and the kernel then forgets to kill it with its parent. The end of
/// its socket ends it all the same.
fn start_passt(nat: &Nat) -> Result<(OwnedFd, Backend)> {
    let failed = || io("passt could not be started");
    let program = find_program("passt").map_err(adopt)?;
    let (passt_end, guard_to_passt) = UnixStream::pair().map_err(failed())?;
    let (vmm_end, guard_to_vmm) = UnixStream::pair().map_err(failed())?;
    let mut command = Command::new(program);
    command.args(nat.arguments(PASST_SOCKET)).env_clear();
    let socket = FdMapping { parent_fd: passt_end.into(), child_fd: PASST_SOCKET };
    let (passt, words) = start_child(command, vec![socket], "passt could not be started")?;
    let guard = Guard::start(guard_to_vmm, guard_to_passt).map_err(failed())?;
    Ok((vmm_end.into(), Backend::Nat { passt, words, _guard: guard }))
}
