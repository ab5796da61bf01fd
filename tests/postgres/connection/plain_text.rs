//! Connections with `sslmode=prefer` that end in plain text: `check` and the log of `run` report each of them.

use crate::support::Bed;
use crate::support::process::{Process, command, config_file, said};
use users_sync::throwaway::Options;

/// 127.0.0.2 stands for a host on the network. No URL has a password.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_plain_text_is_reported_by_check_and_logged_by_run() {
    let options = Options::new().set("listen_addresses", "127.0.0.1,127.0.0.2").hba("host all all 127.0.0.0/8 trust");
    let bed = Bed::start_with(&["acme", "globex"], options).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme'), ('u', 'globex')").await;
    bed.server.create_database("state").await.unwrap();
    let url = |database: &str, mode: &str| {
        bed.url(database).to_string().replace("127.0.0.1", "postgres://postgres@127.0.0.2") + mode
    };
    let config = |mode: &str| {
        let targets = [("acme".to_owned(), url("acme", mode)), ("globex".to_owned(), bed.server.url("globex"))];
        config_file(&url("auth", mode), &targets, &format!("state: {{url: '{}'}}", url("state", mode)))
    };
    let reported = async |mode: &str| {
        let config = config(mode);
        let (text, code) = said(&command(&["check", "-c", config.path().to_str().unwrap()]).await);
        assert_eq!(code, Some(0), "{text}");
        let is_warning = |line: &&str| line.starts_with("warning: ") && line.contains("is not encrypted");
        text.lines().filter(is_warning).map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    for mode in ["", "?sslmode=prefer", "?sslmode=allow"] {
        let mut subjects = reported(mode).await;
        subjects.sort();
        assert_eq!(subjects, ["source", "state", "tenant acme"], "{mode}");
    }
    assert!(reported("?sslmode=disable").await.is_empty());

    let config = config("");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    let text = log.text();
    let warned = |database: &str| {
        let is_warning = |line: &str| line.contains("WARN") && line.contains("connecting without TLS");
        text.lines()
            .any(|line| is_warning(line) && line.contains(&format!("127.0.0.2:{}/{database}", bed.server.port())))
    };
    for database in ["auth", "state", "acme"] {
        assert!(warned(database), "{database}: {text}");
    }
    assert!(!text.contains("127.0.0.1"), "{text}");
    assert!(process.stop().await.success());
}
