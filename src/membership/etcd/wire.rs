//! Requests and answers of the gateway, as JSON (etcd's `rpc.proto` by the rules of proto3: bytes in Base64, 64-bit
//! numbers as text, what is zero left out).

use serde::de::{Deserializer, Error, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::base64;

/// A number of 64 bits: text, or a number. What is below zero is zero.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Text(String),
        Plain(u64),
        Other(IgnoredAny),
    }
    match Number::deserialize(deserializer)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) if text.starts_with('-') => Ok(0),
        Number::Text(text) => text.parse().map_err(D::Error::custom),
        Number::Other(_) => Err(D::Error::custom("expected a number")),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    base64::decode(&text).ok_or_else(|| D::Error::custom("expected Base64"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    #[serde(deserialize_with = "number", alias = "clusterId")]
    pub(super) cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    #[serde(deserialize_with = "bytes")]
    pub(super) key: Vec<u8>,
    #[serde(deserialize_with = "number", alias = "createRevision")]
    pub(super) create_revision: u64,
    #[serde(deserialize_with = "number", alias = "modRevision")]
    pub(super) mod_revision: u64,
    #[serde(deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RangeAnswer {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct LeaseAnswer {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    pub(super) id: u64,
    /// In seconds. 0: there is no such lease.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub(super) ttl: u64,
}

/// An answer that is a stream has its messages in lines of these.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    #[serde(default = "Option::default")]
    pub(super) result: Option<T>,
    #[serde(default)]
    pub(super) error: Option<Fault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchAnswer {
    pub(super) header: Header,
    pub(super) canceled: bool,
    #[serde(deserialize_with = "number", alias = "compactRevision")]
    pub(super) compact_revision: u64,
    #[serde(alias = "cancelReason")]
    pub(super) cancel_reason: String,
    pub(super) events: Vec<WatchEvent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchEvent {
    /// `DELETE`; left out for a key that was written.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) kv: KeyValue,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenAnswer {
    pub(super) token: String,
}

/// Why something was refused. `error` is the same text in etcd 3.4 and 3.5, and not there later.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    #[serde(alias = "grpc_code")]
    pub(super) code: u32,
    pub(super) message: String,
}

#[derive(Serialize)]
pub(super) struct AuthenticateRequest<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// All keys that begin so.
pub(super) fn range(prefix: &str) -> Value {
    json!({"key": base64::encode(prefix.as_bytes()), "range_end": base64::encode(&end_of(prefix))})
}

/// Every change of keys that begin so, from a revision on.
pub(super) fn watch(prefix: &str, first: u64) -> Value {
    let (key, end) = (base64::encode(prefix.as_bytes()), base64::encode(&end_of(prefix)));
    json!({"create_request": {"key": key, "range_end": end, "start_revision": first.to_string()}})
}

/// Writes a key, if it was written last at this revision; 0: if it is not there.
pub(super) fn put_if(key: &str, expected: u64, value: &str, lease: Option<u64>) -> Value {
    let key = base64::encode(key.as_bytes());
    let mut put = json!({"key": key, "value": base64::encode(value.as_bytes())});
    if let Some(lease) = lease {
        put["lease"] = json!(lease.to_string());
    }
    let is_as_expected = json!({
        "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": expected.to_string()
    });
    json!({"compare": [is_as_expected], "success": [{"request_put": put}]})
}

/// The first key behind all that begin so.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // The prefix ends with a slash.
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.4.23 wrote them.
    #[test]
    fn answers_of_etcd_are_read() {
        let range: RangeAnswer = serde_json::from_str(
            r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"3","raft_term":"2"},"kvs":[{"key":"L2E=","create_revision":"2","mod_revision":"3","version":"2","value":"eA==","lease":"7587869390361412870"}],"count":"1"}"#,
        )
        .unwrap();
        let key = &range.kvs[0];
        assert_eq!((range.header.cluster_id, range.header.revision), (14841639068965178418, 3));
        assert_eq!((&*key.key, key.create_revision, key.mod_revision), (&b"/a"[..], 2, 3));
        let txn: TxnAnswer =
            serde_json::from_str(r#"{"header":{"revision":"4"},"responses":[]}"#).unwrap();
        assert!(!txn.succeeded);
        let lost: Streamed<LeaseAnswer> =
            serde_json::from_str(r#"{"result":{"header":{"revision":"4"},"ID":"7"}}"#).unwrap();
        assert_eq!(lost.result.unwrap().ttl, 0);
        let gone: Streamed<WatchAnswer> = serde_json::from_str(
            r#"{"result":{"header":{"revision":"5"},"events":[{"type":"DELETE","kv":{"key":"L2E=","mod_revision":"5"}}]}}"#,
        )
        .unwrap();
        let gone = gone.result.unwrap();
        assert_eq!((&*gone.events[0].kind, gone.events[0].kv.mod_revision), ("DELETE", 5));
        let compacted: Streamed<WatchAnswer> = serde_json::from_str(
            r#"{"result":{"header":{"revision":"9"},"canceled":true,"compact_revision":"8"}}"#,
        )
        .unwrap();
        let compacted = compacted.result.unwrap();
        assert!(compacted.canceled && compacted.compact_revision == 8);
        let fault: Fault = serde_json::from_str(
            r#"{"error":"etcdserver: requested lease not found","message":"etcdserver: requested lease not found","code":5}"#,
        )
        .unwrap();
        assert_eq!(fault.code, 5);
        assert!(serde_json::from_str::<LeaseAnswer>(r#"{"ID":"x"}"#).is_err());
        assert!(serde_json::from_str::<KeyValue>(r#"{"key":"%"}"#).is_err());
    }
}
