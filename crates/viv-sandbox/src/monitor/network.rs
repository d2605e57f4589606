//! What a monitor does for its sandbox's network, beside the machine.

use std::fs::File;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::egress::{Egress, HostPorts};
use super::server::Guest;
use super::{names, publish};
use crate::error::io;
use crate::network::make_logs;
use crate::registry::RunDirectory;
use crate::wire::StartLine;
use crate::{Publish, Result};

/// What goes on as long as the sandbox lives.
pub(super) struct Network {
    guest: Guest,
    tasks: JoinSet<()>,
    egress: Option<JoinHandle<()>>,
    ending: watch::Sender<bool>,
}

impl Network {
    /// Opens the guest's way to its egress, if it is to have one; says where its ports are shown.
    pub(super) async fn open(
        first: &StartLine,
        run: &RunDirectory,
        ports: &HostPorts,
        guest: Guest,
    ) -> Result<(Self, Vec<Publish>)> {
        let spec = &first.plan.spec;
        let mut network = Self { guest, tasks: JoinSet::new(), egress: None, ending: watch::channel(false).0 };
        if let Some(egress) = spec.network.egress(&spec.id, &first.paths.state) {
            make_logs(&egress, spec.name.as_deref())?;
            let keys = first.keys.as_ref().map(File::open).transpose().map_err(io("the keys cannot be taken over"))?;
            let environment = first.environment.clone();
            let egress = Egress::prepare(&egress, keys, environment, run, ports)?;
            network.egress = Some(tokio::spawn(egress.keep(network.ending.subscribe())));
        }
        if let (Some(port), Some(_)) = (spec.network.names_port, &spec.name) {
            network.tasks.spawn(names::serve(first.paths.clone(), port.get()));
        }
        let mut published = Vec::new();
        for wanted in &spec.network.publish {
            published.push(network.publish(*wanted).await?);
        }
        Ok((network, published))
    }

    /// Ends the egress, and waits until it writes no more.
    pub(super) async fn end(&mut self) {
        self.ending.send_replace(true);
        if let Some(egress) = self.egress.take() {
            // A task that panicked has let go of its child, which is killed then.
            let _ = egress.await;
        }
    }

    /// Shows a port of the guest; returns where.
    pub(super) async fn publish(&mut self, wanted: Publish) -> Result<Publish> {
        let (address, serving) = publish::publish(self.guest.clone(), wanted).await?;
        self.tasks.spawn(serving);
        Ok(Publish { address, ..wanted })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(egress) = &self.egress {
            egress.abort();
        }
    }
}
