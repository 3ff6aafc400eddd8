//! A panic becomes one log record with its stack, in the trace of the request that caused it.

use std::backtrace::Backtrace;

/// Lines of a stack that are kept (a frame has one or two), and characters of each: async frames name long types.
const LINES: usize = 80;
const WIDTH: usize = 160;

/// The stack of the caller, for the attribute `exception.stacktrace`. The first call reads the program's line tables: some
/// hundred milliseconds, and some fifty megabytes that stay.
pub fn stack() -> String {
    let all = Backtrace::force_capture().to_string();
    all.lines().take(LINES).map(|line| line.chars().take(WIDTH).collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// Replaces the process's panic hook: the record goes where the other logs go, and stderr stays free of stack traces.
pub(super) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("panic");
        let stack = stack();
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        tracing::error!(
            exception.type = "panic",
            exception.message = message,
            exception.stacktrace = stack,
            code.location = place,
            "unhandled exception"
        );
    }));
}
