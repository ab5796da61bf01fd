//! A script of statements to print or run.

use crate::model::{Made, MadeKind, printable_line};
use crate::pg::{PgUrl, Secret, quote_ident, quote_literal};
use postgres_protocol::password::scram_sha_256;
use std::fmt;

/// Who may create a role.
pub(super) const CREATES_ROLES: &str = "a superuser or a role with CREATEROLE";
/// Who may create or change a role that replicates. The hosts' ways are from their manuals.
pub(super) const CREATES_REPLICATION: &str = "a superuser, or from PostgreSQL 16 on a role with CREATEROLE and REPLICATION. \
    Hosts: on Amazon RDS and Aurora GRANT rds_replication instead; on Google Cloud SQL a member of cloudsqlsuperuser; on \
    Azure a member of azure_pg_admin; on Supabase the role postgres; on Neon create the role in its console, which gives it \
    REPLICATION once logical replication is enabled";
/// Who may give BYPASSRLS.
pub(super) const GIVES_BYPASSRLS: &str = "a superuser, or from PostgreSQL 16 on a role with CREATEROLE and BYPASSRLS";
/// Who may create schemas, and let roles connect.
pub(super) const OWNS_DATABASE: &str = "the owner of the database";

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
    /// Who may run it, if that is not the role of the heading.
    pub(crate) needs: Option<String>,
    /// What it makes, for `teardown`.
    pub(crate) made: Option<Made>,
    /// Appended to `sql` when it is run, and never printed.
    pub(crate) secret: Option<Password>,
}

/// The password of a new role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Password(Secret);

/// How a server gets a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordForm {
    /// Its SCRAM-SHA-256 verifier, from which the password cannot be computed: no log or statistics of the server sees it.
    Verifier,
    /// In clear text, for hosts that check its strength (Neon). Only over a connection that is private.
    ClearText,
}

impl Password {
    fn clause(&self, form: PasswordForm) -> String {
        let Password(Secret(password)) = self;
        let text = match form {
            PasswordForm::Verifier => scram_sha_256(password.as_bytes()),
            PasswordForm::ClearText => password.clone(),
        };
        format!(" PASSWORD {}", quote_literal(&text))
    }
}

impl Script {
    pub(super) fn add(&mut self, sql: impl Into<String>, why: impl Into<String>) {
        let (sql, why) = (sql.into(), why.into());
        self.statements.push(Statement { sql, why, needs: None, made: None, secret: None });
    }

    /// Adds a statement that needs more than the role of the heading.
    pub(super) fn add_for(&mut self, sql: impl Into<String>, why: impl Into<String>, needs: &str) {
        self.add(sql, why);
        self.note(|last| last.needs = Some(needs.to_owned()));
    }

    /// Adds a statement that makes something.
    pub(super) fn add_making(&mut self, sql: impl Into<String>, why: impl Into<String>, made: Made) {
        self.add(sql, why);
        self.note(|last| last.made = Some(made));
    }

    /// Changes the last statement.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Statement)) {
        if let Some(last) = self.statements.last_mut() {
            change(last);
        }
    }

    /// Adds a login role with the password of its URL. `place` is the one of [`Made::schema`].
    pub(super) fn add_role(&mut self, place: &str, url: &PgUrl, attributes: &str, needs: &str) {
        let role = quote_ident(&url.user);
        let password = url.password.clone().map(Password);
        let why = match password {
            Some(_) => "--apply sets the password of its URL, as a SCRAM verifier; by hand, use \\password",
            None => "",
        };
        let sql = format!("CREATE ROLE {role} LOGIN{attributes}");
        let needs = Some(needs.to_owned());
        let (schema, name) = (place.to_owned(), url.user.clone());
        let made = Some(Made { kind: MadeKind::Role, schema, name, previous: String::new() });
        self.statements.push(Statement { sql, why: why.to_owned(), needs, made, secret: password });
    }
}

impl Statement {
    /// The SQL to run. Must not be printed: it may hold a password.
    pub(crate) fn to_run(&self, form: PasswordForm) -> String {
        let password = self.secret.as_ref().map(|password| password.clause(form));
        format!("{}{}", self.sql, password.unwrap_or_default())
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A comment ends with its line: names in it must not contain one.
        writeln!(f, "-- {}", printable_line(&self.heading))?;
        for Statement { sql, why, needs, .. } in &self.statements {
            if let Some(needs) = needs {
                writeln!(f, "-- the next one needs {}", printable_line(needs))?;
            }
            if why.is_empty() {
                writeln!(f, "{sql};")?;
            } else {
                writeln!(f, "{sql};  -- {}", printable_line(why))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_a_comment() {
        let mut script = Script { heading: "database a\n\\! sh".to_owned(), ..Script::default() };
        script.add("SELECT 1", "on x\r\u{2028}\n\\! sh");
        assert_eq!(script.to_string(), "-- database a\\n\\! sh\nSELECT 1;  -- on x\\u000d\\u2028\\n\\! sh\n");
    }

    #[test]
    fn a_password_is_sent_as_a_verifier_and_never_printed() {
        let url = PgUrl::parse("postgres://new:hunter2@h/db").unwrap();
        let mut script = Script::default();
        script.add_role("source", &url, "", CREATES_ROLES);
        assert!(!format!("{script} {script:?}").contains("hunter2"));
        let sent = script.statements[0].to_run(PasswordForm::Verifier);
        assert!(sent.starts_with("CREATE ROLE \"new\" LOGIN PASSWORD 'SCRAM-SHA-256$4096:"), "{sent}");
        assert!(!sent.contains("hunter2"));
        let clear = script.statements[0].to_run(PasswordForm::ClearText);
        assert_eq!(clear, "CREATE ROLE \"new\" LOGIN PASSWORD 'hunter2'");
    }
}
