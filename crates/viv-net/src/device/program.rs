//! Programs of the host that network devices need.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Error, ErrorKind, Result};

/// Where a program is: in PATH, or where distributions keep what is for the administrator.
///
/// # Errors
/// [`ErrorKind::ProgramMissing`], with the Debian package that holds it.
pub fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|program| {
            program.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| {
            let package = match name {
                "ip" => "iproute2",
                "nft" => "nftables",
                other => other,
            };
            Error::new(ErrorKind::ProgramMissing, format!("{name} is not installed"))
                .hint(format!("sudo apt-get install -y {package}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        assert!(find_program("sh").unwrap().is_absolute());
        let error = find_program("no-such-program").unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed");
        assert_eq!(error.hints(), ["sudo apt-get install -y no-such-program"]);
    }
}
