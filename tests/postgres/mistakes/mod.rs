//! The mistakes that operators make, one line for each: the command that meets it, the code, the exit status, a part of what
//! is printed, and where the remedy is a statement or a corrected line, `check` that is clean after it.

mod files;
mod running;
mod servers;

use crate::support::process::said;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

/// The number of lines.
const LINES: u8 = 54;

/// Lines that other modules test with their code or text, their exit status and their remedy.
const ELSEWHERE: [(u8, &str, &str); 14] = [
    (4, "tests/postgres/setup.rs", "setup_does_all_or_says_what_it_did_not_do"),
    (5, "tests/postgres/remedies/check.rs", "server_settings_have_working_remedies"),
    (31, "tests/postgres/reload.rs", "an_invalid_file_changes_nothing_and_a_valid_one_is_applied"),
    (32, "tests/postgres/ops/lights.rs", "every_light_names_the_cause_of_a_fault_and_is_clear_once_it_is_fixed"),
    (35, "tests/kafka/faults.rs", "an_unreachable_broker_is_reported_once"),
    (38, "tests/postgres/init.rs", "one_tenant_needs_no_file_and_a_preset_of_another_store_is_reported"),
    (41, "tests/postgres/resync.rs", "a_mass_delete_needs_permission"),
    (43, "tests/postgres/remedies/parked.rs", "the_remedies_for_a_wrong_target_url_work"),
    (
        46,
        "tests/postgres/slow_targets.rs",
        "a_target_that_writes_not_even_one_row_in_time_is_parked_and_takes_no_snapshots",
    ),
    (47, "tests/postgres/remedies/check.rs", "server_settings_have_working_remedies"),
    (48, "src/replicator/failure_policy.rs", "a_server_without_resources_is_tried_again"),
    (49, "tests/postgres/connection/tls.rs", "what_is_wrong_with_a_certificate_is_named"),
    (50, "tests/postgres/harmless.rs", "a_pooled_source_is_refused_by_name"),
    (53, "tests/postgres/adopt.rs", "a_target_of_a_living_installation_is_refused_with_its_name"),
];

/// What a command has to show for a mistake.
struct Expected<'a> {
    line: u8,
    code: &'a str,
    exit: i32,
    words: &'a [&'a str],
}

/// What a command showed: its exit status, and every code with its text and remedy.
struct Shown {
    exit: Option<i32>,
    entries: Vec<(String, String)>,
    text: String,
}

impl Shown {
    fn has(&self, code: &str, words: &[&str]) -> bool {
        let fits = |(found, text): &(String, String)| found == code && words.iter().all(|words| text.contains(words));
        self.entries.iter().any(fits)
    }

    #[track_caller]
    fn is(&self, Expected { line, code, exit, words }: &Expected<'_>) {
        let Shown { exit: found, text, .. } = self;
        assert!(self.has(code, words), "line {line}: not {code} with {words:?}:\n{text}");
        assert_eq!(*found, Some(*exit), "line {line}: {text}");
    }
}

/// Runs a command with `--json`.
async fn shown(arguments: &[&str], directory: &Path, variables: &[(&str, &str)]) -> Shown {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_users-sync"));
    command.args(arguments).arg("--json").current_dir(directory).env_remove("USERS_SYNC_CONFIG");
    command.envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let (all, exit) = said(&output);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {all}"));
    let mut entries = Vec::new();
    collect(&document, &mut entries);
    Shown { exit, entries, text: all }
}

/// Every object with a code, with all texts of the object.
fn collect(value: &Value, entries: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            if let Some(code) = fields.get("code").and_then(Value::as_str) {
                let texts: Vec<&str> = fields.values().filter_map(Value::as_str).collect();
                entries.push((code.to_owned(), texts.join("\n")));
            }
            fields.values().for_each(|field| collect(field, entries));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, entries)),
        _ => {}
    }
}

#[test]
fn every_line_is_in_a_table() {
    let here = files::lines().chain(servers::LINES).chain(running::LINES);
    let elsewhere = ELSEWHERE.iter().map(|(line, file, test)| {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(text.contains(&format!("fn {test}()")), "line {line}: {file} has no test {test}");
        *line
    });
    let all: BTreeSet<u8> = here.chain(elsewhere).collect();
    assert_eq!(all, (1..=LINES).collect());
}
