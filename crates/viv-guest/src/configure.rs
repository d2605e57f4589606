//! `prepare` and `configure`: what makes a booted guest a template, and then this sandbox.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use viv_proto::message::{Configure, Configured, User};

use crate::error::{Context, Result};
use crate::file_share::Keeper;
use crate::kept::{Found, Prepared};
use crate::layers::Layers;
use crate::network::Network;
use crate::secrets::Secrets;
use crate::{boot, console, files, identity, kept, shares, trace};

/// What has to be remembered of a configured sandbox.
pub struct Sandbox {
    /// The ordinary user.
    pub user: User,
    /// The environment of every program.
    pub environment: BTreeMap<String, String>,
    /// What it keeps secret.
    pub secrets: Secrets,
    to_sync: Vec<PathBuf>,
    keeper: Option<Keeper>,
}

impl Sandbox {
    /// Brings file shares in step with what programs wrote.
    pub async fn flush_files(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.flush().await;
        }
    }

    /// Flushes what the kernel still holds back of writable shares.
    pub fn sync_shares(&self) {
        for place in &self.to_sync {
            if let Err(reason) = shares::sync(place) {
                console::say(&format!("cannot flush {}: {reason}", place.display()));
            }
        }
    }
}

/// Does what takes time and is the same for every sandbox of an image and its user: what is written
/// before the root is assembled, and the root, of an image with so many `layers` over it.
///
/// # Errors
/// The first step that failed. The guest is then not to be used.
pub fn prepare(layers: u16, user: &User, timezone: Option<&str>) -> Result<()> {
    let image = boot::open_image(layers)?;
    write_common(Layers { lower: image, upper: Path::new(boot::UPPER) }, user, timezone)?;
    boot::close_image(layers);
    trace::mark("user");
    boot::enter_root(layers)?;
    identity::make_names(Path::new("/"))
}

/// Writes what all sandboxes of an image and its user have in common, unless it is there already.
fn write_common(layers: Layers<'_>, user: &User, timezone: Option<&str>) -> Result<()> {
    if !boot::disk_is_kept() {
        return identity::write_common(layers, user, timezone);
    }
    let scratch = Path::new(boot::SCRATCH_AT);
    let prepared = Prepared { user: user.clone(), timezone: timezone.map(str::to_owned) };
    match kept::open(scratch, &prepared)? {
        Found::Used => return Ok(()),
        Found::New => identity::write_common(layers, user, timezone)?,
        Found::Moved => identity::change_timezone(layers, timezone)?,
    }
    kept::mark(scratch, &prepared)
}

/// Carries out a configuration on a prepared machine: clock and randomness first, shares last.
/// `received` is when the host's message arrived, for its clock has gone on since.
///
/// # Errors
/// What the host asked for and cannot have. The guest is then not to be used.
pub fn configure(wanted: &Configure, network: &Network, received: Instant) -> Result<Sandbox> {
    identity::set_clock(Duration::from_nanos(wanted.wall_clock_ns) + received.elapsed())?;
    identity::add_entropy(&wanted.entropy)?;
    trace::mark("clock, randomness");
    rustix::system::sethostname(wanted.hostname.as_bytes()).context(|| "cannot set the host name".to_owned())?;
    let resolver = network.configure(&wanted.network, &wanted.hostname, &wanted.user)?;
    trace::mark("network");
    let mut remarks = identity::write_names(Path::new("/"), wanted, &resolver)?;
    trace::mark("names");
    for file in &wanted.files {
        files::write(Path::new("/"), file, &wanted.user)?;
    }
    if let Some(certificates) = &wanted.certificates {
        files::link_certificates(Path::new("/"), certificates)?;
    }
    trace::mark("files");
    let mounted = shares::mount_all(&wanted.shares, &wanted.user)?;
    remarks.extend(mounted.remarks);
    for remark in &remarks {
        console::say(remark);
    }
    let keeper = if mounted.kept.is_empty() {
        None
    } else {
        Some(Keeper::start(mounted.kept).context(|| "cannot keep shared files in step".to_owned())?)
    };
    trace::mark("shares");
    Ok(Sandbox {
        user: wanted.user.clone(),
        environment: wanted.environment.clone(),
        secrets: Secrets::default(),
        to_sync: mounted.to_sync,
        keeper,
    })
}

/// What is answered once it is done; `template` is what the guest was prepared as.
#[must_use]
pub fn answer(template: Option<String>) -> Configured {
    trace::mark("answer");
    Configured {
        guest_version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: u64::try_from(boot::uptime().as_millis()).unwrap_or(u64::MAX),
        template,
        marks: trace::take(),
        wall_clock_ns: identity::wall_clock_ns(),
    }
}
