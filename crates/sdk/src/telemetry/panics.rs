//! A panic becomes one log record with its stack, in the trace of the request that caused it.

use std::backtrace::Backtrace;

/// Replaces the process's panic hook: the record goes where the other logs go, and stderr stays free of stack traces.
pub(super) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("panic");
        let stack = Backtrace::force_capture().to_string();
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
