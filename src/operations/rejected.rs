//! The users that a target rejects, as its `users_sync.rejected` has them, in pages.

use crate::model::hex;
use crate::pg::{PgTimestamp, Statements, TargetClient};
use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

/// A page, the newest first. `$1` and `$2` are the last row of the page before, `$3` is the number of rows.
const PAGE: &str = "\
SELECT left(id::text, 1000), reason::text, left(sqlstate::text, 10), since::timestamptz, tried_at::timestamptz, \
  substr(id_hash::bytea, 1, 33) \
FROM users_sync.rejected \
WHERE $1::timestamptz IS NULL OR (since, id_hash) < ($1, $2::bytea) \
ORDER BY since DESC, id_hash DESC LIMIT $3";

/// The number of rows. Another program may have left any there.
const TOTAL: &str = "SELECT count(*) FROM users_sync.rejected";

/// A user that a target rejects.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct RejectedUser {
    /// Its id, at most 1,000 characters of it.
    pub(crate) id: String,
    /// Why its row is not in the table.
    pub(crate) reason: String,
    /// The code of the target's refusal.
    pub(crate) sqlstate: String,
    /// When it was rejected first.
    pub(crate) since: String,
    /// When it was tried last.
    pub(crate) tried_at: String,
}

/// A page of such users.
pub(crate) struct RejectedPage {
    pub(crate) users: Vec<RejectedUser>,
    /// Continues after this page; `None` on the last one.
    pub(crate) next: Option<Cursor>,
    /// Number of users on all pages.
    pub(crate) total: u64,
}

/// The last row of a page.
#[derive(Clone)]
pub(crate) struct Cursor {
    since: PgTimestamp,
    key: Vec<u8>,
}

impl Cursor {
    /// `MICROSECONDS-HASH`.
    pub(crate) fn parse(text: &str) -> Option<Cursor> {
        let (micros, key) = text.rsplit_once('-')?;
        let since = PgTimestamp(crate::model::Timestamp(micros.parse().ok()?));
        let digits = |at: usize| u8::from_str_radix(key.get(at..at + 2)?, 16).ok();
        let key = (0..key.len()).step_by(2).map(digits).collect::<Option<_>>()?;
        Some(Cursor { since, key })
    }

    pub(crate) fn to_text(&self) -> String {
        let key = hex(&self.key);
        format!("{}-{key}", self.since.0.0)
    }
}

/// Reads a page after `cursor`. `limit` is its largest number of users.
pub(crate) async fn rejected(
    client: &TargetClient,
    cursor: Option<&Cursor>,
    limit: usize,
) -> Result<RejectedPage, Error> {
    let (since, key) = (cursor.map(|cursor| cursor.since), cursor.map(|cursor| &*cursor.key));
    let rows = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let page =
        client.query_typed(PAGE, &[(&since, Type::TIMESTAMPTZ), (&key, Type::BYTEA), (&rows, Type::INT8)]).await?;
    let total: i64 = client.query_typed_one(TOTAL, &[]).await?.try_get(0)?;
    let users = page.iter().take(limit).map(user).collect::<Result<_, _>>()?;
    let next = match page.len() > limit {
        true => page.get(limit.saturating_sub(1)).map(last).transpose()?,
        false => None,
    };
    Ok(RejectedPage { users, next, total: total.unsigned_abs() })
}

fn user(row: &Row) -> Result<RejectedUser, Error> {
    let text = |column: usize| Ok::<String, Error>(row.try_get::<_, Option<String>>(column)?.unwrap_or_default());
    let at = |column: usize| {
        let at = row.try_get::<_, Option<PgTimestamp>>(column)?;
        Ok::<String, Error>(at.map_or_else(String::new, |PgTimestamp(at)| at.to_string()))
    };
    Ok(RejectedUser { id: text(0)?, reason: text(1)?, sqlstate: text(2)?, since: at(3)?, tried_at: at(4)? })
}

fn last(row: &Row) -> Result<Cursor, Error> {
    Ok(Cursor { since: row.try_get(3)?, key: row.try_get(5)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_others_are_refused() {
        for text in ["790000000000000-00ff10", "-5-ab", "0-"] {
            assert_eq!(Cursor::parse(text).map(|cursor| cursor.to_text()).as_deref(), Some(text));
        }
        for text in ["", "x", "1-a", "1-zz", "1-\u{e9}", "-", "12"] {
            assert!(Cursor::parse(text).is_none(), "{text}");
        }
    }
}
