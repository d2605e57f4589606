//! The gateway's own errors, in the shape of the provider that the client believes it is talking to.
//!
//! Statuses are chosen by what clients do with them. Their libraries retry 408, 409, 429 and 5xx,
//! and Codex any status but 400 and 401, so what no retry mends is none of these:
//!
//! | | Anthropic | OpenAI | Gemini |
//! |---|---|---|---|
//! | placeholder missing or wrong | 401 `authentication_error` | 401 `invalid_api_key` | 401 `UNAUTHENTICATED` |
//! | the host has no key, or it was refused | 403 `permission_error` | 401 `invalid_api_key` | 403 `PERMISSION_DENIED` |
//! | budget spent, or a model without a price | 402 `billing_error` | 400 `insufficient_quota` | 400 `FAILED_PRECONDITION` |
//! | upstream unreachable | 502 `api_error` | 502 `server_error` | 502 `UNAVAILABLE` |
//! | upstream stalled | 504 `timeout_error` | 504 `server_error` | 504 `DEADLINE_EXCEEDED` |

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::Protocol;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No placeholder, or none of this sandbox's.
    Placeholder,
    /// The host has no key, or the upstream refuses it.
    Key,
    /// The budget is spent, or its use could not be reckoned.
    Budget,
    /// The request cannot be passed on as it is.
    Request,
    /// The request is too long.
    TooLarge,
    /// The client does not send what it began.
    SlowClient,
    /// A WebSocket is asked for.
    WebSocket,
    /// No connection, or one that broke before an answer.
    Unreachable,
    /// No byte for too long.
    Stalled,
    /// The call could not be recorded.
    Internal,
}

/// One failure, in words for the user of the client.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) fault: Fault,
    pub(super) message: String,
}

impl Trouble {
    pub(super) fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into() }
    }
}

/// Which of a provider's stream formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI's Responses, whose events have names and a last one.
    Responses,
    /// Any other.
    Plain,
}

/// Status, and the words that stand for it.
fn terms(protocol: Protocol, fault: Fault) -> (u16, &'static str, &'static str) {
    use Fault::{Budget, Internal, Key, Placeholder, Request, SlowClient, Stalled, TooLarge, Unreachable, WebSocket};
    match protocol {
        Protocol::Anthropic => match fault {
            Placeholder => (401, "authentication_error", ""),
            Key => (403, "permission_error", ""),
            Budget => (402, "billing_error", ""),
            Request => (400, "invalid_request_error", ""),
            TooLarge => (413, "request_too_large", ""),
            SlowClient => (408, "timeout_error", ""),
            WebSocket => (426, "invalid_request_error", ""),
            Unreachable => (502, "api_error", ""),
            Stalled => (504, "timeout_error", ""),
            Internal => (500, "api_error", ""),
        },
        Protocol::OpenAi => match fault {
            Placeholder | Key => (401, "invalid_request_error", "invalid_api_key"),
            Budget => (400, "insufficient_quota", "insufficient_quota"),
            Request => (400, "invalid_request_error", "invalid_request"),
            TooLarge => (413, "invalid_request_error", "request_too_large"),
            SlowClient => (408, "invalid_request_error", "request_timeout"),
            WebSocket => (426, "invalid_request_error", "websocket_not_supported"),
            Unreachable => (502, "server_error", "upstream_unreachable"),
            Stalled => (504, "server_error", "upstream_stalled"),
            Internal => (500, "server_error", "internal_error"),
        },
        Protocol::Gemini => match fault {
            Placeholder => (401, "UNAUTHENTICATED", ""),
            Key => (403, "PERMISSION_DENIED", ""),
            Budget => (400, "FAILED_PRECONDITION", ""),
            Request => (400, "INVALID_ARGUMENT", ""),
            TooLarge => (413, "INVALID_ARGUMENT", ""),
            SlowClient => (408, "DEADLINE_EXCEEDED", ""),
            WebSocket => (426, "FAILED_PRECONDITION", ""),
            Unreachable => (502, "UNAVAILABLE", ""),
            Stalled => (504, "DEADLINE_EXCEEDED", ""),
            Internal => (500, "INTERNAL", ""),
        },
    }
}

/// The status of an answer.
pub(super) fn status(protocol: Protocol, fault: Fault) -> StatusCode {
    StatusCode::from_u16(terms(protocol, fault).0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The JSON of an answer.
pub(super) fn document(protocol: Protocol, trouble: &Trouble) -> Value {
    let (status, kind, code) = terms(protocol, trouble.fault);
    let message = format!("viv: {}", trouble.message);
    match protocol {
        Protocol::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}}),
        Protocol::OpenAi => json!({"error": {"message": message, "type": kind, "code": code, "param": null}}),
        Protocol::Gemini => json!({"error": {"code": status, "message": message, "status": kind}}),
    }
}

/// A last event for a stream that ends here.
pub(super) fn event(protocol: Protocol, dialect: Dialect, trouble: &Trouble) -> Bytes {
    let document = document(protocol, trouble);
    match (protocol, dialect) {
        (Protocol::Anthropic, _) => format!("event: error\ndata: {document}\n\n").into(),
        (Protocol::OpenAi, Dialect::Responses) => {
            let (_, _, code) = terms(protocol, trouble.fault);
            let response = json!({
                "object": "response",
                "status": "failed",
                "output": [],
                "error": {"code": code, "message": document["error"]["message"]},
            });
            let failed = json!({"type": "response.failed", "response": response});
            format!("event: response.failed\ndata: {failed}\n\n").into()
        }
        _ => format!("data: {document}\n\n").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: [Protocol; 3] = [Protocol::Anthropic, Protocol::OpenAi, Protocol::Gemini];

    #[test]
    fn what_no_retry_mends_has_a_status_that_is_not_retried() {
        for protocol in PROTOCOLS {
            for fault in
                [Fault::Placeholder, Fault::Key, Fault::Budget, Fault::Request, Fault::TooLarge, Fault::WebSocket]
            {
                let status = status(protocol, fault).as_u16();
                assert!(status < 500 && ![408, 409, 429].contains(&status), "{protocol:?} {fault:?}: {status}");
            }
        }
    }

    #[test]
    fn each_provider_is_spoken_for_in_its_own_shape() {
        let trouble = Trouble::new(Fault::Budget, "the sandbox's budget is spent: 10 of 10 requests");
        let mut shown = String::new();
        for protocol in PROTOCOLS {
            shown += &format!("{} {}\n", status(protocol, trouble.fault), document(protocol, &trouble));
        }
        insta::assert_snapshot!(shown, @r#"
        402 Payment Required {"error":{"message":"viv: the sandbox's budget is spent: 10 of 10 requests","type":"billing_error"},"type":"error"}
        400 Bad Request {"error":{"code":"insufficient_quota","message":"viv: the sandbox's budget is spent: 10 of 10 requests","param":null,"type":"insufficient_quota"}}
        400 Bad Request {"error":{"code":400,"message":"viv: the sandbox's budget is spent: 10 of 10 requests","status":"FAILED_PRECONDITION"}}
        "#);
    }

    #[test]
    fn each_providers_stream_ends_in_its_own_shape() {
        let trouble = Trouble::new(Fault::Budget, "the agent's budget is spent");
        let mut shown = String::new();
        for (protocol, dialect) in [
            (Protocol::Anthropic, Dialect::Plain),
            (Protocol::OpenAi, Dialect::Plain),
            (Protocol::OpenAi, Dialect::Responses),
            (Protocol::Gemini, Dialect::Plain),
        ] {
            shown += std::str::from_utf8(&event(protocol, dialect, &trouble)).expect("text");
        }
        insta::assert_snapshot!(shown, @r#"
        event: error
        data: {"error":{"message":"viv: the agent's budget is spent","type":"billing_error"},"type":"error"}

        data: {"error":{"code":"insufficient_quota","message":"viv: the agent's budget is spent","param":null,"type":"insufficient_quota"}}

        event: response.failed
        data: {"response":{"error":{"code":"insufficient_quota","message":"viv: the agent's budget is spent"},"object":"response","output":[],"status":"failed"},"type":"response.failed"}

        data: {"error":{"code":400,"message":"viv: the agent's budget is spent","status":"FAILED_PRECONDITION"}}
        "#);
    }
}
