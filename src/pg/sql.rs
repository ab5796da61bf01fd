//! Quotes identifiers and literals for SQL text that cannot take parameters.

use crate::model::TableName;

/// Quotes an identifier: `weird"name` becomes `"weird""name"` (manual: "Identifiers and Key Words").
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a table's schema and name.
pub(crate) fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name))
}

/// Quotes a string constant so that it is safe for any `standard_conforming_strings` (manual: "String
/// Constants with C-Style Escapes"). For replication commands and utility statements, which take no
/// parameters.
pub(crate) fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_case_dots_and_quotes() {
        assert_eq!(quote_ident("User"), "\"User\"");
        assert_eq!(quote_ident("a.b"), "\"a.b\"");
        assert_eq!(quote_ident("we\"ird"), "\"we\"\"ird\"");
    }

    #[test]
    fn literals_cannot_be_broken_out_of() {
        assert_eq!(quote_literal("plain"), "'plain'");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }
}
