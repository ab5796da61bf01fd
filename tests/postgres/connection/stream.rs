//! The replication stream: decoded changes in order, status updates that move the slot, and every way it can end.

use super::{Authority, DEADLINE, parse, tls_server, within};
use crate::support::proxy::{Cut, Direction, TcpProxy};
use rcgen::PKCS_ECDSA_P256_SHA256;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;
use users_sync::capture::pgoutput::{Message, OldTuple, Tuple, parse_message};
use users_sync::capture::{
    CaptureError, Frame, ReplicationConnection, ReplicationReader, ReplicationWriter, StatusUpdate,
};
use users_sync::capture::{publication, slot};
use users_sync::model::{Cell, Lsn, Relation, TableName, Timestamp};
use users_sync::throwaway::{Options, PostgresServer};

const SLOT: &str = "users_sync";
const PUBLICATION: &str = "users_sync";

/// A server with `public.users`, its publication and a slot.
async fn source(server: &PostgresServer) -> slot::CreatedSlot {
    server.sql("postgres", "create table users (id int primary key, name text)").await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    let users = TableName { schema: "public".to_owned(), name: "users".to_owned() };
    assert_eq!(publication::read_publication(&client, PUBLICATION).await.unwrap(), None);
    let published = publication::Published { table: users.clone(), columns: Vec::new() };
    publication::create_publication(&client, PUBLICATION, &[published]).await.unwrap();
    let made = publication::read_publication(&client, PUBLICATION).await.unwrap().unwrap();
    assert!(!made.all_tables && made.inserts && made.updates && made.deletes && made.truncates && made.via_root);
    assert!(publication::table_in_publication(&client, PUBLICATION, &users).await.unwrap());
    let other = TableName { schema: "public".to_owned(), name: "Users".to_owned() };
    assert!(!publication::table_in_publication(&client, PUBLICATION, &other).await.unwrap());
    slot::create_slot(&mut connect(&server.url("postgres")).await, SLOT, false).await.unwrap()
}

async fn connect(url: &str) -> ReplicationConnection {
    within(ReplicationConnection::connect(&parse(url))).await.unwrap()
}

/// The stream, and the relations that it announced.
struct Stream {
    reader: ReplicationReader,
    writer: ReplicationWriter,
    relations: HashMap<u32, Relation>,
}

impl Stream {
    async fn start(url: &str) -> Stream {
        Stream::try_start(url).await.unwrap()
    }

    async fn try_start(url: &str) -> Result<Stream, CaptureError> {
        let connection = connect(url).await;
        let (reader, writer) = within(connection.start_replication(SLOT, Lsn::ZERO, &[PUBLICATION])).await?;
        Ok(Stream { reader, writer, relations: HashMap::new() })
    }

    async fn status(&mut self, flush: Lsn, reply: bool) {
        within(self.writer.status(all_at(flush), Timestamp(0), reply)).await.unwrap();
    }

    /// One transaction with one line per message, and its end position.
    async fn transaction(&mut self) -> (Vec<String>, Lsn) {
        let mut lines = Vec::new();
        loop {
            let Frame::XLogData { data, .. } = within(self.reader.next()).await.unwrap() else { continue };
            let message = parse_message(&data).unwrap();
            lines.push(self.describe(&message));
            if let Message::Commit { end_lsn, .. } = message {
                return (lines, end_lsn);
            }
            if let Message::Relation(relation) = message {
                self.relations.insert(relation.oid, relation);
            }
        }
    }

    fn describe(&self, message: &Message<'_>) -> String {
        match message {
            Message::Begin { .. } => "begin".to_owned(),
            Message::Commit { .. } => "commit".to_owned(),
            Message::Relation(relation) => {
                let columns: Vec<_> = relation.columns.iter().map(|column| &*column.name).collect();
                format!("relation {} ({})", relation.table, columns.join(", "))
            }
            Message::Insert { relation, new } => format!("insert {}", self.row(*relation, new)),
            Message::Update { relation, old, new } => {
                let old = old.map(|old| self.old_row(*relation, &old)).unwrap_or_default();
                format!("update {old}-> {}", self.row(*relation, new))
            }
            Message::Delete { relation, old } => format!("delete {}", self.old_row(*relation, old)),
            Message::Truncate { relations } => format!("truncate {}", relations.len()),
            Message::Logical => "message".to_owned(),
            Message::Origin => "origin".to_owned(),
            Message::Type => "type".to_owned(),
        }
    }

    fn row(&self, relation: u32, tuple: &Tuple<'_>) -> String {
        let mut cells = Vec::new();
        tuple.read_into(&vec![true; self.relations[&relation].columns.len()], &mut cells).unwrap();
        show(&cells)
    }

    fn old_row(&self, relation: u32, old: &OldTuple<'_>) -> String {
        let columns = &self.relations[&relation].columns;
        let mut cells = Vec::new();
        old.read_into(&vec![true; columns.len()], &mut cells).unwrap();
        show(&cells)
    }
}

/// Long values are shown by their length.
fn all_at(position: Lsn) -> StatusUpdate {
    StatusUpdate { written: position, flushed: position, applied: position }
}

fn show(cells: &[Cell<'_>]) -> String {
    let mut line = String::new();
    for cell in cells {
        match cell {
            Cell::Text(text) if text.len() > 100 => write!(line, "<{}> ", text.len()).unwrap(),
            Cell::Text(text) => write!(line, "{} ", String::from_utf8_lossy(text)).unwrap(),
            other => write!(line, "{other:?} ").unwrap(),
        }
    }
    line
}

async fn confirmed(client: &tokio_postgres::Client) -> Lsn {
    slot::read_slot(client, SLOT).await.unwrap().unwrap().confirmed_flush.unwrap()
}

#[tokio::test]
async fn changes_arrive_decoded_and_in_order() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    source(&server).await;
    let client = server.connect("postgres").await.unwrap();
    let mut stream = Stream::start(&server.url("postgres")).await;
    for sql in [
        "insert into users values (1, 'Ann'), (2, null), (3, '')",
        "begin; insert into users values (9, 'unlisted'); rollback",
        "begin; update users set name = 'Bé' where id = 2; savepoint s; delete from users; rollback to s;
         update users set id = 4 where id = 3; delete from users where id = 1; commit",
        // Not sent: messages are not requested.
        "select pg_logical_emit_message(true, 'users_sync', 'hello')",
        "create type mood as enum ('ok'); alter table users replica identity full, add mood mood",
        "update users set mood = 'ok' where id = 2",
        "truncate users",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let relation = "relation public.users (id, name)";
    let with_mood = "relation public.users (id, name, mood)";
    for expected in [
        &[relation, "insert 1 Ann ", "insert 2 Null ", "insert 3  "][..],
        &["update -> 2 Bé ", "update 3 Absent -> 4  ", "delete 1 Absent "],
        &["type", with_mood, "update 2 Bé Null -> 2 Bé ok "],
        // A new storage file counts as a new version of the table.
        &["type", with_mood, "truncate 1"],
    ] {
        let (mut lines, _) = stream.transaction().await;
        // Before PostgreSQL 15, transactions without our changes arrive as an empty pair.
        while lines.len() == 2 {
            lines = stream.transaction().await.0;
        }
        let (first, rest) = lines.split_first().unwrap();
        let (last, changes) = rest.split_last().unwrap();
        assert_eq!(
            (&**first, changes, &**last),
            ("begin", &expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..], "commit")
        );
    }
}

#[tokio::test]
async fn status_updates_move_the_slot_and_confirmed_changes_are_not_resent() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    let created = source(&server).await;
    let client = server.connect("postgres").await.unwrap();
    let mut stream = Stream::start(&server.url("postgres")).await;
    client.batch_execute("insert into users values (1, 'one')").await.unwrap();
    let (_, first) = stream.transaction().await;
    assert!(first > created.consistent_point);

    // An update that confirms nothing is answered and moves nothing.
    stream.status(Lsn::ZERO, true).await;
    while !matches!(within(stream.reader.next()).await.unwrap(), Frame::Keepalive { wal_end, .. } if wal_end >= first) {
    }
    assert!(confirmed(&client).await < first);
    stream.status(first, true).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while confirmed(&client).await < first {
        assert!(tokio::time::Instant::now() < deadline, "the slot does not move");
    }
    assert_eq!(confirmed(&client).await, first);

    client.batch_execute("insert into users values (2, 'two')").await.unwrap();
    client.batch_execute("insert into users values (3, 'three')").await.unwrap();
    assert_eq!(stream.transaction().await.0[1], "insert 2 two ");

    // A new connection starts behind the confirmed position: the second transaction arrives again, the first does not.
    stream.writer.finish().await.unwrap();
    while within(stream.reader.next()).await.unwrap() != Frame::Ended {}
    // Wait until the server has freed the slot.
    let mut stream = Stream::start(&server.url("postgres")).await;
    assert_eq!(stream.transaction().await.0[2], "insert 2 two ");
    assert_eq!(stream.transaction().await.0[1], "insert 3 three ");
    stream.writer.terminate().await.unwrap();
}

#[tokio::test]
async fn large_values_arrive_whole_over_tls_despite_cancelled_reads() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let server = tls_server(Options::new(), authority.sign("127.0.0.1")).await;
    source(&server).await;
    let mut stream = Stream::start(&server.url("postgres").replace("prefer", "require")).await;
    let sql = "insert into users values (1, repeat('x', 1000000)), (2, repeat('y', 40000000)), (3, 'z')";
    server.sql("postgres", sql).await.unwrap();
    let mut given_up = 0u32;
    let mut sizes = Vec::new();
    while sizes.len() < 6 {
        match tokio::time::timeout(Duration::ZERO, stream.reader.next()).await {
            Ok(Ok(Frame::XLogData { data, .. })) => {
                parse_message(&data).unwrap();
                sizes.push(data.len() / 1_000_000);
            }
            Ok(other) => assert!(matches!(other, Ok(Frame::Keepalive { .. })), "{other:?}"),
            Err(_) => {
                given_up += 1;
                // A status update in between disturbs nothing.
                stream.status(Lsn::ZERO, false).await;
            }
        }
    }
    // Begin, Relation, three rows, Commit.
    assert_eq!(sizes, [0, 0, 1, 40, 0, 0]);
    assert!(given_up > 0);
}

#[tokio::test]
async fn a_slot_has_one_reader_and_a_unique_name() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    source(&server).await;
    let url = server.url("postgres");
    let stream = Stream::start(&url).await;
    let code = |error: CaptureError| error.sqlstate().map(str::to_owned);
    assert_eq!(code(Stream::try_start(&url).await.err().unwrap()).as_deref(), Some("55006"));

    let mut connection = connect(&url).await;
    let error = slot::drop_slot(&mut connection, SLOT).await.err().unwrap();
    assert_eq!(code(error).as_deref(), Some("55006"));
    // The connection still works after an error.
    let error = slot::create_slot(&mut connection, SLOT, false).await.err().unwrap();
    assert_eq!(code(error).as_deref(), Some("42710"));
    let system = slot::identify_system(&mut connection).await.unwrap();
    assert_eq!((system.timeline, system.database.as_deref()), (1, Some("postgres")));

    let client = server.connect("postgres").await.unwrap();
    let row = slot::read_slot(&client, SLOT).await.unwrap().unwrap();
    assert_eq!((row.plugin.as_deref(), row.database.as_deref()), (Some("pgoutput"), Some("postgres")));
    assert!(!row.temporary && !row.invalid && row.active_pid.is_some());
    let row = client.query_one("SELECT wal_status FROM pg_replication_slots", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "reserved");

    // A dropped session frees the slot, too; and a temporary slot ends with its session.
    drop(stream);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while slot::drop_slot(&mut connection, SLOT).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the slot is still in use");
    }
    assert_eq!(slot::read_slot(&client, SLOT).await.unwrap(), None);
    let snapshot = slot::create_slot(&mut connection, "gone_soon", true).await.unwrap().snapshot_name;
    let import = format!("begin isolation level repeatable read; set transaction snapshot '{snapshot}'; commit");
    client.batch_execute(&import).await.unwrap();
    drop(connection);
    while slot::read_slot(&client, "gone_soon").await.unwrap().is_some() {
        assert!(tokio::time::Instant::now() < deadline, "the temporary slot is still there");
    }
    let error = Stream::try_start(&url).await.err().unwrap();
    assert_eq!(code(error).as_deref(), Some("42704"));
}

#[tokio::test]
async fn a_missing_publication_is_an_error_or_a_warning_of_the_server() {
    // Half of it has to pass before the server asks whether we are there.
    let server = PostgresServer::start(Options::new().set("wal_sender_timeout", "12s")).await.unwrap();
    source(&server).await;
    server.sql("postgres", "drop publication users_sync; insert into users values (1, 'x')").await.unwrap();
    let mut stream = Stream::start(&server.url("postgres")).await;
    let error = loop {
        match within(stream.reader.next()).await {
            Ok(Frame::Keepalive { .. }) => {}
            // Before 15, a transaction begins on the wire before the server knows what it will send of it.
            Ok(Frame::XLogData { data, .. }) if data.starts_with(b"B") => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    // From 18 on the server only logs a warning and sends nothing until we time out, so users-sync has to check the
    // publication itself.
    let version = server.connect("postgres").await.unwrap();
    let version = version.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap();
    let expected = if version.get::<_, i32>(0) >= 180_000 { None } else { Some("42704") };
    assert_eq!(error.sqlstate(), expected, "{error}");
}

#[tokio::test]
async fn every_way_a_server_can_end_is_recognised() {
    let mut server = PostgresServer::start(Options::new()).await.unwrap();
    source(&server).await;
    for how in ["kill", "immediate", "terminate backend"] {
        let mut stream = Stream::start(&server.url("postgres")).await;
        match how {
            "kill" => server.kill().await.unwrap(),
            "immediate" => server.stop_immediate().await.unwrap(),
            _ => {
                let sql = "select pg_terminate_backend(active_pid) from pg_replication_slots";
                server.sql("postgres", sql).await.unwrap();
            }
        }
        let error = loop {
            match within(stream.reader.next()).await {
                Ok(Frame::Keepalive { .. }) => {}
                Ok(other) => panic!("{how}: {other:?}"),
                Err(error) => break error,
            }
        };
        match how {
            "terminate backend" => assert_eq!(error.sqlstate(), Some("57P01"), "{error}"),
            _ => assert!(matches!(error, CaptureError::Closed | CaptureError::Io(_)), "{how}: {error:?}"),
        }
        server.restart().await.unwrap();
    }

    // A fast shutdown waits until we have everything, then ends the stream.
    let mut stream = Stream::start(&server.url("postgres")).await;
    server.sql("postgres", "insert into users values (1, 'last')").await.unwrap();
    let reading = async {
        let mut rows = 0;
        loop {
            match within(stream.reader.next()).await.unwrap() {
                Frame::XLogData { data, .. } => {
                    rows += usize::from(matches!(parse_message(&data), Ok(Message::Insert { .. })))
                }
                Frame::Keepalive { wal_end, .. } => {
                    // The server may have ended already, with its last message in our buffer.
                    let _ = stream.writer.status(all_at(wal_end), Timestamp(0), false).await;
                }
                Frame::Ended => return rows,
            }
        }
    };
    let (rows, stopped) = tokio::join!(reading, server.stop());
    stopped.unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_cut_inside_a_transaction_is_an_error_and_a_reconnect_receives_it_whole() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    source(&server).await;
    let proxy = TcpProxy::start(([127, 0, 0, 1], server.port()).into()).await.unwrap();
    let url = format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", proxy.port());
    let mut stream = Stream::start(&url).await;
    proxy.cut_when(Direction::ToClient, b"row 5000", Cut::Before);
    server.sql("postgres", "insert into users select n, 'row ' || n from generate_series(1, 10000) n").await.unwrap();
    let mut rows = 0;
    let error = loop {
        match within(stream.reader.next()).await {
            Ok(Frame::XLogData { data, .. }) => {
                rows += usize::from(matches!(parse_message(&data), Ok(Message::Insert { .. })))
            }
            Ok(Frame::Keepalive { .. }) => {}
            Ok(Frame::Ended) => panic!("ended well"),
            Err(error) => break error,
        }
    };
    within(proxy.wait_cut()).await;
    assert!(matches!(error, CaptureError::Closed | CaptureError::Io(_)), "{error:?}");
    assert!(rows < 5000, "{rows}");
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut stream = loop {
        match Stream::try_start(&url).await {
            Ok(stream) => break stream,
            // The old walsender has not noticed yet.
            Err(error) => assert!(error.sqlstate() == Some("55006") && tokio::time::Instant::now() < deadline),
        }
    };
    let (lines, _) = stream.transaction().await;
    assert_eq!(lines.len(), 10_003);
    assert_eq!(lines[10_001], "insert 10000 row 10000 ");
}
