//! Chooses the name of the replication slot: names are unique in a server, not in a database.

use tokio_postgres::{Client, Error};

/// The default of `source.slot`.
const DEFAULT: &str = "users_sync";
/// The longest name of a slot, in bytes.
const MAX_NAME: usize = 63;

/// A name that no other database of the server has taken; `None` if that is the default.
pub(crate) async fn free_slot(client: &Client) -> Result<Option<String>, Error> {
    let sql = "SELECT slot_name::text FROM pg_catalog.pg_replication_slots
               WHERE database IS DISTINCT FROM current_database()";
    let taken: Vec<String> =
        client.query(sql, &[]).await?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !taken.iter().any(|name| name == DEFAULT) {
        return Ok(None);
    }
    let database: String = client.query_one("SELECT current_database()::text", &[]).await?.try_get(0)?;
    Ok(Some(name_for(&database, &taken)))
}

/// A name for a database that is not among `taken`.
fn name_for(database: &str, taken: &[String]) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let database: String = database.chars().map(allowed).collect();
    let numbered = (2..).map(|n| format!("{DEFAULT}_{n}_{database}"));
    let names = std::iter::once(format!("{DEFAULT}_{database}")).chain(numbered);
    let mut names = names.map(|name| name.chars().take(MAX_NAME).collect());
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_not_taken() {
        let taken = ["users_sync", "users_sync_shop"].map(str::to_owned);
        assert_eq!(name_for("My-Auth", &taken), "users_sync_my_auth");
        assert_eq!(name_for("shop", &taken), "users_sync_2_shop");
        assert_eq!(name_for(&"é".repeat(63), &taken).len(), MAX_NAME);
    }
}
