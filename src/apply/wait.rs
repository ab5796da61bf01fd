//! `users_sync.wait_for`, a function in every target: applications call it after a sign-up to wait for the
//! user's row.

use crate::pg::{Statements, describe};
use tokio_postgres::types::Type;

/// The function's body. Under READ COMMITTED each statement of a volatile function sees new commits; the
/// other levels never show them, so waiting is an error there.
const FUNCTION_BODY: &str = "
DECLARE
  ends constant timestamptz := clock_timestamp() + timeout;
  pause double precision := 0.002;
  left_over double precision;
BEGIN
  LOOP
    IF EXISTS (SELECT FROM neon_auth.users_sync u WHERE u.id = wait_for.user_id AND u.deleted_at IS NULL) THEN
      RETURN true;
    END IF;
    left_over := extract(epoch FROM ends - clock_timestamp());
    IF user_id IS NULL OR (left_over > 0) IS NOT TRUE THEN
      RETURN false;
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
      RAISE EXCEPTION 'users_sync.wait_for cannot see what comes: the isolation level is %',
        current_setting('transaction_isolation')
        USING ERRCODE = 'invalid_transaction_state', HINT = 'Call it before BEGIN, or under READ COMMITTED.';
    END IF;
    PERFORM pg_sleep(least(pause, left_over));
    pause := least(pause * 1.5, 0.02);
  END LOOP;
END
";

/// Whether the function exists with this body: `$1` is [`FUNCTION_BODY`].
const FUNCTION_EXISTS: &str = "\
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc \
WHERE oid = to_regprocedure('users_sync.wait_for(text,interval)') AND prosrc = $1)";

pub(crate) const DROP_WAIT_FOR: &str = "DROP FUNCTION IF EXISTS users_sync.wait_for(text, interval)";

/// Creates or replaces the function in schema `users_sync`. Its callers need only the right to read users.
pub(crate) fn create_wait_for() -> String {
    format!(
        "CREATE OR REPLACE FUNCTION users_sync.wait_for(user_id text, timeout interval DEFAULT '5s') RETURNS boolean \
         LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $wait_for${FUNCTION_BODY}$wait_for$"
    )
}

/// Whether the function exists as this version creates it.
pub(super) async fn is_there(client: &impl Statements) -> Result<bool, tokio_postgres::Error> {
    client.query_typed_one(FUNCTION_EXISTS, &[(&FUNCTION_BODY, Type::TEXT)]).await?.try_get(0)
}

/// Creates the function. Returns why it cannot be created: users are written without it.
pub(super) async fn create(client: &impl Statements) -> Result<Option<String>, tokio_postgres::Error> {
    match client.batch_execute(&create_wait_for()).await {
        Ok(()) => Ok(None),
        // Another process may have created it in the meantime.
        Err(error) if error.as_db_error().is_some() && !is_there(client).await? => Ok(Some(describe(&error))),
        Err(error) if error.as_db_error().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}
