//! The alert rules and the queries of the board. promtool tests the rules if it is available.

use super::{read, yaml};
use serde_json::Value;
use std::process::Command;

pub fn rules() -> Vec<Value> {
    yaml(&read("docker/prometheus/rules.yml"))["groups"][0]["rules"].as_array().unwrap().clone()
}

/// All queries of the board, including those of its variables.
pub fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match (&**name, value) {
                ("expr" | "definition", Value::String(query)) => found.push(query.clone()),
                _ => collect(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&read("docker/grafana/board.json")).unwrap(), &mut found);
    assert!(found.len() > 30, "{found:?}");
    found
}

#[test]
fn every_rule_has_a_test_and_a_runbook_chapter() {
    let (tests, runbook) = (read("docker/prometheus/rules_test.yml"), read("docs/RUNBOOK.md"));
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts")), "{name} is never seen to fire");
        assert!(runbook.contains(&format!("\n### {name}\n")), "{name} has no chapter in docs/RUNBOOK.md");
        let anchor = format!("docs/RUNBOOK.md#{}", name.to_ascii_lowercase());
        assert_eq!(rule["annotations"]["runbook"], anchor.as_str());
        assert!(["page", "ticket"].map(Value::from).contains(&rule["labels"]["severity"]), "{rule}");
    }
}

/// The path of promtool. `None` if it is unavailable, which the CI does not accept.
fn promtool() -> Option<String> {
    let output = Command::new(".ci/promtool").current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(std::env::var_os("CI").is_none(), "promtool cannot be had: {why}");
    eprintln!("promtool cannot be had, the rules are not tested: {why}");
    None
}

#[track_caller]
fn run(promtool: &str, arguments: &[&str]) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/prometheus");
    let output = Command::new(promtool).args(arguments).current_dir(directory).output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
fn promtool_accepts_all_rules_and_queries() {
    let Some(promtool) = promtool() else { return };
    run(&promtool, &["check", "config", "--syntax-only", "prometheus.yml"]);
    run(&promtool, &["check", "rules", "rules.yml"]);
    run(&promtool, &["test", "rules", "rules_test.yml"]);
    // promtool also parses the board's queries, as rules with values for Grafana's variables.
    let queries = queries().into_iter().filter(|query| !query.starts_with("label_values"));
    let rules = queries.enumerate().map(|(n, query)| {
        let query = query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$tenant", ".*");
        serde_json::json!({"record": format!("board:{n}"), "expr": query})
    });
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    let group = serde_json::json!({"groups": [{"name": "board", "rules": rules.collect::<Vec<_>>()}]});
    // JSON is YAML.
    std::fs::write(file.path(), group.to_string()).unwrap();
    run(&promtool, &["check", "rules", file.path().to_str().unwrap()]);
}
