//! Valid and invalid configuration files, and the messages for the invalid ones.

use super::*;
use crate::diagnostic::Diagnostic;
use crate::map::{TimeUnit, Value};
use crate::model::{Deletes, TableName};
use std::time::Duration;

const GOOD: &str = "\
source:
  url: ${DB}
users:
  table: auth.users
  id: id
  tenant: org
tenants:
  - id: acme
    target: postgres://u@h/acme
";

fn parse_text(text: &str) -> Result<Config, ConfigError> {
    let variable = |name: &str| match name {
        "DB" | "AUTH_DATABASE_URL" => Some("postgres://u:hunter2@auth/db".to_owned()),
        "TARGET_DATABASE_URL" | "ACME_DATABASE_URL" => Some("postgres://u:hunter2@acme/db".to_owned()),
        "BAD" => Some("postgres://u:hunter2@h:port/db".to_owned()),
        _ => None,
    };
    let file = |path: &str| match path {
        "/run/secrets/globex" => Ok("hunter2\n".to_owned()),
        _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    };
    parse("test.yaml", text, &Env { variable: &variable, file: &file })
}

#[track_caller]
fn good(text: &str) -> Config {
    parse_text(text).unwrap_or_else(|error| panic!("{}", render(error)))
}

fn render(error: ConfigError) -> String {
    Diagnostic::from(error).render(false)
}

/// The good file with one part replaced; the error's place, message and remedy.
#[track_caller]
fn check(part: &str, by: &str, place: &str, message: &str, remedy: &str) {
    assert!(GOOD.contains(part), "{part:?} is not part of the file");
    check_text(&GOOD.replacen(part, by, 1), place, message, remedy);
}

#[track_caller]
fn check_text(text: &str, place: &str, message: &str, remedy: &str) {
    let error = parse_text(text).expect_err("the file is wrong");
    assert!(error.to_string().contains(message), "{error}\ndoes not say\n{message}");
    assert!(error.remedy().unwrap_or_default().contains(remedy), "{:?}\nshould say\n{remedy}", error.remedy());
    let debug = format!("{error:?}");
    let shown = render(error);
    assert!(shown.contains(&format!("--> test.yaml:{place}\n")), "not at {place}:\n{shown}");
    assert!(!shown.contains("hunter2") && !debug.contains("hunter2"), "{shown}");
}

#[test]
fn the_shipped_examples_are_valid() {
    let minimal = good(include_str!("../../config/minimal.yaml"));
    assert_eq!(minimal.users.tenant, None);
    let example = good(include_str!("../../config/example.yaml"));
    assert_eq!(example.tenants.len(), 2);
    assert_eq!(example.tenants[1].key.as_str(), "7b1d");
    let password = example.tenants[1].target.password.as_ref().map(|secret| secret.0.as_str());
    assert_eq!(password, Some("hunter2"));
    let column = |name: &str| Value::Column(name.to_owned());
    let join = Value::Join { parts: vec![column("first_name"), column("last_name")], with: " ".to_owned() };
    let name = Value::First(vec![column("raw_user_meta_data.full_name"), join, column("username")]);
    assert_eq!(example.users.name, Some(name));
    let created_at = Value::Time { column: "created_timestamp".to_owned(), unit: TimeUnit::Millis };
    assert_eq!(example.users.created_at, Some(created_at));
    assert_eq!(example.users.exclude, ["internal_notes"]);
}

#[test]
fn the_example_shows_the_defaults() {
    let (shown, default) = (good(include_str!("../../config/example.yaml")), good(GOOD));
    assert_eq!(format!("{:?}", shown.limits), format!("{:?}", default.limits));
    assert_eq!((shown.deletes, shown.on_slot_loss), (default.deletes, default.on_slot_loss));
    assert_eq!((&shown.source.slot, &shown.source.publication), (&default.source.slot, &default.source.publication));
    assert_eq!(shown.source.publish, default.source.publish);
    assert_eq!((shown.notify, shown.log), (default.notify, default.log));
}

#[test]
fn a_key_that_is_left_out_has_its_default() {
    let config = good(GOOD);
    assert_eq!(config.source.slot, "users_sync");
    assert_eq!(config.source.publication, "users_sync");
    assert_eq!(config.state_url, config.source.url);
    assert_eq!(config.users.table, TableName { schema: "auth".into(), name: "users".into() });
    assert_eq!((config.tenants[0].id.as_str(), config.tenants[0].key.as_str()), ("acme", "acme"));
    assert_eq!((config.deletes, config.on_slot_loss), (Deletes::Soft, OnSlotLoss::Resync));
    assert_eq!((config.notify, config.log), (false, LogFormat::Text));
    let limits = config.limits;
    assert_eq!((limits.source_wal, limits.memory, limits.tenant_memory), (1 << 30, 256 << 20, 16 << 20));
    assert_eq!((limits.park_after, limits.stall), (Duration::from_secs(600), Duration::from_secs(5)));
    assert_eq!(limits.max_deletes.percent, 10.0);
}

#[test]
fn a_given_value_replaces_the_default() {
    let config = good(&format!(
        "{GOOD}state: {{url: postgres://u@state/s}}\ndeletes: {{mode: hard}}\non_slot_loss: stop\n\
         notify: true\nlog: json\nlimits: {{memory: 1MB, stall: 500ms, max_deletes: 2.5%}}\n"
    ));
    assert_eq!(config.state_url.host, "state");
    assert_eq!((config.deletes, config.on_slot_loss), (Deletes::Hard, OnSlotLoss::Stop));
    assert_eq!((config.notify, config.log), (true, LogFormat::Json));
    assert_eq!((config.limits.memory, config.limits.stall), (1 << 20, Duration::from_millis(500)));
    assert_eq!(config.limits.max_deletes.percent, 2.5);
    let dotted = good(&GOOD.replace("auth.users", "Auth.we.ird"));
    assert_eq!(dotted.users.table, TableName { schema: "Auth".into(), name: "we.ird".into() });
    let number = good(&GOOD.replace("id: acme", "id: 007"));
    assert_eq!(number.tenants[0].id.as_str(), "007");
}

#[test]
fn unknown_keys_are_errors_with_the_nearest_known_one() {
    check("  url: ${DB}", "  ulr: x", "2:3", "unknown key source.ulr", "did you mean url?");
    check("  id: id", "  id: id\n  e-mail: e", "6:3", "unknown key users.e-mail", "did you mean email?");
    check("    target", "    taget", "9:5", "unknown key tenants[acme].taget", "did you mean target?");
    check("source:", "slot: x\nsource:", "1:1", "unknown key slot", "slot belongs below source");
    check("source:", "zzz: x\nsource:", "1:1", "unknown key zzz", "known keys: source, state, users");
    check("  id: id", "  id: {column: a, unti: s}", "5:19", "unknown key users.id.unti", "unit");
}

#[test]
fn a_public_address_requires_a_token() {
    assert_eq!(good(GOOD).admin, None);
    let admin = |text: &str| good(&format!("{GOOD}admin: {text}\n")).admin.unwrap();
    assert_eq!((admin("{}").listen.to_string(), admin("{}").token), ("127.0.0.1:9187".to_owned(), None));
    assert_eq!(admin("{listen: '[::1]:80'}").listen.port(), 80);
    let open = admin("{listen: '0.0.0.0:9187', token: hunter2-hunter2x}");
    let token = open.token.as_ref().unwrap().0.as_str();
    assert_eq!((token, format!("{open:?}").contains("hunter2")), ("hunter2-hunter2x", false));
    let bad = |text: &str, place: &str, message: &str, remedy: &str| {
        check_text(&format!("{GOOD}admin: {text}\n"), place, message, remedy);
    };
    bad("{listen: '0.0.0.0:9187'}", "10:17", "can be reached from elsewhere", "token: ${ADMIN_TOKEN}");
    bad("{listen: here}", "10:17", "invalid value \"here\" for admin.listen", "127.0.0.1:9187");
    bad("{token: ''}", "10:16", "admin.token is empty", "openssl rand");
    bad("{token: 'hunter2 x'}", "10:16", "no HTTP header can carry", "without spaces");
    let short = "admin.token has fewer than 16 characters";
    bad("{token: hunter2-hunter2}", "10:16", short, "openssl rand -hex 32");
    // The length counts after variables and files are put in.
    bad("{token: '${file:/run/secrets/globex}'}", "10:16", short, "openssl rand");
    bad("{token: hunter2-hunter2x, tokn: x}", "10:34", "unknown key admin.tokn", "did you mean token?");
}

#[test]
fn only_soft_deletes_can_be_purged() {
    let config = good(&format!("{GOOD}deletes: {{mode: soft, purge_after: 30d}}\nwake_after: 5m\n"));
    assert_eq!(config.purge_after, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(config.tenants[0].wake_after, Some(Duration::from_secs(300)));
    let hard = format!("{GOOD}deletes: {{mode: hard, purge_after: 30d}}\n");
    check_text(&hard, "10:10", "deletes.purge_after requires mode: soft", "remove purge_after");
}

#[test]
fn every_preset_is_valid_and_describes_itself() {
    for preset in PRESETS {
        let text = GOOD.replacen("  table: auth.users\n  id: id\n", &format!("  preset: {}\n", preset.name), 1);
        let config = good(&text);
        assert!(!config.families.is_empty() && config.users.allow.is_some(), "{}", preset.name);
        let About { about, verified, .. } = preset.about();
        assert!(
            !about.is_empty() && (verified.starts_with("no: ") || verified.len() > 4),
            "{}: {verified}",
            preset.name
        );
    }
}

#[test]
fn keys_in_the_file_override_the_preset() {
    let text = GOOD.replacen("  id: id\n", "  preset: better-auth\n  name: nick\n", 1);
    let config = good(&text);
    let names: Vec<_> = config.families.iter().map(|family| family.describe()).collect();
    assert_eq!(names, ["auth.users with emailVerified, createdAt", "auth.users with email_verified, created_at"]);
    assert_eq!(config.users.name, Some(Value::Column("nick".to_owned())));
    assert_eq!(config.families[1].rules.created_at, Some(Value::Column("created_at".to_owned())));
    check("  table: auth.users", "  preset: supabse", "4:11", "there is no preset supabse", "did you mean supabase?");
    check("  table: auth.users", "  preset: qqq", "4:11", "there is no preset qqq", "users-sync presets");
    check("  table: auth.users", "  preset: keycloak\n  key: x", "5:8", "users.id is not one of", "key's columns");
}

#[test]
fn faults_of_queries_and_conditions_are_explained() {
    let query = |more: &str| format!("id: id\n  query: SELECT 1\n  {more}");
    let good = good(&GOOD.replacen("id: id", &query("watch: [{table: a.b, key: u}]"), 1)).users.query.unwrap();
    let watched: Vec<_> = good.watch.iter().map(|watch| (watch.table.to_string(), watch.is_users_own)).collect();
    assert_eq!(watched, [("a.b".to_owned(), false), ("auth.users".to_owned(), true)]);
    assert_eq!(good.key, ["id"]);
    check(
        "id: id",
        &query("watch: [{table: a.b, key: [u, v]}]"),
        "7:29",
        "users.watch.key has 2 columns",
        "contain id",
    );
    check(
        "id: id",
        &query("watch: [{table: b, key: u}]"),
        "7:19",
        "invalid value \"b\" for users.watch.table",
        "schema.name",
    );
    check("id: id", &query("key: other"), "7:8", "users.id is not one of the columns in users.key", "plain column");
    check("id: id", "id: id\n  query: SELECT 1; DROP", "6:10", "must be one SELECT", "condition");
    check("id: id", "id: id\n  watch: []", "6:10", "users.watch requires users.query", "remove it");
    check("id: id", "id: id\n  where: a >", "6:10", "users.where: unexpected character '>'", "for example");
    let fan = "id: id\n  fan_out: {table: a.m, id: u, tenant: o}";
    check("id: id", fan, "6:12", "users.fan_out and users.tenant exclude each other", "leave");
    let fanned = self::good(&GOOD.replacen("id: id\n  tenant: org", fan, 1)).users;
    let sql = "SELECT u.*, m.\"o\"::text AS users_sync_tenant FROM \"auth\".\"users\" u \
               JOIN \"a\".\"m\" m ON m.\"u\" = u.\"id\"";
    assert_eq!((fanned.query.unwrap().sql.as_str(), fanned.exclude), (sql, vec!["users_sync_tenant".to_owned()]));
}

#[test]
fn missing_variables_and_files_are_named() {
    check("${DB}", "${NOPE}", "2:8", "source.url: the environment variable NOPE is not set", "${NAME}");
    check("acme\n", "a\n    key: x${file:/none}\n", "9:10", "tenants[a].key: cannot read the file /none", "");
    check("id: id", "id: ${x", "5:7", "users.id: a '${' has no '}'", "$${");
}

#[test]
fn errors_never_repeat_a_url() {
    check("${DB}", "${BAD}", "2:8", "source.url is not a usable URL: the port", "postgres://user");
    check("postgres://u@h/acme", "postgres://u:hunter2/x@h/d", "9:13", "tenants[acme].target is not a usable", "");
    check("${DB}", "user=u password=hunter2", "2:8", "source.url is not a usable URL", "");
    check("${DB}", "postgres://u:hunter2@h/db\n  x: y", "3:3", "unknown key source.x", "");
    check("${DB}", "\"\"", "2:8", "source.url is empty", "postgres://");
}

#[test]
fn missing_sections_and_keys_are_named() {
    check_text("", "1:1", "source is missing", "auth database");
    check("  url: ${DB}", "  slot: s", "2:3", "source.url is missing", "AUTH_DATABASE_URL");
    check("  table: auth.users\n", "", "4:3", "users.table is missing", "schema.name");
    check("  id: id\n", "", "4:3", "users.id is missing", "");
    check("    target: postgres://u@h/acme\n", "", "8:5", "tenants[acme].target is missing", "");
    check("  - id: acme\n    target: postgres://u@h/acme\n", "  []\n", "8:3", "at least one tenant", "");
    check("source:\n  url: ${DB}", "source: here", "1:9", "source must be a section", "url, password_command, slot");
}

#[test]
fn invalid_values_are_rejected() {
    check("auth.users", "users", "4:10", "invalid value \"users\" for users.table", "public.users");
    check("id: id", "id: []", "5:7", "users.id is an empty list", "a value is");
    check("id: id", "id: {with: x}", "5:7", "users.id is not a value", "a value is");
    check("id: id", "id: {column: a, unit: h}", "5:25", "invalid value \"h\" for users.id.unit", "s, ms or rfc3339");
    check("id: id", "id: id\n  exclude: a", "6:12", "users.exclude must be a list", "[a, b]");
    check("users:", "  slot: My-Slot\nusers:", "3:9", "invalid value \"My-Slot\" for source.slot", "lower-case");
    for (limit, help) in [("memory: 0", "a size"), ("stall: 5", "a duration"), ("max_deletes: 10", "10%")] {
        let (name, value) = limit.split_once(": ").unwrap();
        let place = format!("1:{}", 12 + name.len());
        let message = format!("invalid value {value:?} for limits.{name}");
        check("source:", &format!("limits: {{{limit}}}\nsource:"), &place, &message, help);
    }
    check("source:", "deletes: maybe\nsource:", "1:10", "invalid value \"maybe\" for deletes", "soft or hard");
    check("source:", "log: x\nsource:", "1:6", "invalid value \"x\" for log", "text or json");
    check("source:", "notify: x\nsource:", "1:9", "invalid value \"x\" for notify", "true or false");
    check("source:", "on_slot_loss: x\nsource:", "1:15", "invalid value \"x\" for on_slot_loss", "resync or stop");
}

#[test]
fn tenants_must_be_distinct() {
    let second = |text: &str| format!("{GOOD}  - {text}\n");
    check_text(&second("{id: acme, target: postgres://u@h/b}"), "10:10", "two tenants have the id acme", "");
    check_text(&second("{id: b, key: acme, target: postgres://u@h/b}"), "10:18", "acme and b have the same key", "");
    check_text(&second("{id: b, target: postgres://v:w@H:5432/acme}"), "10:21", "have the same target, H:5432", "own");
    let two = second("{id: b, target: postgres://u@h/b}");
    assert_eq!(good(&two).tenants.len(), 2);
    check_text(&two.replace("  tenant: org\n", ""), "9:5", "several tenants, but users.tenant is missing", "column");
}

#[test]
fn a_shared_role_is_refused_on_request() {
    let second = |url: &str| format!("{GOOD}  - {{id: b, target: '{url}'}}\n");
    assert_eq!(good(&second("postgres://u@h/b")).targets.share_role, ShareRole::Allow);
    let refuse = |url: &str| second(url).replace("source:", "targets: {share_role: refuse}\nsource:");
    let message = "targets.share_role is refuse, but role u of server h:5432 is used for tenant acme, tenant b";
    check_text(&refuse("postgres://u@H/b"), "11:21", message, "CREATE ROLE \"u_b\" LOGIN");
    for other in ["postgres://v@h/b", "postgres://u@h:1/b", "postgres://u@g/b"] {
        assert_eq!(good(&refuse(other)).tenants.len(), 2, "{other}");
    }
    let of_source = GOOD.replace("postgres://u@h/acme", "postgres://u@auth/acme");
    let refused = of_source.replace("source:", "targets: {share_role: refuse}\nsource:");
    check_text(&refused, "10:13", "role u of server auth:5432 is used for the source, tenant acme", "CREATE ROLE");
    check(
        "source:",
        "targets: {share_role: x}\nsource:",
        "1:23",
        "invalid value \"x\" for targets.share_role",
        "refuse or",
    );
}

#[test]
fn a_target_in_the_source_is_refused_only_if_its_table_is_read() {
    let target = |url: &str| GOOD.replace("postgres://u@h/acme", url);
    for beside in ["postgres://v@auth/db", "postgres://v@AUTH.:5432/db"] {
        assert_eq!(good(&target(beside)).tenants.len(), 1);
        let read = target(beside).replace("table: auth.users", "table: neon_auth.users_sync");
        check_text(&read, "9:13", "its target is the source, and neon_auth.users_sync is read", "another table");
    }
    let elsewhere = target("postgres://v@auth/other").replace("table: auth.users", "table: neon_auth.users_sync");
    assert_eq!(good(&elsewhere).tenants.len(), 1);
}

#[test]
fn names_of_this_machine_are_one_host() {
    let second = |url: &str| format!("{GOOD}  - {{id: b, target: '{url}'}}\n").replace("@h/acme", "@localhost/acme");
    for same in ["postgres://u@127.0.0.1/acme", "postgres://u@[::1]:5432/acme", "postgres://u@LOCALHOST/acme"] {
        check_text(&second(same), "10:21", "tenants acme and b have the same target", "own");
    }
    assert_eq!(good(&second("postgres://u@127.0.0.1:5433/acme")).tenants.len(), 2);
}

#[test]
fn malformed_yaml_is_reported_at_its_place() {
    check("  table: auth.users", "  table: [auth", "5:5", "this is not YAML", "indentation");
    check("  id: id\n", "  id: id\n  id: b\n", "6:3", "duplicate key users.id", "keep one of them");
}

#[test]
fn one_report_has_every_fault_with_its_place() {
    let text = "\
sorce: x
source:
  url: ${NOPE}
  slot: My-Slot
users:
  table: auth.users
  id: {column: a, unit: h}
  tenat: org
  table: auth.people
tenants:
  - id: acme
    target: postgres://u@h/acme
  - {id: acme, target: postgres://u@h/b}
  - {id: b, target: postgres://u@h/acme}
  - {id: c, wake_after: soon}
limits: {memory: 0, stal: 5s, stall: 5}
deletes: {mode: hard, purge_after: 30d}
log: xml
kafka: {brokers: b, properties: {acks: 1, x: '${NOPE}'}}
";
    let shown = render(parse_text(text).unwrap_err());
    let mut places = Vec::new();
    for line in shown.lines().filter(|line| line.trim_start().starts_with("-->")) {
        places.push(line.rsplit("test.yaml:").next().unwrap());
    }
    let expected = [
        ("1:1", "unknown key sorce"),
        ("3:8", "source.url: the environment variable NOPE is not set"),
        ("4:9", "invalid value \"My-Slot\" for source.slot"),
        ("7:25", "invalid value \"h\" for users.id.unit"),
        ("8:3", "unknown key users.tenat"),
        ("9:3", "duplicate key users.table"),
        ("13:10", "two tenants have the id acme"),
        ("14:21", "tenants acme and b have the same target"),
        ("15:5", "tenants[c].target is missing"),
        ("15:25", "invalid value \"soon\" for tenants[c].wake_after"),
        ("16:18", "invalid value \"0\" for limits.memory"),
        ("16:21", "unknown key limits.stal"),
        ("16:38", "invalid value \"5\" for limits.stall"),
        ("17:10", "deletes.purge_after requires mode: soft"),
        ("18:6", "invalid value \"xml\" for log"),
        ("19:34", "kafka.properties.acks is managed by users-sync"),
        ("19:46", "kafka.properties.x: the environment variable NOPE is not set"),
    ];
    assert_eq!(places, expected.map(|(place, _)| place), "{shown}");
    for (_, message) in expected {
        assert!(shown.contains(message), "{message}:\n{shown}");
    }
}

#[test]
fn a_misspelt_key_is_not_missing_as_well() {
    let error = parse_text(&GOOD.replace("  url:", "  ulr:")).unwrap_err();
    assert_eq!(error.to_string(), "unknown key source.ulr");
}

#[test]
fn faults_of_a_presets_families_are_reported_once() {
    let text = GOOD.replacen("  id: id\n", "  preset: better-auth\n  nmae: nick\n", 1);
    assert_eq!(parse_text(&text).unwrap_err().to_string(), "unknown key users.nmae");
}

#[test]
fn rules_between_sections_are_checked_together() {
    let text = GOOD.replace("  tenant: org\n", "").replace("  url: ${DB}\n", "  url: ${DB}\n  publish: columns\n");
    let text = format!("{text}  - {{id: b, target: postgres://u@h/b}}\nadmin: {{listen: '0.0.0.0:80'}}\n");
    let error = parse_text(&text).unwrap_err().to_string();
    for message in ["users.allow is missing", "users.tenant is missing", "there is no admin.token"] {
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn tenants_may_have_a_template_and_come_from_a_table() {
    let base = GOOD.split("tenants:").next().unwrap();
    let config = good(&format!(
        "{base}tenants:\n  target: postgres://u:${{file:/run/secrets/{{tenant}}}}@h/{{key}}\n  list:\n  \
         - {{id: globex, key: g}}\n  - {{id: acme, target: 'postgres://u@h/acme'}}\n"
    ));
    let shown: Vec<_> = config.tenants.iter().map(|tenant| tenant.target.to_string()).collect();
    assert_eq!(shown, ["h:5432/g", "h:5432/acme"]);
    assert_eq!(config.tenants[0].target.password.as_ref().unwrap().0, "hunter2");
    let table = |text: &str| format!("{base}tenants: {{from: {{{text}}}}}\n");
    let from = good(&table("url: '${DB}', query: SELECT id FROM t")).tenant_table.unwrap();
    assert_eq!((from.every, from.channel.as_deref()), (Duration::from_secs(30), None));
    check_text(&table("url: '${DB}'"), "7:17", "tenants.from.query is missing", "A SELECT");
    check_text(&table("url: '${DB}', query: q, every: 500ms"), "7:49", "tenants.from.every", "from 1s");
    check_text(&table("url: '${BAD}', query: q"), "7:23", "tenants.from.url is not a usable URL", "postgres://");
    let without = table("url: '${DB}', query: q").replace("  tenant: org\n", "");
    check_text(&without, "1:1", "tenants.from, but users.tenant is missing", "column");
    let list = |more: &str| format!("{base}tenants: {{{more}}}\n");
    check_text(&list("target: 'postgres://u@h/{x'"), "7:19", "tenants.target is not a template", "{tenant}");
    check_text(&list("target: 'postgres://u@h/{tenant}'"), "7:10", "neither from nor list", "table");
    check_text(
        &list("acme: 'postgres://u@h/acme'"),
        "7:10",
        "tenants must be a list of at least one tenant",
        "id: acme",
    );
    check_text(&list("form: {url: x}"), "7:11", "unknown key tenants.form", "did you mean from?");
    let region = list("target: 'postgres://u@{region}/x', list: [{id: acme}]");
    check_text(&region, "7:53", "tenants[acme] has no target: there is no value for {region}", "tenants.target");
}

#[test]
fn a_tenant_may_receive_hashes_masks_and_fewer_columns() {
    let key = "0123456789abcdef";
    let users = "  id: id\n  email: [email, meta.email]\n  name: full_name\n";
    let base = GOOD.replace("  id: id\n", users);
    let tenant = |keys: &str| format!("{base}    {keys}\n");
    let redaction = |text: &str| {
        let rules = good(text).users;
        rules.redactions.by_key.get("acme").map(|found| (found.masked.clone(), found.only.clone()))
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(redaction(&base), None);
    assert_eq!(redaction(&tenant("mask: [phone]")), Some((names(&["phone"]), None)));
    // What is hidden must not leave in another column.
    let hashed = format!("hash: {{email: sha256, key: {key}}}");
    assert_eq!(redaction(&tenant(&hashed)), Some((Vec::new(), Some(Vec::new()))));
    assert_eq!(redaction(&tenant("mask: [name, phone]")), Some((names(&["name", "phone"]), Some(names(&["phone"])))));
    let masked_column = tenant("mask: [email, meta]\n    only: [meta]");
    assert_eq!(redaction(&masked_column), Some((names(&["email", "meta"]), Some(names(&["meta"])))));
    // A tenant's keys override those of all tenants one by one.
    let both = format!("{}targets: {{mask: [name], only: [plan]}}\n", tenant("only: [locale]"));
    assert_eq!(redaction(&both), Some((names(&["name"]), Some(names(&["locale"])))));
    assert!(good(&both).users.redactions.default.is_some());
    assert_eq!(good(&both).families[0].rules, good(&both).users);

    check_text(&tenant("hash: {email: md5, key: x}"), "12:19", "tenants[acme].hash.email", "sha256");
    check_text(&tenant("hash: {email: sha256}"), "12:11", "tenants[acme].hash.key is missing", "Secret");
    let short = tenant("hash: {email: sha256, key: hunter2}");
    check_text(&short, "12:32", "tenants[acme].hash.key has fewer than 16 characters", "openssl rand -hex 32");
    check_text(&tenant(&format!("{hashed}\n    mask: [email]")), "13:11", "both hashed and masked", "remove it");
    check_text(&tenant("mask: [id]"), "12:11", "tenants[acme].mask: id cannot be masked", "references");
    check_text(&tenant("mask: [primary_email]"), "12:11", "primary_email cannot be masked", "write email");
    for column in ["email", "meta", "meta?"] {
        let told = tenant(&format!("{hashed}\n    only: [{column}]"));
        check_text(&told, "13:11", "reveals users.email, which is hidden", "remove the column");
    }
    check_text(&tenant("mask: [name]\n    only: [full_name]"), "13:11", "reveals users.name", "add it to mask");
    // A value that is read from the same column would reveal what is hidden.
    check_text(&tenant("mask: [full_name]"), "12:11", "users.name reveals the column full_name", "add name to mask");
    check_text(&tenant("mask: [meta]"), "12:11", "users.email reveals the column meta", "add email to mask");
    let by_email = tenant(&hashed).replace("name: full_name", "name: [full_name, email]");
    check_text(&by_email, "12:11", "users.name is read from a column of users.email", "add name to mask");
    assert!(redaction(&by_email.replace("hash:", "mask: [name]\n    hash:")).is_some());
    let id = tenant("mask: [email]").replace("  id: id", "  id: email");
    check_text(&id, "12:11", "users.id is read from a column of users.email", "another column");
    let default = format!("{base}targets: {{mask: [name], only: [full_name]}}\n");
    check_text(&default, "12:31", "targets.only: the column full_name", "remove");
}
