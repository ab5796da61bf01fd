//! The binary with a file that cannot be: one clear message, the place, the remedy, and exit code 1.

// Every function here is a test's; clippy knows only those that are marked so.
#![allow(clippy::unwrap_used)]

use std::process::Command;

const COMMANDS: [&str; 4] = ["run", "check", "status", "teardown"];

/// Runs every command on the file; each has to fail with all of the words, and without the password.
#[track_caller]
fn check(yaml: &str, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, yaml).unwrap();
    for command in COMMANDS {
        let mut process = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        let output = process.arg(command).arg("-c").arg(&file).env_remove("NOPE").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(output.stdout.is_empty(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
        for word in words {
            assert!(said.contains(word), "{command} does not say {word:?}:\n{said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn bad_yaml() {
    check("source:\n  url: [postgres://u:hunter2@h/d\nusers: x\n", &["this is not YAML", "c.yaml:3:", "indentation"]);
}

#[test]
fn an_unknown_key() {
    let yaml = "source:\n  url: postgres://u:hunter2@h/d\n  slott: s\n";
    check(yaml, &["unknown key source.slott", "c.yaml:3:3", "did you mean slot?"]);
}

#[test]
fn a_missing_variable() {
    check("source:\n  url: ${NOPE}\n", &["source.url: the environment variable NOPE is not set", "c.yaml:2:8"]);
}

#[test]
fn a_url_that_is_none() {
    check("source: {url: 'postgres://u:hunter2/x@h/d'}\n", &["source.url is not a usable URL", "percent-encode"]);
}

#[test]
fn a_file_that_is_not_there() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_users-sync"));
    let output = process.args(["check", "-c", "/nowhere/c.yaml"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("cannot read the configuration /nowhere/c.yaml") && said.contains("minimal.yaml"), "{said}");
}

#[test]
fn a_command_line_that_cannot_be_is_2_and_help_is_0() {
    let code = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_users-sync")).args(arguments).output().unwrap().status.code()
    };
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["check"]), Some(2));
    assert_eq!(code(&["demo", "--seconds", "0"]), Some(2));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["run", "--help"]), Some(0));
}
