//! Source and targets, row by row. The source computes what a target should hold with one statement of its own,
//! which knows nothing of the mapping.

use super::error::DemoError;
use super::stage::{Stage, TENANTS};
use std::io::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

const WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

const EXPECTED: &str = "
    SELECT id::text, (to_jsonb(u) - 'encrypted_password' || jsonb_build_object(
             'id', id::text, 'display_name', n.name, 'primary_email', email,
             'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint))::text,
           n.name, email, created_at::text, updated_at::text, NULL
    FROM auth.users u, LATERAL (SELECT concat_ws(' ', first_name, last_name) AS name) n
    WHERE organization = $1 ORDER BY id::text COLLATE \"C\"";

const HELD: &str = "
    SELECT id, raw_json::text, name, email, created_at::text, updated_at::text, deleted_at::text
    FROM neon_auth.users_sync WHERE deleted_at IS NULL ORDER BY id COLLATE \"C\"";

type Row = [Option<String>; 7];

/// Waits until what is under way has arrived; gives the number of users compared.
pub(super) async fn until_equal(stage: &Stage, out: &mut impl Write) -> Result<usize, DemoError> {
    let auth = stage.auth().await?;
    let deadline = Instant::now() + WITHIN;
    let mut compared = 0;
    for tenant in TENANTS {
        let target = stage.tenant(tenant).await?;
        let (expected, held) = loop {
            let pair = (rows(&auth, EXPECTED, &[&tenant]).await?, rows(&target, HELD, &[]).await?);
            if pair.0 == pair.1 || Instant::now() > deadline {
                break pair;
            }
            sleep(LOOK_EVERY).await;
        };
        if expected != held {
            let different = expected.iter().filter(|row| !held.contains(row)).count();
            return Err(DemoError::Different(format!(
                "{tenant} holds {} users, the source has {}, {different} of these are missing or different",
                held.len(),
                expected.len()
            )));
        }
        let gone = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL";
        let gone: i64 = target.query_one(gone, &[]).await?.get(0);
        let todos: i64 = target.query_one("SELECT count(*) FROM todos", &[]).await?.get(0);
        writeln!(out, "{tenant}: {} users, {gone} who left, {todos} todos", held.len())?;
        compared += held.len();
    }
    Ok(compared)
}

async fn rows(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, DemoError> {
    let rows = client.query(sql, parameters).await?;
    Ok(rows.iter().map(|row| std::array::from_fn(|column| row.get(column))).collect())
}
