//! The binary with an invalid file: the message, the place, the fix, and exit code 1.

// Every function here is a test's; clippy knows only those that are marked so.
#![allow(clippy::unwrap_used)]

use std::process::Command;

const COMMANDS: [&str; 4] = ["run", "check", "status", "teardown"];

/// Runs every command on the file. Each must fail with all of the words, and without the password.
#[track_caller]
fn check(yaml: &str, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, yaml).unwrap();
    for command in COMMANDS {
        let mut process = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        let output = process.arg(command).arg("-c").arg(&file).env_remove("NOPE").output().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {shown}");
        assert!(output.stdout.is_empty(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
        for word in words {
            assert!(shown.contains(word), "{command} does not print {word:?}:\n{shown}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn malformed_yaml_is_reported_at_its_place() {
    check("source:\n  url: [postgres://u:hunter2@h/d\nusers: x\n", &["this is not YAML", "c.yaml:3:", "indentation"]);
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest_one() {
    let yaml = "source:\n  url: postgres://u:hunter2@h/d\n  slott: s\n";
    check(yaml, &["unknown key source.slott", "c.yaml:3:3", "did you mean slot?"]);
}

#[test]
fn a_missing_variable_is_named() {
    check("source:\n  url: ${NOPE}\n", &["source.url: the environment variable NOPE is not set", "c.yaml:2:8"]);
}

#[test]
fn an_invalid_url_is_not_repeated() {
    check("source: {url: 'postgres://u:hunter2/x@h/d'}\n", &["source.url is not a usable URL", "percent-encode"]);
}

#[test]
fn a_missing_file_is_named() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_users-sync"));
    let output = process.args(["check", "-c", "/nowhere/c.yaml"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        shown.contains("cannot read the configuration /nowhere/c.yaml") && shown.contains("users-sync init"),
        "{shown}"
    );
}

#[test]
fn invalid_usage_exits_with_2_and_help_with_0() {
    let code = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_users-sync")).args(arguments).output().unwrap().status.code()
    };
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["demo", "--seconds", "0"]), Some(2));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["run", "--help"]), Some(0));
}

#[test]
fn the_configuration_is_named_before_or_after_the_command_by_a_variable_or_by_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let shown = |arguments: &[&str], variable: Option<&str>| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        process.args(arguments).current_dir(directory.path()).env_remove("USERS_SYNC_CONFIG");
        if let Some(variable) = variable {
            process.env("USERS_SYNC_CONFIG", variable);
        }
        String::from_utf8(process.output().unwrap().stderr).unwrap()
    };
    for (arguments, variable, file) in [
        (&["check"][..], None, "users-sync.yaml"),
        (&["check"], Some("v.yaml"), "v.yaml"),
        (&["check", "-c", "c.yaml"], Some("v.yaml"), "c.yaml"),
        (&["-c", "c.yaml", "status"], None, "c.yaml"),
    ] {
        let shown = shown(arguments, variable);
        assert!(shown.contains(&format!("cannot read the configuration {file}:")), "{arguments:?}: {shown}");
    }
}

#[test]
fn one_report_has_every_fault() {
    let yaml = "source:\n  url: postgres://u:hunter2@h/d\n  slott: s\nlimits: {memory: 0}\nusers: {table: a.b, id: id}\n\
                tenants:\n  - {id: a, target: postgres://u@h/a}\n  - {id: a, target: postgres://u@h/b}\n";
    let places = ["unknown key source.slott", "c.yaml:3:3", "for limits.memory", "c.yaml:4:18"];
    check(yaml, &[&places[..], &["two tenants have the id a", "c.yaml:8:10"]].concat());
}
