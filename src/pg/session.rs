//! The settings of our sessions. Pure.

use super::PgUrl;

/// The schemas that names without a schema are looked up in. Temporary objects come last: they cannot take
/// the place of built-in ones.
pub(super) const SEARCH_PATH: &str = "pg_catalog,pg_temp";

/// As a startup option, which overrides the settings of the database and of the role.
pub(super) const PATH_OPTION: &str = "-c search_path=pg_catalog,pg_temp";

/// The timeouts of the role or database must not end our sessions. `transaction_timeout` exists from 17 on.
pub(crate) const NO_TIMEOUTS: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN \
    ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";
/// The same for one transaction of a target, for the timeout that `SET LOCAL` may not know.
pub(crate) const NO_TRANSACTION_TIMEOUT: &str = "SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings \
    WHERE name = 'transaction_timeout'";

/// Settings of every session that reads the source, by SQL or by replication. Values have the same text form under any
/// defaults of the database and of the role; `quote_all_identifiers` concerns `regclass` and its like.
const READING: [(&str, &str); 6] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("quote_all_identifiers", "off"),
];

/// Statements for a session that reads the source.
pub(crate) fn reading_statements() -> String {
    READING.map(|(name, value)| format!("SET {name} = '{value}'")).join("; ")
}

/// The startup options of a walsender. The server uses the last value of a setting, so these override the URL's. As for SQL,
/// a `search_path` in the URL is kept: names in the text form of a value depend on it.
pub(crate) fn walsender_options(url: &PgUrl) -> String {
    let path = if sets_path(url) { None } else { Some(PATH_OPTION.to_owned()) };
    let settings = READING.iter().map(|(name, value)| format!("-c {name}={value}"));
    url.options.iter().cloned().chain(path).chain(settings).collect::<Vec<_>>().join(" ")
}

/// Whether the operator has chosen another `search_path`.
pub(super) fn sets_path(url: &PgUrl) -> bool {
    url.options.as_ref().is_some_and(|options| options.contains("search_path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walsender_has_the_settings_and_the_path_of_a_sql_session() {
        let options = |query: &str| walsender_options(&PgUrl::parse(&format!("postgres://u@h/d{query}")).unwrap());
        let plain = options("");
        assert!(plain.starts_with("-c search_path=pg_catalog,pg_temp -c TimeZone=UTC "), "{plain}");
        assert_eq!(plain.matches("-c ").count() - 1, reading_statements().matches("SET ").count());
        let own = options("?options=-c%20search_path%3Dstore%20-c%20TimeZone%3DCET");
        assert!(own.starts_with("-c search_path=store -c TimeZone=CET -c TimeZone=UTC "), "{own}");
        assert!(!own.contains("pg_catalog"), "{own}");
    }
}
