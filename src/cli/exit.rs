//! The end of the process.

/// The exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(u8);

impl ExitCode {
    pub(super) const SUCCESS: ExitCode = ExitCode(0);

    /// As shells report a signal that ended a process: 128 plus its number.
    pub(super) fn of_signal(number: i32) -> ExitCode {
        ExitCode(u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128)))
    }
}

impl From<u8> for ExitCode {
    fn from(code: u8) -> ExitCode {
        ExitCode(code)
    }
}

/// Ends the process with _exit(2), which does not run the exit handlers of C libraries. OpenSSL's handler frees memory that other
/// threads may still use, and the process would end with SIGSEGV. No output is lost: neither `output` nor the log buffers any.
pub(super) fn end(code: ExitCode) -> ! {
    signal_hook::low_level::exit(i32::from(code.0))
}
