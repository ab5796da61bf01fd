//! Our values as PostgreSQL's binary parameters.

use crate::model::{Lsn, Timestamp};
use bytes::{BufMut, BytesMut};
use std::error::Error;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A moment as `timestamptz` (timestamptz_recv: microseconds since 2000-01-01).
#[derive(Debug)]
pub struct Moment(pub Timestamp);

impl ToSql for Moment {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// A position as `pg_lsn` (pg_lsn_recv: eight bytes).
#[derive(Debug)]
pub struct Position(pub Lsn);

impl ToSql for Position {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u64(self.0.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::PG_LSN
    }

    to_sql_checked!();
}
