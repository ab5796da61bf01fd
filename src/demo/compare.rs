//! Compares source and targets row by row. One SQL statement computes the expected rows at the source, independently of
//! the mapping.

use super::error::DemoError;
use super::stage::{Stage, TENANTS};
use std::io::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// Time limit for the last changes to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

const EXPECTED: &str = "
    SELECT id::text, (to_jsonb(u) - 'encrypted_password' || jsonb_build_object(
             'id', id::text, 'display_name', n.name, 'primary_email', email,
             'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint))::text,
           n.name, email, created_at::text, updated_at::text, NULL
    FROM auth.users u, LATERAL (SELECT concat_ws(' ', first_name, last_name) AS name) n
    WHERE organization = $1 ORDER BY id::text COLLATE \"C\"";

const ACTUAL: &str = "
    SELECT id, raw_json::text, name, email, created_at::text, updated_at::text, deleted_at::text
    FROM neon_auth.users_sync WHERE deleted_at IS NULL ORDER BY id COLLATE \"C\"";

/// The seven columns of `users_sync`, as text.
type UserRow = [Option<String>; 7];

/// Waits until every target equals the source; returns the number of users compared.
pub(super) async fn until_equal(stage: &Stage, out: &mut impl Write) -> Result<usize, DemoError> {
    let auth = stage.auth().await?;
    let deadline = Instant::now() + TIMEOUT;
    let mut compared = 0;
    for tenant in TENANTS {
        let target = stage.tenant(tenant).await?;
        let actual = loop {
            let expected = rows(&auth, EXPECTED, &[&tenant]).await?;
            let actual = rows(&target, ACTUAL, &[]).await?;
            if actual == expected {
                break actual;
            }
            if Instant::now() > deadline {
                let different = expected.iter().filter(|row| !actual.contains(row)).count();
                return Err(DemoError::Different(format!(
                    "{tenant} has {} users, the source has {}, {different} of these are missing or different",
                    actual.len(),
                    expected.len()
                )));
            }
            sleep(POLL_INTERVAL).await;
        };
        let deleted = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL";
        let deleted: i64 = target.query_one(deleted, &[]).await?.try_get(0)?;
        let todos: i64 = target.query_one("SELECT count(*) FROM todos", &[]).await?.try_get(0)?;
        writeln!(out, "{tenant}: {} users, {deleted} deleted, {todos} todos", actual.len())?;
        compared += actual.len();
    }
    Ok(compared)
}

async fn rows(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<UserRow>, DemoError> {
    let rows = client.query(sql, parameters).await?;
    let mut compared: Vec<UserRow> = Vec::with_capacity(rows.len());
    for row in rows {
        let mut values = UserRow::default();
        for (column, value) in values.iter_mut().enumerate() {
            *value = row.try_get(column)?;
        }
        compared.push(values);
    }
    Ok(compared)
}
