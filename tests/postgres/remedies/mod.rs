//! Every remedy works: each is followed to the letter, and its SQL is run as printed.

mod check;
mod parked;
pub mod scene;

/// A listener on this port that is not PostgreSQL.
async fn no_postgres() -> (u16, tokio::task::JoinHandle<()>) {
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = other.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    (port, answering)
}

/// The keywords that SQL statements start with.
const VERBS: [&str; 7] = ["ALTER ", "GRANT ", "CREATE ", "SELECT ", "INSERT ", "UPDATE ", "SET "];

/// The statements of a printed remedy in order, without the text around them, using the first of several ways.
/// `'...'` stands for a password.
pub fn statements(remedy: &str) -> Vec<String> {
    let first = remedy.split(", or: ").next().unwrap();
    let (text, beforehand) = first.split_once("; beforehand: ").unwrap_or((first, ""));
    let ordered = format!("{beforehand};{text}");
    let pieces = ordered.split(';').map(|piece| piece.trim_start());
    // Parentheses behind a statement hold a remark.
    let pieces = pieces.filter(|piece| !piece.starts_with('('));
    let statements = pieces.filter_map(|piece| {
        let starts = VERBS.iter().filter_map(|verb| piece.find(verb));
        let start = starts.min()?;
        Some(piece[start..].replace("'...'", "'hunter2'").trim().to_owned())
    });
    statements.collect()
}

#[test]
fn statements_are_extracted_from_a_remedy() {
    let check = |remedy: &str, expected: &[&str]| assert_eq!(statements(remedy), expected, "{remedy}");
    check("GRANT a TO b;", &["GRANT a TO b"]);
    check("ALTER ROLE r REPLICATION; (on Amazon RDS: GRANT x TO r;)", &["ALTER ROLE r REPLICATION"]);
    check(
        "run: CREATE INDEX i; ALTER TABLE t; (not null), or: ALTER TABLE t FULL;",
        &["CREATE INDEX i", "ALTER TABLE t"],
    );
    check("point it elsewhere, or run: ALTER ROLE r SET x = off;", &["ALTER ROLE r SET x = off"]);
    check(
        "or this: INSERT INTO t; beforehand: CREATE SCHEMA s; CREATE TABLE t",
        &["CREATE SCHEMA s", "CREATE TABLE t", "INSERT INTO t"],
    );
    check("change the role's password: ALTER ROLE r PASSWORD '...';", &["ALTER ROLE r PASSWORD 'hunter2'"]);
    check("make room", &[]);
}
