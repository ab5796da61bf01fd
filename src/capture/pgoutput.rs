//! Parses pgoutput version 1: one XLogData message into a typed message that borrows from its bytes. Pure and
//! total: any input gives a message or a [`DecodeError`], never a panic. Source of the layouts: manual,
//! "Logical Replication Message Formats".

use crate::model::{Cell, Column, Lsn, Oid, Relation, ReplicaIdentity, TableName, Timestamp, Xid};

/// A message of the stream.
#[derive(Debug)]
pub enum Message<'a> {
    /// `B`: start of a committed transaction.
    Begin {
        /// Start of its commit record.
        commit_lsn: Lsn,
        /// Commit time by the source's clock.
        commit_time: Timestamp,
        /// The transaction's id.
        xid: Xid,
    },
    /// `C`: end of the transaction.
    Commit {
        /// Start of its commit record.
        commit_lsn: Lsn,
        /// End of its commit record: the position to confirm.
        end_lsn: Lsn,
    },
    /// `O`: the transaction was replicated to the source from elsewhere. Not used.
    Origin,
    /// `R`: the layout of the following tuples of a table.
    Relation(Relation),
    /// `Y`: the name of a type that is not built in. Not used: types are read from the catalog.
    Type,
    /// `I`: an inserted row.
    Insert {
        /// The table's id.
        relation: Oid,
        /// The new row.
        new: Tuple<'a>,
    },
    /// `U`: an updated row.
    Update {
        /// The table's id.
        relation: Oid,
        /// The old row or its key, if the replica identity includes one.
        old: Option<OldTuple<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// `D`: a deleted row.
    Delete {
        /// The table's id.
        relation: Oid,
        /// The old row or its key.
        old: OldTuple<'a>,
    },
    /// `T`: truncated tables.
    Truncate {
        /// The tables' ids.
        relations: Vec<Oid>,
    },
    /// `M`: a message written with `pg_logical_emit_message`. The content is not used.
    Logical,
}

/// A row as sent: well-formed, with values that are not decoded yet.
#[derive(Clone, Copy, Debug)]
pub struct Tuple<'a> {
    columns: usize,
    bytes: &'a [u8],
}

/// What an UPDATE or DELETE carries of the old row.
#[derive(Clone, Copy, Debug)]
pub enum OldTuple<'a> {
    /// `K`: the replica identity's columns; the others are sent as nulls without meaning.
    Key(Tuple<'a>),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// The bytes are not a pgoutput message of version 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message is too short.
    #[error("the message ends inside its {0}")]
    Truncated(&'static str),
    /// A tag that version 1 does not have in this place.
    #[error("expected {expected}, found byte {found:#04x}")]
    UnknownTag {
        /// The expected tag.
        expected: &'static str,
        /// The received byte.
        found: u8,
    },
    /// A name is not UTF-8.
    #[error("the {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// Bytes remain after the message.
    #[error("{0} bytes remain after the message")]
    TrailingBytes(usize),
    /// A tuple's number of columns differs from its relation's.
    #[error("a tuple has {found} columns but its relation has {expected}")]
    ColumnCount {
        /// Columns of the relation.
        expected: usize,
        /// Columns of the tuple.
        found: usize,
    },
}

/// Parses one message.
pub fn parse_message(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut input = Input(bytes);
    let message = match input.u8("message tag")? {
        b'B' => Message::Begin {
            commit_lsn: input.lsn("Begin position")?,
            commit_time: input.timestamp("Begin time")?,
            xid: Xid(input.u32("Begin xid")?),
        },
        b'C' => {
            input.u8("Commit flags")?;
            let commit_lsn = input.lsn("Commit position")?;
            let end_lsn = input.lsn("Commit end")?;
            input.timestamp("Commit time")?;
            Message::Commit { commit_lsn, end_lsn }
        }
        b'O' => {
            input.lsn("Origin position")?;
            input.name("Origin name")?;
            Message::Origin
        }
        b'R' => Message::Relation(parse_relation(&mut input)?),
        b'Y' => {
            input.u32("Type id")?;
            input.name("Type schema")?;
            input.name("Type name")?;
            Message::Type
        }
        b'I' => {
            let relation = input.u32("Insert relation")?;
            input.tag(b'N', "Insert's new tuple")?;
            Message::Insert { relation, new: input.tuple()? }
        }
        b'U' => {
            let relation = input.u32("Update relation")?;
            let old = match input.u8("Update tuple tag")? {
                b'N' => None,
                kind => {
                    let old = input.old_tuple(kind)?;
                    input.tag(b'N', "Update's new tuple")?;
                    Some(old)
                }
            };
            Message::Update { relation, old, new: input.tuple()? }
        }
        b'D' => {
            let relation = input.u32("Delete relation")?;
            let kind = input.u8("Delete tuple tag")?;
            Message::Delete { relation, old: input.old_tuple(kind)? }
        }
        b'T' => {
            let count = input.u32("Truncate count")?;
            input.u8("Truncate options")?;
            // Collected one by one: an untrusted count must not decide an allocation.
            let relations = (0..count).map(|_| input.u32("Truncate relation")).collect::<Result<_, _>>()?;
            Message::Truncate { relations }
        }
        b'M' => {
            input.u8("Message flags")?;
            input.lsn("Message position")?;
            input.name("Message prefix")?;
            let length = input.u32("Message length")?;
            input.take(length as usize, "Message content")?;
            Message::Logical
        }
        found => return Err(DecodeError::UnknownTag { expected: "message tag", found }),
    };
    match input.0.len() {
        0 => Ok(message),
        left => Err(DecodeError::TrailingBytes(left)),
    }
}

fn parse_relation(input: &mut Input<'_>) -> Result<Relation, DecodeError> {
    let oid = input.u32("Relation id")?;
    // The empty string stands for pg_catalog.
    let schema = match input.name("Relation schema")? {
        "" => "pg_catalog",
        schema => schema,
    };
    let name = input.name("Relation name")?;
    let replica_identity = match input.u8("Relation replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        found => return Err(DecodeError::UnknownTag { expected: "replica identity", found }),
    };
    let count = input.u16("Relation column count")?;
    let columns = (0..count)
        .map(|_| {
            let in_identity = input.u8("column flags")? & 1 == 1;
            let name = input.name("column name")?.to_owned();
            let type_oid = input.u32("column type")?;
            input.u32("column type modifier")?;
            Ok(Column { name, type_oid, in_identity })
        })
        .collect::<Result<_, _>>()?;
    Ok(Relation {
        oid,
        table: TableName { schema: schema.to_owned(), name: name.to_owned() },
        replica_identity,
        columns,
        leaves: Vec::new(),
    })
}

impl<'a> Tuple<'a> {
    /// Reads the row's values into `cells`, in the relation's order. A column that is not `decoded` is
    /// skipped without being read and gives [`Cell::Excluded`].
    pub fn read_into(&self, decoded: &[bool], cells: &mut Vec<Cell<'a>>) -> Result<(), DecodeError> {
        cells.clear();
        if self.columns != decoded.len() {
            return Err(DecodeError::ColumnCount { expected: decoded.len(), found: self.columns });
        }
        let mut input = Input(self.bytes);
        for wanted in decoded {
            let cell = input.cell()?;
            cells.push(if *wanted { cell } else { Cell::Excluded });
        }
        Ok(())
    }
}

impl<'a> OldTuple<'a> {
    /// Like [`Tuple::read_into`]; columns outside the key are [`Cell::Absent`]. Which columns the key has is decided by the
    /// partition that held the row, so the flags of the Relation message do not tell. Its columns are never null.
    pub fn read_into(&self, decoded: &[bool], cells: &mut Vec<Cell<'a>>) -> Result<(), DecodeError> {
        let (OldTuple::Full(tuple) | OldTuple::Key(tuple)) = self;
        tuple.read_into(decoded, cells)?;
        if matches!(self, OldTuple::Key(_)) {
            for cell in cells.iter_mut().filter(|cell| **cell == Cell::Null) {
                *cell = Cell::Absent;
            }
        }
        Ok(())
    }
}

/// The rest of a message.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_be_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn lsn(&mut self, what: &'static str) -> Result<Lsn, DecodeError> {
        self.array(what).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    fn timestamp(&mut self, what: &'static str) -> Result<Timestamp, DecodeError> {
        self.array(what).map(|bytes| Timestamp(i64::from_be_bytes(bytes)))
    }

    fn name(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(DecodeError::Truncated(what))?;
        let name = self.take(end, what)?;
        self.u8(what)?;
        std::str::from_utf8(name).map_err(|_| DecodeError::NotUtf8(what))
    }

    fn tag(&mut self, expected: u8, what: &'static str) -> Result<(), DecodeError> {
        match self.u8(what)? {
            found if found == expected => Ok(()),
            found => Err(DecodeError::UnknownTag { expected: what, found }),
        }
    }

    fn old_tuple(&mut self, kind: u8) -> Result<OldTuple<'a>, DecodeError> {
        match kind {
            b'K' => self.tuple().map(OldTuple::Key),
            b'O' => self.tuple().map(OldTuple::Full),
            found => Err(DecodeError::UnknownTag { expected: "tuple tag", found }),
        }
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let columns = usize::from(self.u16("tuple column count")?);
        let start = self.0;
        for _ in 0..columns {
            self.cell()?;
        }
        Ok(Tuple { columns, bytes: &start[..start.len() - self.0.len()] })
    }

    fn cell(&mut self) -> Result<Cell<'a>, DecodeError> {
        match self.u8("value tag")? {
            b'n' => Ok(Cell::Null),
            b'u' => Ok(Cell::Unchanged),
            b't' => {
                let length = self.u32("value length")?;
                self.take(length as usize, "value").map(Cell::Text)
            }
            // `b`, a binary value, is sent only if START_REPLICATION asks for it.
            found => Err(DecodeError::UnknownTag { expected: "value tag", found }),
        }
    }
}

#[cfg(test)]
mod tests;
