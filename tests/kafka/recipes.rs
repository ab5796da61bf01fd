//! The programs of docs/KAFKA.md run as they are printed there, apart from the names of the broker and the topic.

use crate::bed::TeeBed;
use crate::broker::{Broker, libraries_of_kafka};
use crate::sinks::{said, start};
use crate::support::process::Process;
use crate::support::{DEADLINE, pause};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;
use tokio::process::Child;

const THERE: &str = "INSERT INTO auth.users (id, org, first_name) \
                     VALUES ('ann', 'acme', 'Ann'), ('bob', 'acme', 'Bob'), ('cy', 'acme', NULL)";
const LIFE: [&str; 3] = [
    "UPDATE auth.users SET first_name = 'Anna', updated_at = now() WHERE id = 'ann'",
    "INSERT INTO auth.users (id, org, first_name) VALUES ('dan', 'acme', 'Dan Ü')",
    "DELETE FROM auth.users WHERE id = 'bob'",
];

/// The program in this language, for a broker and a topic.
fn program(language: &str, broker: &Broker, topic: &str) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/KAFKA.md")).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect(language);
    let (text, _) = rest.split_once("```").unwrap();
    assert!(text.contains("kafka-1:9092") && text.contains("users_sync.acme"), "{text}");
    text.replace("kafka-1:9092", &broker.address()).replace("users_sync.acme", topic)
}

/// Waits until the last line of each user says this. `read` takes the user's id and name from a line.
async fn prints(
    directory: &Path,
    process: &mut Child,
    expected: &BTreeMap<String, String>,
    read: impl Fn(&str) -> Option<(String, String)>,
) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let out = said(directory, "out");
        let last: BTreeMap<String, String> = out.lines().filter_map(&read).collect();
        if last == *expected {
            return;
        }
        let runs = process.try_wait().unwrap().is_none();
        assert!(runs && Instant::now() < deadline, "{out}\n{}", said(directory, "log"));
        pause().await;
    }
}

/// Python with the packages of requirements.txt.
fn python() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka-python");
    let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/requirements.txt");
    let python = directory.join("bin/python");
    let run = |program: &Path, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).output().expect("make setup installs Python");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run(Path::new("python3"), &["-m", "venv", directory.to_str().unwrap()]);
    run(&python, &["-m", "pip", "install", "--quiet", "--no-input", "--require-hashes", "--requirement", requirements]);
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumers_of_the_manual_follow_the_users() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "manual", "", "").await;
    bed.auth(THERE).await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;

    let in_python = TempDir::new().unwrap();
    let path = in_python.path().join("users.py");
    std::fs::write(&path, program("python", broker, "manual.acme")).unwrap();
    let python = tokio::task::spawn_blocking(python).await.unwrap();
    let mut command = Command::new(python);
    command.current_dir(in_python.path()).arg(path);
    let mut python = start(in_python.path(), command);
    let in_java = TempDir::new().unwrap();
    let path = in_java.path().join("Users.java");
    std::fs::write(&path, program("java", broker, "manual.acme")).unwrap();
    let libraries = tokio::task::spawn_blocking(libraries_of_kafka).await.unwrap();
    let mut command = Command::new("java");
    command.current_dir(in_java.path()).args(["-cp", &libraries]).arg(path);
    let mut java = start(in_java.path(), command);

    for statement in LIFE {
        bed.auth(statement).await;
    }
    let users = [("ann", "Anna"), ("bob", "(deleted)"), ("cy", "None"), ("dan", "Dan Ü")];
    let users = BTreeMap::from(users.map(|(id, name)| (id.to_owned(), name.to_owned())));
    prints(in_python.path(), &mut python, &users, |line| {
        line.split_once('\t').map(|(id, name)| (id.to_owned(), name.to_owned()))
    })
    .await;
    prints(in_java.path(), &mut java, &users, |line| {
        let (key, value) = line.split_once('\t')?;
        let (key, value): (Value, Value) = (serde_json::from_str(key).ok()?, serde_json::from_str(value).ok()?);
        let name = match (value["after"]["deleted_at"].as_str(), value["after"]["name"].as_str()) {
            (Some(_), _) => "(deleted)",
            (None, name) => name.unwrap_or("None"),
        };
        Some((key["id"].as_str()?.to_owned(), name.to_owned()))
    })
    .await;
    assert!(process.stop().await.success());
}
