//! The exit codes of `viv`.

/// Nothing went wrong.
pub const SUCCESS: u8 = 0;
/// The program ran out of the time `--timeout` gave it.
pub const TIMED_OUT: u8 = 124;
/// `viv` itself failed, its command line included.
pub const VIV_FAILED: u8 = 125;
/// The program exists but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The program does not exist.
pub const NOT_FOUND: u8 = 127;
/// The reader of standard output went away (SIGPIPE).
pub const BROKEN_PIPE: u8 = 141;
/// `viv doctor` found something that fails.
pub const DOCTOR_FAILED: u8 = 1;
/// Not one attempt of `viv run --attempts` ended with 0 and passed its check.
pub const NO_ATTEMPT_SUCCEEDED: u8 = 1;
/// `viv audit verify` found something.
pub const AUDIT_FAILED: u8 = 1;

/// Every exit code, for the reference.
pub const ALL: &[(&str, &str)] = &[
    (
        "the program's",
        "The program ran and ended: its own exit code, or 128 plus the number of the signal that killed it",
    ),
    (
        "1",
        "`viv doctor` found something that fails, `viv audit verify` something that is not as it was written, or no \
         attempt of `viv run --attempts` ended with 0 and passed its check",
    ),
    ("124", "The program ran out of the time `--timeout` gave it"),
    ("125", "viv itself failed: wrong arguments or configuration, no QEMU, a sandbox that did not start or was lost"),
    ("126", "The program exists inside but cannot be executed"),
    ("127", "The program does not exist inside"),
    ("130", "Interrupted: SIGINT while starting, or twice within five seconds while the program ran"),
    ("141", "The reader of standard output went away"),
    ("143", "Ended by SIGTERM while starting, or at a terminal"),
];

/// The exit code of an end by this signal, as shells have it.
#[must_use]
pub fn of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(VIV_FAILED)
}

/// The exit code a guest reported, which may be any number.
#[must_use]
pub fn of_program(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(VIV_FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_signals_and_programs() {
        assert_eq!((of_signal(2), of_signal(15), of_signal(13)), (130, 143, BROKEN_PIPE));
        assert_eq!((of_program(0), of_program(255), of_program(-1), of_program(256)), (0, 255, 125, 125));
    }
}
