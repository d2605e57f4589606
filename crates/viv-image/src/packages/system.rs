//! The image's own package manager.

use super::plan::{Plan, Recipe, Root};
use super::{Host, Package};
use crate::error::{Error, ErrorKind, Result};

pub(crate) const RECIPE: Recipe = Recipe { version: 1, fetch: "", install: "", keep: None };

pub(crate) fn plan(_set: &[Package], _host: &Host, _root: &dyn Root) -> Result<Plan> {
    Err(Error::new(ErrorKind::NoPackageManager, "the image has no package manager"))
}
