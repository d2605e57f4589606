//! The init of the bare floor: prints one byte on the console and powers off.
//!
//! What `cargo xtask bench start` compares a start of `viv` with: nothing that boots this kernel
//! on this machine can be quicker. Built static, by itself, and packed alone into an initramfs.

use std::ffi::c_int;
use std::io::Write as _;

/// What is printed: SYN, which no kernel message holds.
const BYTE: u8 = 0x16;

const RB_AUTOBOOT: c_int = 0x0123_4567;

unsafe extern "C" {
    fn reboot(command: c_int) -> c_int;
    fn tcdrain(descriptor: c_int) -> c_int;
}

fn main() {
    // Nobody is left to tell of an error; the bench notices the missing byte.
    let _ = std::io::stdout().write_all(&[BYTE]);
    let _ = std::io::stdout().flush();
    // SAFETY: both calls take integers only. The first waits until the byte has left the serial
    // port; the second ends the machine, which QEMU runs with -no-reboot.
    unsafe {
        tcdrain(1);
        reboot(RB_AUTOBOOT);
    }
}
