//! `viv completions`, `viv man`, the reference and the schemas of configuration files

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArguments, ManArguments};
use crate::error::{self, Failure};
use crate::output::{clean::clean, print};
use crate::reference;
use crate::settings::schema::{self, Whose};

/// Prints a shell's completion script.
///
/// # Errors
/// A stdout that cannot be written.
pub fn completions(arguments: &CompletionsArguments) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "viv", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Prints viv(1), or writes every page into a directory, which is made if missing.
///
/// # Errors
/// A directory that cannot be written.
pub fn man(arguments: &ManArguments) -> Result<u8, Failure> {
    let command = Cli::command();
    match &arguments.directory {
        Some(directory) => {
            let cannot_write =
                || error::io(format!("cannot write manual pages to {}", clean(&directory.to_string_lossy())));
            std::fs::create_dir_all(directory).map_err(cannot_write())?;
            clap_mangen::generate_to(command, directory).map_err(cannot_write())?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(error::io("cannot render the manual page"))?;
            print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(0)
}

/// Prints the reference as Markdown.
///
/// # Errors
/// A stdout that cannot be written.
pub fn reference() -> Result<u8, Failure> {
    print(&reference::markdown(Cli::command()))?;
    Ok(0)
}

/// Prints the JSON schema of `viv.toml`, or of the user's file.
///
/// # Errors
/// A stdout that cannot be written.
pub fn schema(user: bool) -> Result<u8, Failure> {
    print(&schema::text(if user { Whose::User } else { Whose::Project }))?;
    Ok(0)
}
