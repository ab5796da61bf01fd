//! The messages of config/kafka/*.proto.

use prost::Message;

/// Of key.proto.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Key {
    #[prost(string, optional, tag = "1")]
    pub(super) tenant_id: Option<String>,
    #[prost(string, tag = "2")]
    pub(super) id: String,
}

/// Of upsert.proto.
#[derive(Clone, PartialEq, Message)]
pub(super) struct User {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) raw_json: String,
    #[prost(string, optional, tag = "3")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) email: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub(super) created_at: Option<Time>,
    #[prost(message, optional, tag = "6")]
    pub(super) deleted_at: Option<Time>,
    #[prost(message, optional, tag = "7")]
    pub(super) updated_at: Option<Time>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

/// Of debezium.proto, as the following ones.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    #[prost(message, optional, tag = "1")]
    pub(super) before: Option<Row>,
    #[prost(message, optional, tag = "2")]
    pub(super) after: Option<Row>,
    #[prost(message, optional, tag = "3")]
    pub(super) source: Option<Source>,
    #[prost(message, optional, tag = "4")]
    pub(super) transaction: Option<Transaction>,
    #[prost(string, tag = "5")]
    pub(super) op: String,
    #[prost(int64, tag = "6")]
    pub(super) ts_ms: i64,
    #[prost(int64, tag = "7")]
    pub(super) ts_us: i64,
    #[prost(int64, tag = "8")]
    pub(super) ts_ns: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Row {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, optional, tag = "2")]
    pub(super) raw_json: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) email: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(super) created_at: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(super) deleted_at: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(super) updated_at: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Source {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(string, tag = "2")]
    pub(super) connector: String,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(int64, tag = "4")]
    pub(super) ts_ms: i64,
    #[prost(int64, tag = "5")]
    pub(super) ts_us: i64,
    #[prost(int64, tag = "6")]
    pub(super) ts_ns: i64,
    #[prost(string, tag = "7")]
    pub(super) snapshot: String,
    #[prost(string, tag = "8")]
    pub(super) db: String,
    #[prost(string, tag = "9")]
    pub(super) schema: String,
    #[prost(string, tag = "10")]
    pub(super) table: String,
    #[prost(string, tag = "11")]
    pub(super) sequence: String,
    #[prost(int64, optional, tag = "12")]
    pub(super) tx_id: Option<i64>,
    #[prost(int64, tag = "13")]
    pub(super) lsn: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Transaction {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(int64, tag = "2")]
    pub(super) total_order: i64,
    #[prost(int64, tag = "3")]
    pub(super) data_collection_order: i64,
}
