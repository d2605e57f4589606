//! One attempt to bring a machine up: restored from a template, or booted.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use viv_link::Link;
use viv_proto::handshake::{FIRST_TOKEN, Token};
use viv_proto::message::{Configure, Configured, NetworkWay, kind};
use viv_proto::{CONTROL_PORT, ProtocolError};
use viv_vmm::LinkCarrier;

use super::children::{Children, LINK_SOCKET, MachineState, Machinery};
use super::clock;
use super::egress::HostPorts;
use super::link::{self, Carrier};
use super::network_device::NetworkDevice;
use crate::error::adopt;
use crate::exec::ask;
use crate::named;
use crate::plan::StartPlan;
use crate::registry::RunDirectory;
use crate::spec::random_bytes;
use crate::template::{Opened, Store};
use crate::wire::{HostMark, StartLine, Way};
use crate::{Error, ErrorKind, Plan, Result, TemplateUse};

/// How often a machine is booted that gets stuck each time: at the worst that was seen, where the host had
/// the machine wait for most of its boot, half of the boots did.
pub(crate) const MOST_BOOTS: usize = 8;

/// Where a machine comes from.
pub(super) enum Source {
    Template(Opened),
    Cold {
        reason: String,
        make_template: bool,
    },
    /// It is up.
    Spare,
}

impl Source {
    /// The best there is for a plan.
    pub(super) fn choose(plan: &Plan, store: &Store) -> Self {
        match &plan.start {
            StartPlan::Cold { reason } => Self::Cold { reason: reason.clone(), make_template: false },
            StartPlan::Template(template) => match store.open(template) {
                Ok(opened) => Self::Template(opened),
                Err(miss) => {
                    let make_template = miss.make && plan.spec.template == TemplateUse::Auto;
                    Self::Cold { reason: miss.reason, make_template }
                }
            },
        }
    }

    pub(super) fn way(&self, plan: &Plan) -> Way {
        match (self, &plan.start) {
            (Self::Cold { reason, make_template }, _) => {
                Way::Cold { reason: reason.clone(), make_template: *make_template }
            }
            (Self::Template(_), start) => Way::Template { key: start.key().to_owned() },
            (Self::Spare, start) => Way::Spare { key: start.key().to_owned() },
        }
    }
}

/// A machine that was started, and who keeps its link.
pub(crate) struct Attempt {
    pub(crate) children: Children,
    /// What the guest has to say that it was prepared as.
    template: Option<String>,
    /// Whether that was asked for already.
    restored: bool,
    keeper: JoinHandle<()>,
    /// Breaks the link on purpose.
    pub(super) cut: mpsc::Sender<()>,
    /// Why the guest cannot be spoken to.
    pub(super) refused: mpsc::Receiver<ProtocolError>,
}

impl Attempt {
    /// Starts everything for a sandbox; nothing of it has been heard of yet.
    pub(super) fn start(
        plan: &Plan,
        state: &Path,
        source: Source,
        run: &RunDirectory,
        publish: watch::Sender<Option<Link>>,
        ports: HostPorts,
    ) -> Result<Self> {
        let (vmm, scratch, machine, template, token) = match (source, &plan.start) {
            (Source::Template(Opened { id, token, memory, devices, scratch }), StartPlan::Template(template)) => {
                let scratch = viv_image::clone_disk(&scratch, state).map_err(adopt)?;
                (&template.restore, scratch, MachineState::Saved { memory, devices }, Some(id), token)
            }
            _ => {
                let scratch = match &plan.spec.persistent_disk {
                    Some(disk) => named::open_kept(disk)?,
                    None => viv_image::clone_scratch(&plan.scratch, state).map_err(adopt)?,
                };
                (&plan.vmm, scratch, MachineState::Fresh, None, FIRST_TOKEN)
            }
        };
        let machinery = Machinery {
            vmm,
            file_daemon: &plan.file_daemon,
            shares: Some(&plan.shares),
            link: plan.link,
            key: &random_bytes(),
            scratch,
            memory_mib: plan.spec.memory_mib,
            network: NetworkDevice::open(&plan.spec, state)?,
            state: machine,
            sockets: &|name| run.socket_path(name),
        };
        Self::launch(machinery, template, token, publish, ports)
    }

    /// Starts a machine, which will say that it is `template` if it is restored from one, and keeps its
    /// link, whose first session begins with `token`; `ports` are what it finds on the host.
    pub(crate) fn launch(
        machinery: Machinery<'_>,
        template: Option<String>,
        token: Token,
        publish: watch::Sender<Option<Link>>,
        ports: HostPorts,
    ) -> Result<Self> {
        let carrier = match machinery.link {
            LinkCarrier::VirtioSerial => Carrier::Socket((machinery.sockets)(LINK_SOCKET)),
            LinkCarrier::Vsock { cid } => Carrier::Vsock { cid, key: *machinery.key },
        };
        let children = Children::start(machinery)?;
        let (cut, cuts) = mpsc::channel(1);
        let (refuse, refused) = mpsc::channel(1);
        let keeper = tokio::spawn(link::keep(carrier, token, ports, publish, cuts, refuse));
        Ok(Self { children, template, restored: false, keeper, cut, refused })
    }

    /// Has the machine restored, if that is where it comes from and has not been done.
    pub(crate) fn restoration(&mut self) -> impl Future<Output = Result<()>> + use<> {
        let restored = (self.template.is_some() && !self.restored).then(|| self.children.machine.restore());
        self.restored = true;
        async move {
            match restored {
                Some(restored) => restored.await.map_err(adopt),
                None => Ok(()),
            }
        }
    }

    /// Whether it is restored, so that a cold start may do better.
    pub(super) fn is_restored(&self) -> bool {
        self.template.is_some()
    }

    /// What makes a guest that answers on `link` the sandbox.
    pub(super) fn configuration(
        &mut self,
        first: &StartLine,
        link: watch::Receiver<Option<Link>>,
    ) -> impl Future<Output = Result<(Configured, Vec<HostMark>)>> + use<> {
        let shares_are_ready = self.children.shares_are_ready();
        let template = self.template.clone();
        let mut request = request(first);
        if let Some(device) = self.children.network_device() {
            request.network.way = NetworkWay::Device(device.clone());
        }
        let restored = self.restoration();
        async move {
            restored.await?;
            configure(link, shares_are_ready, request, template).await
        }
    }

    /// Ends it, and everything that belongs to it.
    pub(crate) async fn end(&mut self) {
        self.keeper.abort();
        self.children.end().await;
    }
}

fn request(first: &StartLine) -> Configure {
    let spec = &first.plan.spec;
    Configure {
        hostname: spec.hostname.clone(),
        wall_clock_ns: 0,
        entropy: hex::encode(random_bytes::<32>()),
        machine_id: hex::encode(random_bytes::<16>()),
        timezone: spec.timezone.clone(),
        user: spec.user.clone(),
        shares: first.plan.guest_shares.clone(),
        workspace: spec.workspace.to_str().map(str::to_owned),
        network: spec.network.guest(),
        environment: [&spec.environment, &spec.network.environment]
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        files: [&spec.files, &spec.network.files].into_iter().flatten().cloned().collect(),
        certificates: spec.network.certificates().map(|(_, inside)| inside.destination),
    }
}

async fn configure(
    mut current: watch::Receiver<Option<Link>>,
    mut shares_are_ready: watch::Receiver<bool>,
    mut request: Configure,
    template: Option<String>,
) -> Result<(Configured, Vec<HostMark>)> {
    let ended = || Error::new(ErrorKind::Monitor, "what belongs to the sandbox ended");
    let link = current.wait_for(Option::is_some).await.ok().and_then(|link| link.clone()).ok_or_else(ended)?;
    let mut marks = vec![HostMark::now("link")];
    let mut stream = link.open(CONTROL_PORT).await.map_err(guest_is_silent)?;
    marks.push(HostMark::now("control port"));
    shares_are_ready.wait_for(|ready| *ready).await.map_err(|_| ended())?;
    marks.push(HostMark::now("shares"));
    request.wall_clock_ns = u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX);
    let (answer, _) = ask(&mut stream, kind::CONFIGURE, &request).await?;
    let answered = clock::now();
    let configured: Configured = answer
        .payload_as()
        .map_err(|error| Error::new(ErrorKind::Guest, "the guest broke the protocol").source(error))?;
    marks.push(HostMark::now("configured"));
    if configured.template != template {
        return Err(Error::new(ErrorKind::Guest, "the guest is not the one that was saved"));
    }
    // The guest set its clock by the request, which was under way for as long as it is now behind.
    let guest = Duration::from_nanos(configured.wall_clock_ns);
    if answered.saturating_sub(guest) > clock::TOLERANCE || guest > answered {
        clock::set_right(&link).await?;
        marks.push(HostMark::now("clock"));
    }
    Ok((configured, marks))
}

pub(crate) fn guest_is_silent(error: viv_link::LinkError) -> Error {
    Error::new(ErrorKind::Guest, "the guest's control port cannot be reached").source(error)
}
