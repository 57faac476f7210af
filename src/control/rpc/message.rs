//! One JSON value in, at most one out: requests, notifications and batches of JSON-RPC 2.0.

use serde_json::{Value, json};

use super::{INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, RpcError};

/// Longest string id in bytes (SPDK's limit).
pub const ID_BYTES_MAX: usize = 128;
/// Longest reply in bytes (SPDK's limit).
pub const REPLY_BYTES_MAX: usize = 32 << 20;

/// Executes a method: name and parameters in, result or error out.
pub trait Dispatch {
    /// Calls `method`.
    fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, RpcError>;
}

/// The answer to one received value.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// Bytes to send; `None` after notifications.
    pub text: Option<Vec<u8>>,
    /// The stream is not to be trusted any more: close it once the reply is out.
    pub close: bool,
}

/// An error reply to something that was no request.
#[must_use]
pub fn refusal(code: i32, message: &str) -> Vec<u8> {
    envelope(&Value::Null, Err(RpcError::new(code, message)))
}

/// Executes what `text` asks for.
pub fn handle(text: &[u8], methods: &mut dyn Dispatch) -> Reply {
    match serde_json::from_slice::<Value>(text) {
        Err(error) => {
            let message = format!("the request is not JSON: {error}");
            Reply { text: Some(refusal(PARSE_ERROR, &message)), close: true }
        }
        Ok(Value::Array(batch)) => Reply { text: handle_batch(batch, methods), close: false },
        Ok(request) => Reply { text: handle_one(request, methods), close: false },
    }
}

fn handle_batch(batch: Vec<Value>, methods: &mut dyn Dispatch) -> Option<Vec<u8>> {
    if batch.is_empty() {
        return Some(refusal(INVALID_REQUEST, "the batch is empty"));
    }
    let mut replies = vec![b'['];
    for request in batch {
        let Some(reply) = handle_one(request, methods) else { continue };
        if replies.len() > 1 {
            replies.push(b',');
        }
        replies.extend_from_slice(&reply);
        if replies.len() > REPLY_BYTES_MAX {
            let message = "the replies of this batch are too long together; later requests of it \
                           were not executed";
            return Some(refusal(INTERNAL_ERROR, message));
        }
    }
    if replies.len() == 1 {
        return None;
    }
    replies.push(b']');
    Some(replies)
}

fn handle_one(request: Value, methods: &mut dyn Dispatch) -> Option<Vec<u8>> {
    let (id, parsed) = parse(request);
    let result = parsed.and_then(|(method, params)| methods.call(&method, params));
    // A notification gets no reply, not even an error, but a request whose id could not be read
    // is answered with a null id.
    match (id, result) {
        (Some(id), result) => Some(envelope(&id, result)),
        (None, Err(error)) if error.code == INVALID_REQUEST => {
            Some(envelope(&Value::Null, Err(error)))
        }
        (None, _) => None,
    }
}

/// The id, where there is one, and the call.
type Parsed = (Option<Value>, Result<(String, Option<Value>), RpcError>);

fn parse(request: Value) -> Parsed {
    let invalid = |message: &str| Err(RpcError::new(INVALID_REQUEST, message));
    let Value::Object(mut request) = request else {
        return (None, invalid("a request is a JSON object"));
    };
    let id = match request.remove("id") {
        None => None,
        Some(Value::String(text)) if text.len() > ID_BYTES_MAX => {
            return (None, invalid("the id is longer than 128 bytes"));
        }
        Some(id @ (Value::String(_) | Value::Number(_) | Value::Null)) => Some(id),
        Some(_) => return (None, invalid("the id is neither string nor number nor null")),
    };
    if request.get("jsonrpc").is_some_and(|version| version != "2.0") {
        return (id, invalid("jsonrpc is not \"2.0\""));
    }
    let params = match request.remove("params") {
        None | Some(Value::Null) => None,
        Some(params @ (Value::Object(_) | Value::Array(_))) => Some(params),
        Some(_) => return (id, invalid("params is neither object nor array")),
    };
    match request.remove("method") {
        Some(Value::String(method)) => (id, Ok((method, params))),
        _ => (id, invalid("method is missing or no string")),
    }
}

fn envelope(id: &Value, result: Result<Value, RpcError>) -> Vec<u8> {
    let value = match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(RpcError { code, message }) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
        }
    };
    value.to_string().into_bytes()
}

const _: () = assert!(ID_BYTES_MAX == 128, "the message above names the number");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::rpc::METHOD_NOT_FOUND;

    struct Echo(Vec<String>);

    impl Dispatch for Echo {
        fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, RpcError> {
            self.0.push(method.to_owned());
            match method {
                "echo" => Ok(params.unwrap_or(Value::Null)),
                "large" => Ok(Value::String("x".repeat(REPLY_BYTES_MAX / 2))),
                _ => Err(RpcError::new(METHOD_NOT_FOUND, "Method not found")),
            }
        }
    }

    fn ask(text: &str) -> (Option<Value>, bool) {
        let reply = handle(text.as_bytes(), &mut Echo(Vec::new()));
        (reply.text.map(|text| serde_json::from_slice(&text).unwrap()), reply.close)
    }

    fn code(text: &str) -> (Value, i64) {
        let (reply, _) = ask(text);
        let reply = reply.unwrap();
        (reply["id"].clone(), reply["error"]["code"].as_i64().unwrap())
    }

    #[test]
    fn call_with_and_without_version() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":2}}"#,
            r#"{"id":1,"method":"echo","params":{"a":2}}"#,
        ] {
            let wanted = json!({"jsonrpc": "2.0", "id": 1, "result": {"a": 2}});
            assert_eq!(ask(text), (Some(wanted), false));
        }
    }

    #[test]
    fn errors_have_their_codes() {
        assert_eq!(code(r#"{"id":"x","method":"nope"}"#), (json!("x"), -32601));
        assert_eq!(code(r#"{"id":1}"#), (json!(1), -32600));
        assert_eq!(code(r#"{"id":1,"method":7}"#), (json!(1), -32600));
        assert_eq!(code(r#"{"id":1,"method":"echo","params":3}"#), (json!(1), -32600));
        assert_eq!(code(r#"{"id":1,"jsonrpc":"1.0","method":"echo"}"#), (json!(1), -32600));
        assert_eq!(code(r#"{"id":[],"method":"echo"}"#), (Value::Null, -32600));
        assert_eq!(code("[]"), (Value::Null, -32600));
        let long = format!(r#"{{"id":"{}","method":"echo"}}"#, "i".repeat(ID_BYTES_MAX + 1));
        assert_eq!(code(&long), (Value::Null, -32600));
        assert_eq!(code(r#"{"id":1,}"#), (Value::Null, -32700));
        assert!(ask(r#"{"id":1,}"#).1, "a broken stream is closed");
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let text = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(code(&text), (Value::Null, -32700));
    }

    #[test]
    fn notifications_are_executed_in_silence() {
        let mut echo = Echo(Vec::new());
        let text = br#"{"method":"echo"}"#;
        assert_eq!(handle(text, &mut echo), Reply { text: None, close: false });
        assert_eq!(echo.0, ["echo"]);
        assert_eq!(ask(r#"{"method":"nope"}"#), (None, false));
        // A null id is an id.
        assert!(ask(r#"{"id":null,"method":"echo"}"#).0.is_some());
    }

    #[test]
    fn batches() {
        let (reply, _) = ask(r#"[{"id":1,"method":"echo"},{"method":"echo"},5,{"id":2}]"#);
        let reply = reply.unwrap();
        assert_eq!(reply.as_array().unwrap().len(), 3);
        assert_eq!(reply[0]["id"], 1);
        assert_eq!(reply[1]["error"]["code"], -32600);
        assert_eq!(reply[2]["id"], 2);
        assert_eq!(ask(r#"[{"method":"echo"},{"method":"echo"}]"#), (None, false));
    }

    #[test]
    fn a_batch_cannot_exhaust_memory() {
        let request = r#"{"id":1,"method":"large"}"#;
        let mut echo = Echo(Vec::new());
        let text = format!("[{}]", vec![request; 1000].join(","));
        let reply: Value =
            serde_json::from_slice(&handle(text.as_bytes(), &mut echo).text.unwrap()).unwrap();
        assert_eq!(reply["error"]["code"], -32603);
        assert!(echo.0.len() < 5, "{} calls", echo.0.len());
    }
}
