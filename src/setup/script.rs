//! A script of statements, to be printed or run.

use crate::pg::PgUrl;
use std::fmt;

/// Statements, each safe to run again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    /// Where it is to be run, and as whom.
    pub(crate) heading: String,
    /// In order.
    pub(crate) statements: Vec<Statement>,
}

/// One statement, and why it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// SQL without its semicolon, as people may read it.
    pub(crate) sql: String,
    /// For whom reads it; may be empty.
    pub(crate) why: String,
    /// What has to follow it in `sql` when it is run and must not be shown: a password.
    pub(crate) secret: Option<String>,
}

impl Script {
    pub(super) fn add(&mut self, sql: impl Into<String>, why: impl Into<String>) {
        self.statements.push(Statement { sql: sql.into(), why: why.into(), secret: None });
    }

    /// A role that may log in, with the password that its URL has.
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
    /// As it is run. Not for people.
    pub(crate) fn to_run(&self) -> String {
        format!("{}{}", self.sql, self.secret.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "-- {}", self.heading)?;
        for Statement { sql, why, .. } in &self.statements {
            match why.is_empty() {
                true => writeln!(f, "{sql};")?,
                false => writeln!(f, "{sql};  -- {why}")?,
            }
        }
        Ok(())
    }
}
