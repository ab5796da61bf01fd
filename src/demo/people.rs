//! What the page shows and changes: the people of the auth store, and the rows of both targets. All that a visitor types is a
//! parameter of a statement.

use super::error::DemoError;
use super::stage::{Stage, TENANTS};
use super::visible::{Change, visible};
use serde::Serialize;
use std::cmp::Reverse;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// Rows that the page shows of each side.
const SHOWN: usize = 50;
/// Maximum number of sign-ups, so that a visitor cannot fill the disk. Deleted people stay in the targets.
const MAX_SIGN_UPS: usize = 10_000;

const PEOPLE: &str = "
    SELECT id::text, organization, first_name, last_name, email, count(*) OVER ()
    FROM auth.users ORDER BY created_at DESC, id LIMIT $1";

/// The seven columns of `users_sync`; the page has no room for more of the profile.
const ROWS: &str = "
    SELECT id, left(raw_json::text, 300), name, email, created_at::text, updated_at::text, deleted_at::text, count(*) OVER ()
    FROM neon_auth.users_sync ORDER BY created_at DESC NULLS LAST, id LIMIT $1";

/// One connection to each database, which all requests share.
pub(super) struct People {
    auth: Client,
    targets: [Client; 2],
    sign_ups: AtomicUsize,
}

/// Both sides, the newest people first.
#[derive(Serialize)]
pub(super) struct View {
    people: Vec<Person>,
    people_total: i64,
    rows: Vec<UserRow>,
    rows_total: i64,
}

/// A row of `auth.users`.
#[derive(Serialize)]
struct Person {
    id: String,
    organization: String,
    first_name: Option<String>,
    last_name: Option<String>,
    email: Option<String>,
}

/// A row of `neon_auth.users_sync`, and the tenant of its target.
#[derive(Serialize)]
struct UserRow {
    tenant: &'static str,
    id: String,
    raw_json: String,
    name: Option<String>,
    email: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
    deleted_at: Option<String>,
}

/// A committed change.
#[derive(Serialize)]
pub(super) struct Committed {
    id: String,
    organization: &'static str,
    /// Milliseconds until a query of the target returned it; `null` if none did within the time limit.
    visible_ms: Option<f64>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unchanged {
    #[error("there is no such person")]
    NoPerson,
    #[error("the organization must be one of {}", TENANTS.join(", "))]
    NoOrganization,
    #[error("the demo takes no more than {MAX_SIGN_UPS} sign-ups")]
    Full,
    #[error(transparent)]
    Demo(#[from] DemoError),
}

impl From<tokio_postgres::Error> for Unchanged {
    fn from(error: tokio_postgres::Error) -> Unchanged {
        Unchanged::Demo(error.into())
    }
}

impl People {
    pub(super) async fn connect(stage: &Stage) -> Result<People, DemoError> {
        let targets = [stage.tenant(TENANTS[0]).await?, stage.tenant(TENANTS[1]).await?];
        Ok(People { auth: stage.auth().await?, targets, sign_ups: AtomicUsize::new(0) })
    }

    pub(super) async fn view(&self) -> Result<View, DemoError> {
        let limit: &[&(dyn ToSql + Sync)] = &[&(SHOWN as i64)];
        let [first, second] = &self.targets;
        let (people, first, second) =
            tokio::try_join!(self.auth.query(PEOPLE, limit), first.query(ROWS, limit), second.query(ROWS, limit))?;
        let mut view = View { people: Vec::new(), people_total: 0, rows: Vec::new(), rows_total: 0 };
        for row in &people {
            view.people.push(person(row)?);
            view.people_total = row.try_get(5)?;
        }
        for (tenant, rows) in TENANTS.into_iter().zip([first, second]) {
            for row in &rows {
                view.rows.push(user_row(tenant, row)?);
            }
            view.rows_total += rows.first().map_or(Ok(0), |row| row.try_get(7))?;
        }
        // As text, times of one time zone are in order too.
        view.rows.sort_by(|a, b| (Reverse(&a.created_at), &a.id).cmp(&(Reverse(&b.created_at), &b.id)));
        view.rows.truncate(SHOWN);
        Ok(view)
    }

    pub(super) async fn sign_up(&self, organization: &str, first: &str, last: &str) -> Result<Committed, Unchanged> {
        let tenant = tenant_of(organization)?;
        let number = self.sign_ups.fetch_add(1, Ordering::Relaxed);
        if number >= MAX_SIGN_UPS {
            return Err(Unchanged::Full);
        }
        let username = username(first, number);
        let sql = "INSERT INTO auth.users (organization, username, first_name, last_name, email) \
                   VALUES ($1, $2, $3, $4, $2 || '@example.com') RETURNING id::text";
        let id: String = self.auth.query_one(sql, &[&organization, &username, &first, &last]).await?.try_get(0)?;
        self.committed(tenant, id, Change::SignUp).await
    }

    pub(super) async fn rename(&self, id: &str, first: &str, last: &str) -> Result<Committed, Unchanged> {
        let sql = "UPDATE auth.users SET first_name = $2, last_name = $3, updated_at = clock_timestamp() \
                   WHERE id = $1::text::uuid RETURNING organization, updated_at::text";
        let id = checked(id)?;
        let row = self.auth.query_opt(sql, &[&id, &first, &last]).await?.ok_or(Unchanged::NoPerson)?;
        let updated_at: String = row.try_get(1)?;
        self.committed(tenant_of(row.try_get(0)?)?, id, Change::Rename(&updated_at)).await
    }

    pub(super) async fn delete(&self, id: &str) -> Result<Committed, Unchanged> {
        let sql = "DELETE FROM auth.users WHERE id = $1::text::uuid RETURNING organization";
        let id = checked(id)?;
        let row = self.auth.query_opt(sql, &[&id]).await?.ok_or(Unchanged::NoPerson)?;
        self.committed(tenant_of(row.try_get(0)?)?, id, Change::Delete).await
    }

    /// Waits until the change is visible.
    async fn committed(&self, tenant: usize, id: String, change: Change<'_>) -> Result<Committed, Unchanged> {
        let visible = visible(&self.targets[tenant], &id, change).await?;
        let visible_ms = visible.map(|time: Duration| time.as_secs_f64() * 1000.0);
        Ok(Committed { id, organization: TENANTS[tenant], visible_ms })
    }
}

/// An id as PostgreSQL shows it. No person has any other.
fn checked(id: &str) -> Result<String, Unchanged> {
    Uuid::parse_str(id).map(|id| id.to_string()).map_err(|_| Unchanged::NoPerson)
}

/// The place of an organization among the tenants.
fn tenant_of(organization: &str) -> Result<usize, Unchanged> {
    TENANTS.iter().position(|tenant| *tenant == organization).ok_or(Unchanged::NoOrganization)
}

/// A user name from the letters and digits of the first name. The number makes it different from all others.
fn username(first: &str, number: usize) -> String {
    let plain = first.chars().filter(char::is_ascii_alphanumeric).take(20).collect::<String>().to_lowercase();
    format!("{}.{}", if plain.is_empty() { "visitor" } else { &plain }, number + 1)
}

fn person(row: &Row) -> Result<Person, tokio_postgres::Error> {
    Ok(Person {
        id: row.try_get(0)?,
        organization: row.try_get(1)?,
        first_name: row.try_get(2)?,
        last_name: row.try_get(3)?,
        email: row.try_get(4)?,
    })
}

fn user_row(tenant: &'static str, row: &Row) -> Result<UserRow, tokio_postgres::Error> {
    Ok(UserRow {
        tenant,
        id: row.try_get(0)?,
        raw_json: row.try_get(1)?,
        name: row.try_get(2)?,
        email: row.try_get(3)?,
        created_at: row.try_get(4)?,
        updated_at: row.try_get(5)?,
        deleted_at: row.try_get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_has_only_letters_digits_and_its_number() {
        assert_eq!(username("Ada", 0), "ada.1");
        assert_eq!(username("<script>alert('x')", 1), "scriptalertx.2");
        assert_eq!(username("張", 41), "visitor.42");
        assert_eq!(username(&"a".repeat(100), 0), format!("{}.1", "a".repeat(20)));
    }
}
