//! Readable texts for failed gRPC calls and chains of errors.

use std::error::Error;

use tonic::Status;

/// Formats the message of a status with its causes. The message of a status that the transport created is
/// empty or only "transport error": the reason, such as "connection refused", is in its sources.
pub fn describe(status: &Status) -> String {
    let message = match status.message() {
        "" => format!("{} without a message", status.code()),
        message => message.to_owned(),
    };
    with_causes(message, status.source())
}

/// Formats an error with its causes, outermost first. A cause that the preceding text contains is left out.
pub fn error_chain(error: &dyn Error) -> String {
    with_causes(error.to_string(), error.source())
}

fn with_causes(mut text: String, mut cause: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = cause {
        let message = error.to_string();
        if !message.is_empty() && !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct OuterError(#[source] io::Error);

    fn connection_refused() -> OuterError {
        OuterError(io::Error::other("connection refused"))
    }

    #[test]
    fn error_chain_names_every_cause_once() {
        assert_eq!(error_chain(&connection_refused()), "transport error: connection refused");
        let wrapped = io::Error::other(connection_refused());
        assert_eq!(error_chain(&wrapped), "transport error: connection refused");
    }

    #[test]
    fn status_without_a_message_is_described_by_code_and_cause() {
        assert_eq!(describe(&Status::unavailable("no owner")), "no owner");
        let without_message = describe(&Status::cancelled(""));
        assert!(
            without_message.contains("cancelled") && without_message.contains("without a message"),
            "{without_message}"
        );
        let mut status = Status::unavailable("transport error");
        status.set_source(Arc::new(io::Error::other("connection refused")));
        assert_eq!(describe(&status), "transport error: connection refused");
    }
}
