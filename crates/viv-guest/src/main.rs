//! PID 1 of every Vivarium sandbox; see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    if !viv_guest::is_init() {
        eprintln!("viv-guest: runs only as PID 1 of a sandbox");
        return ExitCode::FAILURE;
    }
    viv_guest::run()
}
