//! Reads the messages that this program publishes with `partition_by: tenant`: the counterpart of [`Encoder`](super::Encoder).
//! Pure. What cannot be read is an error, not a panic: a topic can hold messages of other programs.

use super::json::parse_time;
use crate::model::{Change, Generation, Lsn, Timestamp, User};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::str::FromStr;

/// The headers of a message that say whose it is and where it belongs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RecordHeaders<'a> {
    /// `ce_id`.
    pub(crate) id: Option<&'a str>,
    /// `ce_tenant`.
    pub(crate) tenant: Option<&'a str>,
    /// `ce_type`.
    pub(crate) kind: Option<&'a str>,
    /// `ce_generation`.
    pub(crate) generation: Option<&'a str>,
    /// `ce_position`.
    pub(crate) position: Option<&'a str>,
    /// `ce_last`.
    pub(crate) last: Option<&'a str>,
    /// `ce_commit`.
    pub(crate) commit: Option<&'a str>,
    /// `ce_time`.
    pub(crate) time: Option<&'a str>,
}

/// Where a message belongs in the source's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) generation: Generation,
    pub(crate) origin: RecordOrigin,
    /// The time of the commit, or of the read.
    pub(crate) at: Timestamp,
}

/// What brought a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordOrigin {
    Transaction(RecordTransaction),
    /// A snapshot at this position.
    Snapshot(Lsn),
    /// A read of this user alone.
    Single,
}

/// The transaction of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordTransaction {
    /// The start of its commit record.
    pub(crate) commit: Lsn,
    /// On the last message of the tenant in the transaction: the position after the commit record.
    pub(crate) end: Option<Lsn>,
    /// This is the last message of the transaction in its partition.
    pub(crate) is_last: bool,
}

/// What a message says of its user.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum RecordContent {
    /// A change, and whether it brings a new user.
    Change { change: Change, is_new: bool },
    /// A tombstone that follows the message of a deleted user: it says nothing new.
    Tombstone,
}

/// Why a message cannot be read. Never contains values of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeFault {
    /// A header is missing or is not of this program's form.
    #[error("its header {0} is missing or not as users-sync writes it")]
    Header(&'static str),
    /// The key has another form.
    #[error("its key is not as users-sync writes it")]
    Key,
    /// The value has another form.
    #[error("its value is in neither of the formats debezium and upsert")]
    Value,
}

const TOMBSTONE: &str = "users_sync.user.tombstone";
const DELETED: &str = "users_sync.user.deleted";
const CREATED: &str = "users_sync.user.created";

impl RecordHeaders<'_> {
    /// The place of the message.
    pub(crate) fn place(&self) -> Result<RecordPlace, DecodeFault> {
        let generation =
            self.generation.and_then(|text| text.parse().ok()).ok_or(DecodeFault::Header("ce_generation"))?;
        let at = self.time.and_then(parse_time).ok_or(DecodeFault::Header("ce_time"))?;
        let origin = match self.position {
            None => self.read().ok_or(DecodeFault::Header("ce_id"))?,
            Some(text) => {
                let (commit, end) = (lsn(text, "ce_position")?, self.end()?);
                let is_last = self.commit.map(|text| lsn(text, "ce_commit")).transpose()?;
                RecordOrigin::Transaction(RecordTransaction {
                    commit,
                    end,
                    is_last: is_last.is_some() && is_last == end,
                })
            }
        };
        Ok(RecordPlace { generation: Generation(generation), origin, at })
    }

    /// `SLOT/POSITION/rNUMBER` for a snapshot, and with an `s` for a single user. A position has a slash, too.
    fn read(&self) -> Option<RecordOrigin> {
        let (place, number) = self.id?.rsplit_once('/')?;
        let mut parts = place.rsplitn(3, '/');
        let (low, high) = (parts.next()?, parts.next()?);
        let position = format!("{high}/{low}").parse().ok()?;
        match number.as_bytes().first()? {
            b'r' => Some(RecordOrigin::Snapshot(position)),
            b's' => Some(RecordOrigin::Single),
            _ => None,
        }
    }

    fn end(&self) -> Result<Option<Lsn>, DecodeFault> {
        self.last.map(|text| lsn(text, "ce_last")).transpose()
    }
}

fn lsn(text: &str, header: &'static str) -> Result<Lsn, DecodeFault> {
    Lsn::from_str(text).map_err(|_| DecodeFault::Header(header))
}

/// The user's id in a key, with or without the schema of Kafka Connect.
pub(crate) fn user_of_key(key: &[u8]) -> Result<String, DecodeFault> {
    #[derive(Deserialize)]
    struct Key {
        id: String,
    }
    #[derive(Deserialize)]
    struct WithSchema {
        payload: Key,
    }
    let plain = serde_json::from_slice::<Key>(key).ok();
    let key = plain.or_else(|| serde_json::from_slice::<WithSchema>(key).ok().map(|key| key.payload));
    key.map(|key| key.id).ok_or(DecodeFault::Key)
}

/// What the message of user `id` says.
pub(crate) fn content(
    id: &str,
    value: Option<&[u8]>,
    headers: &RecordHeaders<'_>,
    at: Timestamp,
) -> Result<RecordContent, DecodeFault> {
    let kind = headers.kind.ok_or(DecodeFault::Header("ce_type"))?;
    let delete = |at| Ok(RecordContent::Change { change: Change::Delete { id: id.into(), at }, is_new: false });
    let Some(value) = value else {
        return if kind == TOMBSTONE { Ok(RecordContent::Tombstone) } else { delete(at) };
    };
    let user = match after(value)? {
        None => return delete(at),
        Some(user) if *user.id != *id => return Err(DecodeFault::Value),
        Some(user) => user,
    };
    match user.deleted_at {
        // Nothing but the id is known of it: the target keeps what it has.
        Some(deleted_at) if kind == DELETED && is_known_by_id(&user) => delete(deleted_at),
        _ => Ok(RecordContent::Change { change: Change::Upsert(user), is_new: kind == CREATED }),
    }
}

/// Whether `known_by_id` made this user.
fn is_known_by_id(user: &User) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct OnlyId {
        #[serde(rename = "id")]
        _id: serde::de::IgnoredAny,
    }
    let User { name, email, created_at, updated_at, .. } = user;
    (name, email, created_at, updated_at) == (&None, &None, &None, &None)
        && serde_json::from_str::<OnlyId>(&user.raw_json).is_ok()
}

/// The user after the change; `None` if it was deleted.
fn after(value: &[u8]) -> Result<Option<User>, DecodeFault> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow, default)]
        payload: Option<&'a RawValue>,
        #[serde(borrow, default)]
        after: Option<&'a RawValue>,
        op: Option<&'a str>,
    }
    let envelope: Envelope<'_> = serde_json::from_slice(value).map_err(|_| DecodeFault::Value)?;
    match envelope {
        Envelope { payload: Some(payload), .. } => after(payload.get().as_bytes()),
        Envelope { op: Some(_), after, .. } => after.map(|after| row(after.get().as_bytes())).transpose(),
        Envelope { op: None, .. } => row(value).map(Some),
    }
}

/// The seven columns. `raw_json` is a string in the format `debezium`, and a document in the format `upsert`.
fn row(value: &[u8]) -> Result<User, DecodeFault> {
    #[derive(Deserialize)]
    struct Row<'a> {
        id: String,
        #[serde(borrow)]
        raw_json: &'a RawValue,
        name: Option<String>,
        email: Option<String>,
        created_at: Option<String>,
        deleted_at: Option<String>,
        updated_at: Option<String>,
    }
    let Row { id, raw_json, name, email, created_at, deleted_at, updated_at } =
        serde_json::from_slice(value).map_err(|_| DecodeFault::Value)?;
    let raw_json = match raw_json.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(raw_json.get()).map_err(|_| DecodeFault::Value)?,
        Some(b'{') => raw_json.get().to_owned(),
        _ => return Err(DecodeFault::Value),
    };
    if !raw_json.trim_start().starts_with('{') {
        return Err(DecodeFault::Value);
    }
    Ok(User {
        id: id.as_str().into(),
        raw_json,
        name,
        email,
        created_at: time(created_at)?,
        updated_at: time(updated_at)?,
        deleted_at: time(deleted_at)?,
        updated_at_derived: false,
    })
}

fn time(text: Option<String>) -> Result<Option<Timestamp>, DecodeFault> {
    text.map(|text| parse_time(&text).ok_or(DecodeFault::Value)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, KafkaFormat, parse};
    use crate::model::{ByConfigured, ConfiguredIdx, Deletes, TableName, Xid};
    use crate::tee::{Batch, CompleteChange, Encoder, EventPosition, messages};
    use proptest::prelude::*;

    const AT: Timestamp = Timestamp(800_000_000_000_001);

    fn encoder(format: KafkaFormat, schemas: bool) -> Encoder {
        let text = "source: {url: postgres://u@h/auth}\nusers: {table: auth.users, id: id}\n\
                    tenants: [{id: acme, target: postgres://u@h/acme}]\nkafka: {brokers: b, topic: users}\n";
        let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let kafka = parse("defaults", text, &env).unwrap().kafka.unwrap();
        let kafka = crate::config::Kafka { format, schemas, ..kafka };
        let table = TableName { schema: "auth".into(), name: "users".into() };
        Encoder::new(&kafka, "db", &table, ByConfigured::from_iter([1_000_000]), ByConfigured::default())
    }

    fn user() -> User {
        User {
            id: "u\"1".into(),
            raw_json: "{\"id\": \"u\\\"1\", \"n\": 1.50000000000000000000001, \"t\": \"\\u00e4\"}".to_owned(),
            name: Some("Ada \\ L".to_owned()),
            email: None,
            created_at: Some(Timestamp(1)),
            updated_at: Some(Timestamp::INFINITY),
            deleted_at: None,
            updated_at_derived: false,
        }
    }

    /// The contents of the messages of a change, in both formats, with and without schemas.
    fn round_trip(change: &Change, deletes: Deletes, before: Option<&User>) -> Vec<Vec<RecordContent>> {
        let tenants: ByConfigured<&str> = ["acme"].into_iter().collect();
        let tenant: ConfiguredIdx = tenants.indexes().next().unwrap();
        let formats = [(KafkaFormat::Debezium, false), (KafkaFormat::Debezium, true), (KafkaFormat::Upsert, false)];
        formats
            .into_iter()
            .map(|(format, schemas)| {
                let place = EventPosition {
                    position: Lsn(7),
                    ordinal: 1,
                    xid: Some(Xid(9)),
                    at: AT,
                    is_single: false,
                    now: 1_700_000_000_000,
                };
                let mut batch = Batch::default();
                let complete = CompleteChange { tenant, tenant_id: "acme", change, is_new: false, before, place };
                messages(&complete, deletes, true, &encoder(format, schemas), &mut batch);
                let read = |message: &crate::tee::Message| {
                    let headers = RecordHeaders { kind: Some(message.kind), ..RecordHeaders::default() };
                    let id = user_of_key(batch.data(&message.key)).unwrap();
                    assert_eq!(id, change.id());
                    let value = message.value.as_ref().map(|value| batch.data(value));
                    assert_eq!(parse_time(batch.part(&message.time)), Some(AT));
                    let read = content(&id, value, &headers, AT);
                    read.unwrap_or_else(|fault| panic!("{fault}: {}", batch.text))
                };
                batch.messages.iter().map(read).collect()
            })
            .collect()
    }

    #[track_caller]
    fn check(change: &Change, deletes: Deletes, before: Option<&User>, expected: &[Option<Change>]) {
        for found in round_trip(change, deletes, before) {
            let found: Vec<Option<Change>> = found
                .into_iter()
                .map(|content| match content {
                    RecordContent::Change { change, .. } => Some(change),
                    RecordContent::Tombstone => None,
                })
                .collect();
            assert!(found == expected, "{} messages", found.len());
        }
    }

    #[test]
    fn a_change_is_read_as_it_was_published() {
        let upsert = Change::Upsert(user());
        check(&upsert, Deletes::Soft, None, &[Some(upsert.clone())]);
        let deleted = Change::Upsert(User { deleted_at: Some(Timestamp(5)), ..user() });
        check(&deleted, Deletes::Soft, None, &[Some(deleted.clone()), None]);
        let delete = Change::Delete { id: user().id, at: AT };
        // The row before the change is known only with a full replica identity.
        check(&delete, Deletes::Soft, None, &[Some(delete.clone()), None]);
        let gone = Change::Upsert(User { deleted_at: Some(AT), ..user() });
        check(&delete, Deletes::Soft, Some(&user()), &[Some(gone), None]);
        for found in round_trip(&delete, Deletes::Hard, None) {
            assert!(matches!(&found[0], RecordContent::Change { change, .. } if *change == delete));
        }
    }

    #[test]
    fn headers_give_the_place() {
        let headers = RecordHeaders {
            generation: Some("3"),
            position: Some("16/B374D848"),
            last: Some("16/B374D900"),
            time: Some("2024-05-01T12:00:00.000001Z"),
            ..RecordHeaders::default()
        };
        let place = headers.place().unwrap();
        let transaction =
            RecordTransaction { commit: Lsn(0x16_B374_D848), end: Some(Lsn(0x16_B374_D900)), is_last: false };
        assert_eq!((place.generation, place.origin), (Generation(3), RecordOrigin::Transaction(transaction)));
        let of_another = RecordHeaders { commit: Some("16/B374D901"), ..headers };
        assert_eq!(of_another.place().unwrap().origin, RecordOrigin::Transaction(transaction));
        let last = RecordHeaders { commit: headers.last, ..headers };
        let transaction = RecordTransaction { is_last: true, ..transaction };
        assert_eq!(last.place().unwrap().origin, RecordOrigin::Transaction(transaction));
        let read = RecordHeaders { position: None, id: Some("a/slot/16/B374D848/r12t"), ..headers };
        assert_eq!(read.place().unwrap().origin, RecordOrigin::Snapshot(Lsn(0x16_B374_D848)));
        let single = RecordHeaders { id: Some("slot/16/B374D848/s1"), ..read };
        assert_eq!(single.place().unwrap().origin, RecordOrigin::Single);
        for (broken, name) in [
            (RecordHeaders { generation: None, ..headers }, "ce_generation"),
            (RecordHeaders { position: Some("x"), ..headers }, "ce_position"),
            (RecordHeaders { last: Some(""), ..headers }, "ce_last"),
            (RecordHeaders { commit: Some(""), ..headers }, "ce_commit"),
            (RecordHeaders { time: Some("yesterday"), ..headers }, "ce_time"),
            (RecordHeaders { id: None, ..read }, "ce_id"),
            (RecordHeaders { id: Some("slot/16/B374D848/12"), ..read }, "ce_id"),
        ] {
            assert_eq!(broken.place(), Err(DecodeFault::Header(name)));
        }
    }

    #[test]
    fn messages_of_other_programs_are_errors() {
        let headers = RecordHeaders { kind: Some("users_sync.user.updated"), ..RecordHeaders::default() };
        let others =
            ["", "[]", "{}", "{\"id\":1}", "{\"op\":\"u\",\"after\":{\"id\":\"a\"}}", "{\"id\":\"a\",\"raw_json\":[]}"];
        let deep = "{\"payload\":".repeat(100_000);
        for value in others.into_iter().chain([&*deep]) {
            assert!(content("a", Some(value.as_bytes()), &headers, AT).is_err(), "{}", value.len());
        }
        let of_another = "{\"id\":\"b\",\"raw_json\":{},\"name\":null,\"email\":null,\"created_at\":null,\"deleted_at\":null,\"updated_at\":null}";
        assert!(content("a", Some(of_another.as_bytes()), &headers, AT).is_err());
        assert!(content("b", Some(of_another.as_bytes()), &headers, AT).is_ok());
        for key in ["", "null", "{\"id\":1}", "{\"tenant_id\":\"a\"}"] {
            assert_eq!(user_of_key(key.as_bytes()), Err(DecodeFault::Key));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let headers = RecordHeaders { kind: Some(DELETED), ..RecordHeaders::default() };
            let _ = content("a", Some(&value), &headers, AT);
            let _ = user_of_key(&value);
        }
    }
}
