//! A script of statements to print or run.

use crate::pg::PgUrl;
use std::fmt;

/// Statements, each safe to repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    /// The database and role to run it with.
    pub(crate) heading: String,
    pub(crate) statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// SQL without semicolon and secrets.
    pub(crate) sql: String,
    /// Printed as a comment. May be empty.
    pub(crate) why: String,
    /// Appended to `sql` when it is run, and never printed: a password.
    pub(crate) secret: Option<String>,
}

impl Script {
    pub(super) fn add(&mut self, sql: impl Into<String>, why: impl Into<String>) {
        self.statements.push(Statement { sql: sql.into(), why: why.into(), secret: None });
    }

    /// Adds a login role with the password of its URL.
    pub(super) fn add_role(&mut self, url: &PgUrl, attributes: &str) {
        let role = crate::pg::quote_ident(&url.user);
        let password = url.password.as_ref().map(|secret| format!(" PASSWORD {}", crate::pg::quote_literal(&secret.0)));
        let why = match password {
            Some(_) => "--apply sets the password of its URL; by hand, use \\password",
            None => "",
        };
        let sql = format!("CREATE ROLE {role} LOGIN{attributes}");
        self.statements.push(Statement { sql, why: why.to_owned(), secret: password });
    }
}

impl Statement {
    /// The SQL to run. Must not be printed: it may hold a password.
    pub(crate) fn to_run(&self) -> String {
        format!("{}{}", self.sql, self.secret.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "-- {}", self.heading)?;
        for Statement { sql, why, .. } in &self.statements {
            if why.is_empty() {
                writeln!(f, "{sql};")?;
            } else {
                writeln!(f, "{sql};  -- {why}")?;
            }
        }
        Ok(())
    }
}
