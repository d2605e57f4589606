//! Images that the user gave a name: `name:NAME` is one of them wherever an image is asked for.

use std::fs;
use std::path::PathBuf;

use super::{NAMED, fact};
use crate::cache::{Built, Cache, Recipe};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::progress::{NoProgress, Progress};
use crate::root::RootImage;

/// The longest name, bytes.
const MAX_NAME_BYTES: usize = 64;

fn recipe(name: &str) -> Result<Recipe> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !begins || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return Err(Error::new(ErrorKind::BadReference, format!("`{}` is no name for an image", name.escape_debug()))
            .hint("a name begins with a-z or 0-9 and has a-z, 0-9, dots, dashes and underscores, at most 64 of them"));
    }
    Ok(Recipe { kind: NAMED, text: format!("the name {name}"), what: format!("the image {name}") })
}

/// Gives an image a name, in place of the one that had it. It is copied into the cache if it is not in
/// there, and stays until it is removed by that name. `source` is what it was made from, as it was asked
/// for.
///
/// # Errors
/// [`ErrorKind::BadReference`] for what is no name: a letter a-z or a digit first, then these, dots, dashes
/// and underscores, at most 64 in all; those of writing to the cache.
pub fn name_image(
    cache: &Cache,
    name: &str,
    source: &str,
    image: &RootImage,
    progress: &dyn Progress,
) -> Result<RootImage> {
    let recipe = recipe(name)?;
    let config = serde_json::to_string(&image.config)
        .map_err(|error| Error::new(ErrorKind::Cache, "the image's configuration cannot be kept").source(error))?;
    let facts = [
        (fact::SOURCE.to_owned(), format!("name:{name}")),
        (fact::CONFIG.to_owned(), config),
        ("made-from".to_owned(), source.to_owned()),
    ];
    let same = |digest: &str| digest == image.digest;
    if cache.known(&recipe).is_some_and(|made| !made.files.first().is_some_and(|file| same(&file.digest))) {
        cache.forget_reference(&recipe)?;
    }
    cache.ensure(&recipe, progress, |staging| {
        let path = if image.path.starts_with(cache.root()) {
            image.path.clone()
        } else {
            let copy: PathBuf = staging.directory.join("root.erofs");
            fs::copy(&image.path, &copy).map_err(io_error("copy", &image.path))?;
            copy
        };
        Ok(Built { facts: facts.into(), files: vec![("root.erofs".to_owned(), path)] })
    })?;
    named_image(cache, name)
}

/// How the image of that name is to be run, if there is one.
pub(crate) fn known_config(cache: &Cache, name: &str) -> Option<ImageConfig> {
    serde_json::from_str(cache.peek(&recipe(name).ok()?)?.fact(fact::CONFIG)?).ok()
}

/// The image of that name.
///
/// # Errors
/// [`ErrorKind::BadReference`] for what is no name, [`ErrorKind::NotFound`] if none has it.
pub(crate) fn named_image(cache: &Cache, name: &str) -> Result<RootImage> {
    let none = || {
        Error::new(ErrorKind::NotFound, format!("no image has the name {name}"))
            .hint("viv image ls")
            .hint(format!("or make one of a file or directory: viv image import FILE --name {name}"))
    };
    // What is damaged cannot be made again from a name.
    let made = cache.ensure(&recipe(name)?, &NoProgress, |_| Err(none()))?;
    let config = made.fact(fact::CONFIG).and_then(|text| serde_json::from_str::<ImageConfig>(text).ok());
    let file = made.files.first().ok_or_else(none)?;
    Ok(RootImage {
        path: cache.blob(&file.digest),
        digest: file.digest.clone(),
        size: file.stamp.size,
        config: config.unwrap_or_default(),
        pin: None,
    })
}
