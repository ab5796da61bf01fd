//! A replication connection (manual: "Streaming Replication Protocol"): logs in and runs replication
//! commands.
//!
//! tokio-postgres has no replication mode; framing and messages come from postgres-protocol. A command whose
//! future is dropped leaves the connection in the middle of an answer: drop the connection too.

use super::CaptureError;
use super::auth::authenticate;
use super::commands::start_command;
use super::stream::{ReplicationReader, ReplicationWriter};
use super::wire::{Reply, Wire};
use crate::model::Lsn;
use crate::pg::{ConnectError, NO_TIMEOUTS, PgUrl, Stream, connect_with, walsender_options, with_password};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

/// Timeouts of the role or database: those that end idle or long sessions are off, and those for a peer that is silent
/// allow for status updates once a second, and for a stream that waits for targets.
const SET_TIMEOUTS: &str = "SELECT pg_catalog.set_config(name, '60s', false) FROM pg_catalog.pg_settings \
    WHERE name IN ('wal_sender_timeout', 'tcp_user_timeout') AND setting::pg_catalog.int4 BETWEEN 1 AND 9999";
/// In this encoding a database may hold any bytes, and the server fails to send others than UTF-8 to a client of UTF-8:
/// the stream would end. We check each value that is used.
const UNCHECKED_ENCODING: &str = "SQL_ASCII";

/// A session in walsender mode on one database.
pub struct ReplicationConnection {
    wire: Wire,
    backend_pid: i32,
    server_version: u32,
}

impl ReplicationConnection {
    /// Connects and logs in, within the URL's `connect_timeout`. The role needs REPLICATION.
    pub async fn connect(url: &PgUrl) -> Result<Self, CaptureError> {
        let connection = with_password(url, |url| {
            let attempt = connect_with(url, move |stream| {
                Box::pin(async move { log_in(url, stream).await.map_err(|error| as_connect_error(url, error)) })
            });
            Box::pin(attempt)
        });
        Ok(connection.await?)
    }

    /// The process id of the walsender, as in `pg_stat_activity`.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The server's version in the form of `server_version_num`: 150004 for 15.4.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// Runs a replication command or SQL statement, and returns its rows in text form; invalid UTF-8 is
    /// replaced.
    ///
    /// Not cancel-safe, and without a time limit: creating a slot waits for running transactions.
    pub async fn simple_query(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, CaptureError> {
        self.wire.send(|out| frontend::query(command, out)).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.wire.receive().await {
                Ok(Reply::Message(Message::DataRow(row))) => rows.push(parse_row(&row)?),
                Ok(Reply::Message(Message::ReadyForQuery(_))) => return failure.map_or(Ok(rows), Err),
                // ReadyForQuery follows, unless the error ended the session.
                Err(error @ CaptureError::Server(_)) => failure = failure.or(Some(error)),
                Err(error) => return Err(failure.unwrap_or(error)),
                Ok(Reply::CopyBoth) => return Err(CaptureError::protocol("CopyBothResponse to an ordinary command")),
                Ok(Reply::Message(_)) => {}
            }
        }
    }

    /// Starts streaming from the slot, at `from` or at the slot's confirmed position, whichever is later.
    ///
    /// The server skips to the confirmed position without notice: compare `from` with the slot first.
    pub async fn start_replication(
        mut self,
        slot: &str,
        from: Lsn,
        publications: &[&str],
    ) -> Result<(ReplicationReader, ReplicationWriter), CaptureError> {
        let command = start_command(slot, from, publications);
        self.wire.send(|out| frontend::query(&command, out)).await?;
        loop {
            match self.wire.receive().await? {
                Reply::CopyBoth => break,
                Reply::Message(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Reply::Message(_) => return Err(CaptureError::protocol("no CopyBothResponse to START_REPLICATION")),
            }
        }
        let (read, write) = tokio::io::split(self.wire.stream);
        Ok((ReplicationReader::new(read, self.wire.incoming), ReplicationWriter::new(write)))
    }
}

async fn log_in(url: &PgUrl, stream: Stream) -> Result<ReplicationConnection, CaptureError> {
    let mut wire = Wire::new(stream);
    let options = walsender_options(url);
    let parameters = [
        ("user", &*url.user),
        ("database", &*url.database),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", &*url.application_name),
        ("options", &*options),
    ];
    wire.send(|out| frontend::startup_message(parameters, out)).await?;
    authenticate(&mut wire, url).await?;

    let mut connection = ReplicationConnection { wire, backend_pid: 0, server_version: 0 };
    let mut settings = format!("{NO_TIMEOUTS}; {SET_TIMEOUTS}");
    loop {
        match connection.wire.receive().await? {
            Reply::Message(Message::BackendKeyData(key)) => connection.backend_pid = key.process_id(),
            Reply::Message(Message::ParameterStatus(parameter)) => {
                match (parameter.name().unwrap_or_default(), parameter.value().unwrap_or_default()) {
                    ("server_version", version) => connection.server_version = parse_version(version),
                    ("server_encoding", UNCHECKED_ENCODING) => {
                        settings.push_str(&format!("; SET client_encoding = {UNCHECKED_ENCODING}"));
                    }
                    _ => {}
                }
            }
            Reply::Message(Message::NoticeResponse(_)) => {}
            Reply::Message(Message::ReadyForQuery(_)) => break,
            _ => return Err(CaptureError::protocol("unexpected message after AuthenticationOk")),
        }
    }
    connection.wire.logged_in();
    connection.simple_query(&settings).await?;
    Ok(connection)
}

/// Every error during the login is a connection error.
fn as_connect_error(url: &PgUrl, error: CaptureError) -> ConnectError {
    match error {
        CaptureError::Connect(error) => error,
        CaptureError::Server(error) => ConnectError::refused(url, *error),
        CaptureError::Io(error) => ConnectError::unreachable(url, error),
        CaptureError::Closed => ConnectError::unreachable(url, std::io::ErrorKind::UnexpectedEof.into()),
        CaptureError::Protocol(what) => ConnectError::protocol(url, what),
        CaptureError::Query(error) => ConnectError::protocol(url, error),
    }
}

fn parse_row(row: &DataRowBody) -> Result<Vec<Option<String>>, CaptureError> {
    let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&row.buffer()[range]).into_owned();
    row.ranges()
        .map(|range| Ok(range.map(text)))
        .collect()
        .map_err(|error: std::io::Error| CaptureError::Protocol(error.to_string()))
}

/// Parses `15.4 (Debian ...)`, `17beta1` or `18devel` into major and minor number; 0 for any other text.
fn parse_version(text: &str) -> u32 {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        (text[..end].parse::<u32>().unwrap_or(0), text[end..].to_owned())
    };
    let (major, rest) = number(text);
    let minor = rest.strip_prefix('.').map_or(0, |rest| number(rest).0);
    major.saturating_mul(10_000).saturating_add(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_versions_are_parsed_into_numbers() {
        for (text, number) in [
            ("15.4 (Debian 15.4-1.pgdg120+1)", 150_004),
            ("17beta1", 170_000),
            ("18devel", 180_000),
            ("16.10", 160_010),
            ("?", 0),
        ] {
            assert_eq!(parse_version(text), number, "{text}");
        }
    }
}
