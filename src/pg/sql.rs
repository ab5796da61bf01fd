//! Identifiers and literals in SQL text, for the few places where a parameter cannot stand.

use crate::model::TableName;

/// A quoted identifier: `weird"name` becomes `"weird""name"` (manual: "Identifiers and Key Words").
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's schema and name, both quoted.
pub fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name))
}

/// A quoted string constant, safe whatever `standard_conforming_strings` says (manual: "String Constants
/// with C-Style Escapes"). For replication commands and utility statements, which take no parameters.
pub fn quote_literal(text: &str) -> String {
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
