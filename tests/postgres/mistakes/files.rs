//! Mistakes in the configuration and on the command line. They need no server: the source is one that nothing answers for.

use super::{Expected, shown};
use std::net::TcpListener;

/// A mistake in a file. `@` stands for a correct start of it.
struct Mistake {
    line: u8,
    yaml: &'static str,
    code: &'static str,
    words: &'static [&'static str],
}

const CORRECT: &str = "source: {url: 'postgres://u@127.0.0.1:1/auth'}\nusers: {table: a.b, id: id}\n";
const INVALID: &str = "invalid_configuration";
const APP: &str = "tenants: [{id: app, target: 'postgres://u@127.0.0.1:1/app'}]\n";

const fn mistake(line: u8, yaml: &'static str, words: &'static [&'static str]) -> Mistake {
    Mistake { line, yaml, code: INVALID, words }
}

const MISTAKES: &[Mistake] = &[
    mistake(1, "source: {url: '${NOPE}'}\n", &["source.url: the environment variable NOPE is not set", "c.yaml:1:"]),
    mistake(6, "@tenants: [{id: app, targt: 'x'}]\n", &["unknown key", "targt", "did you mean target?"]),
    mistake(6, "source: {url: 'postgres://u@h/d'}\nusers: {table: a.b, id: id, emial: e}\n", &["did you mean email?"]),
    mistake(7, "source:\n\turl: x\n", &["this is not YAML", "replace the tab with spaces"]),
    mistake(
        8,
        "@tenants:\n  - {id: app, target: 'postgres://u@h/a'}\n  - {id: app, target: 'postgres://u@h/b'}\n",
        &["two tenants have the id app", "c.yaml:5:10", "the first one is at", "c.yaml:4:10"],
    ),
    mistake(
        9,
        "source: {url: 'postgres://u@h/d'}\nusers: {table: a.b, id: id, tenant: t}\n\
         tenants: [{id: app, target: 'postgres://u@h/a'}, {id: two, target: 'postgres://u@h/a'}]\n",
        &["tenants app and two have the same target", "each tenant needs a database of its own"],
    ),
    mistake(10, "source: {url: 'postgres://u@h/d'}\nusers: {preset: beter-auth}\n", &["did you mean better-auth?"]),
    mistake(
        10,
        "source: {url: 'postgres://u@h/d'}\nusers: {preset: clerk}\n",
        &["gives no access to its database", "webhooks"],
    ),
    mistake(
        11,
        "source: {url: 'postgres://u:hunter2%x@h/d'}\n",
        &["the password is not valid percent-encoding", "%25"],
    ),
    mistake(12, "source: {url: 'postgres://u:hunter2#/x@h/d'}\n", &["percent-encode"]),
    mistake(13, "source: {url: 'postgres://u@::1:5432/d'}\n", &["an IPv6 address goes in brackets: [::1]"]),
    mistake(13, "source: {url: 'postgres://u:pw@fe80::1/d'}\n", &["an IPv6 address goes in brackets: [::1]"]),
    mistake(14, "", &["source is missing"]),
    mistake(
        15,
        "@tenants: {app: 'postgres://u@h/a'}\n",
        &["tenants must be a list of at least one tenant", "tenants: [{id: acme"],
    ),
    mistake(16, "@limits: {park_after: 10}\n", &["invalid value \"10\" for limits.park_after", "a duration such as"]),
    mistake(
        16,
        "@limits: {max_deletes: 150%}\n",
        &["invalid value \"150%\" for limits.max_deletes", "from 0% to 100%"],
    ),
    mistake(16, "@limits: {max_deletes: 10}\n", &["invalid value \"10\" for limits.max_deletes", "such as 10%"]),
    mistake(16, "@deletes: harsh\n", &["harsh", "deletes"]),
    mistake(18, "@limits: {park_after: 10, max_deletes: 10}\n", &["limits.park_after"]),
    mistake(18, "@limits: {park_after: 10, max_deletes: 10}\n", &["limits.max_deletes"]),
    mistake(19, "source: {url: 'jdbc:postgresql://h/d'}\n", &["it must start with postgres:// or postgresql://"]),
    mistake(19, "source: {url: 'mysql://u@h/d'}\n", &["it must start with postgres:// or postgresql://"]),
    mistake(19, "source: {url: 'host=h dbname=d'}\n", &["key=value connection strings are not supported"]),
    mistake(19, "source: {url: 'postgres://u@h1,h2/d'}\n", &["several hosts or ports are given"]),
    mistake(20, "source: {url: 'postgres://u@h/d?pgbouncer=true'}\n", &["unknown parameter \"pgbouncer\"; remove it"]),
    mistake(20, "source: {url: 'postgres://u@h/d?sslcert=/c'}\n", &["sslcert needs sslkey; set both"]),
    mistake(34, "@admin: {listen: '0.0.0.0:9187'}\n", &["admin.listen can be reached from elsewhere", "token"]),
];

/// The lines of this file.
pub fn lines() -> impl Iterator<Item = u8> {
    MISTAKES.iter().map(|mistake| mistake.line).chain([17, 25, 26, 33, 54])
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_a_file_are_named_with_their_place_and_correction() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.yaml");
    for Mistake { line, yaml, code, words } in MISTAKES {
        // The correct start makes the other keys the only mistake.
        let tenants = if yaml.contains("tenants") { "" } else { APP };
        let text =
            yaml.strip_prefix('@').map_or_else(|| (*yaml).to_owned(), |rest| format!("{CORRECT}{tenants}{rest}"));
        std::fs::write(&file, text).unwrap();
        let shown = shown(&["check", "-c", "c.yaml"], directory.path(), &[]).await;
        shown.is(&Expected { line: *line, code, exit: 1, words });
        assert!(!shown.text.contains("hunter2"), "line {line}: {}", shown.text);
    }
    for name in ["absent.yaml", "."] {
        let shown = shown(&["check", "-c", name], directory.path(), &[]).await;
        shown.is(&Expected {
            line: 14,
            code: INVALID,
            exit: 1,
            words: &["cannot read the configuration", "users-sync init"],
        });
    }
    for (preset, words) in [("beter-auth", "did you mean better-auth?"), ("clerk", "gives no access to its database")] {
        let shown = shown(&["presets", preset], directory.path(), &[]).await;
        shown.is(&Expected { line: 10, code: "command_failed", exit: 1, words: &[words] });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_named_before_or_after_the_command_and_has_a_default() {
    let directory = tempfile::tempdir().unwrap();
    let looked_for =
        |arguments: Vec<&'static str>, variables: Vec<(&'static str, &'static str)>, name: &'static str| {
            let directory = directory.path();
            async move {
                let words = format!("cannot read the configuration {name}");
                let shown = shown(&arguments, directory, &variables).await;
                shown.is(&Expected { line: 54, code: INVALID, exit: 1, words: &[&words] });
            }
        };
    looked_for(vec!["-c", "a.yaml", "check"], vec![], "a.yaml").await;
    looked_for(vec!["check", "-c", "a.yaml"], vec![], "a.yaml").await;
    looked_for(vec!["check"], vec![("USERS_SYNC_CONFIG", "b.yaml")], "b.yaml").await;
    looked_for(vec!["check"], vec![], "users-sync.yaml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_asks_of_this_machine_and_the_network_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let targets = "tenants:\n  - {id: down, target: 'postgres://u@127.0.0.1:1/app'}\n  \
                   - {id: lost, target: 'postgres://u@host.invalid/app'}\n";
    let yaml = format!(
        "source: {{url: 'postgres://u@127.0.0.1:1/auth'}}\nusers: {{table: a.b, id: id, tenant: t}}\n{targets}\
         limits: {{memory: 256}}\nadmin: {{listen: '127.0.0.1:{port}'}}\n"
    );
    std::fs::write(directory.path().join("users-sync.yaml"), yaml).unwrap();
    let shown = shown(&["check"], directory.path(), &[]).await;
    for (line, code, words) in [
        (17, "small_memory", &["limits.memory is 256 bytes", "with its unit, such as 256MB"][..]),
        (25, "target_unreachable", &["cannot reach 127.0.0.1:1/app", "check the host and port of the URL"]),
        (26, "target_unreachable", &["host.invalid", "correct the host name in the URL"]),
        (33, "listen_in_use", &["admin.listen: cannot listen on 127.0.0.1", "set another one in admin.listen"]),
    ] {
        shown.is(&Expected { line, code, exit: 1, words });
    }
    let run = super::shown(&["run", "--plan"], directory.path(), &[]).await;
    run.is(&Expected { line: 25, code: "source_unreachable", exit: 1, words: &["cannot reach 127.0.0.1:1/auth"] });
}
