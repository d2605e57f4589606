//! The machines of this host, through their monitors.

use std::time::Duration;

use super::life::Machines;
use crate::error::io;
use crate::{Paths, Record, Result, client};

/// Between looks, where there is nothing to wait for but a change.
const MOMENT: Duration = Duration::from_millis(50);

pub(super) struct Host<'a> {
    pub(super) paths: &'a Paths,
}

impl Machines for Host<'_> {
    fn live(&self) -> Result<Vec<Record>> {
        crate::list(self.paths)
    }

    fn boot_id(&self) -> Result<String> {
        boot_id()
    }

    async fn stop(&self, record: &Record) -> Result<()> {
        client::stop(self.paths, record).await
    }

    async fn kill(&self, record: &Record) -> Result<()> {
        client::kill(self.paths, record).await
    }

    async fn pause(&self, record: &Record) -> Result<()> {
        client::pause(self.paths, record).await
    }

    async fn resume(&self, record: &Record) -> Result<()> {
        client::resume(self.paths, record).await
    }

    async fn ended(&self, record: &Record) -> Result<()> {
        client::ended(self.paths, record).await
    }

    async fn moment(&self) {
        tokio::time::sleep(MOMENT).await;
    }
}

/// Changes with each boot of the host (random(4)).
pub(crate) fn boot_id() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    Ok(text.map_err(io("the host does not say which boot this is"))?.trim().to_owned())
}
