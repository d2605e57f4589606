//! Templates: booted machines, saved, that sandboxes are restored from.
//!
//! ```text
//!  cold start, template missing ──► maker: boots the same machine over no shares, `prepare`s its
//!        │                                 guest, runs a program to warm it up, saves it
//!        ▼                                   │
//!   the user's program                       ▼
//!                             templates/<key>/{template.json, memory, devices, scratch}
//!                                            │ open, stamps equal
//!  next start ───────────────────────────────┴──► VMM restored, own copy of scratch ──► `configure`
//! ```
//!
//! A template holds nothing of anyone's: the guest is told its name, the time, fresh randomness, its
//! shares and its programs' environment only after it was restored. Its directory appears whole, by a
//! rename, and is never changed; who has it open keeps it, whoever replaces or removes it.
//!
//! What cannot be used is removed and costs a cold start: files whose stamps (size, times, inode) are
//! not those recorded *and* whose content has another digest, another key inside than outside, a
//! clock of another rate, a machine that does not come up or says that it is another.

mod judge;
mod key;
mod make;
mod store;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use viv_vmm::CommandPlan;

pub use judge::TemplateJudge;
pub(crate) use key::{Ingredients, plan};
pub(crate) use make::run_to_the_end;
pub use make::{MakeEvent, MakeRequest, make, make_in_background, maker_main};
pub(crate) use store::{Opened, Store};
pub use store::{Pruned, TemplateInfo, list_templates, prune_templates, remove_template};

/// Changes with what a template is.
const FORMAT: u32 = 2;

/// How a template is made and used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplatePlan {
    /// Its name: a digest of what follows.
    pub key: String,
    /// Everything that decides whether it fits.
    pub ingredients: Ingredients,
    /// The rate of the time-stamp counter that its guest goes by, if it does.
    pub tsc_khz: Option<u32>,
    /// The files its machine is made from, without which it cannot be restored either.
    pub files: Vec<PathBuf>,
    /// The VMM's command to make it.
    pub save: CommandPlan,
    /// The VMM's command to restore from it.
    pub restore: CommandPlan,
}
