//! docs/CONFIGURATION.md, generated from the declarations of the keys. Pure.

use super::section::{Key, doc_lines, prose};
use super::top::File;
use std::fmt::Write as _;

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from the declarations in src/config. To update it: UPDATE=1 cargo test --lib config::reference -->

users-sync is configured by one YAML file: the one of `-c FILE`, of the environment variable `USERS_SYNC_CONFIG`, or
`users-sync.yaml` in the current directory. `users-sync init` writes one for the tables of a source;
[config/example.yaml](../config/example.yaml) shows most keys in context.

- **One tenant needs no file.** If none is named or there, the variables `USERS_SYNC_SOURCE_URL`, `USERS_SYNC_PRESET` and
  `USERS_SYNC_TARGET_URL` are the configuration. Optional ones are `USERS_SYNC_TENANT` (the tenant's id, `main` by default),
  `USERS_SYNC_TENANT_KEY`, `USERS_SYNC_ADMIN_LISTEN` and `USERS_SYNC_ADMIN_TOKEN`. Every other key has its default.
- **Variables and files.** Anywhere in a value, `${NAME}` is replaced by an environment variable,
  `${NAME:-DEFAULT}` by the default if the variable is unset or empty, and `${file:PATH}` by the content of a file without
  its last line break. A relative path starts at the directory of the file that contains it. A
  literal `${` is written `$${`. Inserted text is not expanded again.
- **Faults.** A file is read completely, and every fault is reported with its line and column. Unknown and repeated keys are
  faults. The values of variables and files appear in no message.
- **Editors** complete and check the file if its first line is `# yaml-language-server: $schema=users-sync.schema.json`.
  `users-sync schema` prints the schema.
- **Sizes** are whole numbers with `B`, `kB`, `MB`, `GB` or `TB`, in steps of 1024 as in postgresql.conf. A number without a
  unit counts bytes.
- **Durations** are whole numbers with `ms`, `s`, `m`, `h` or `d`. The unit is required.
- **Changes.** A running process reads the file again on SIGHUP, and when it or a file that it uses is written. Changed tenants
  are applied while the others continue, any other change restarts the session, and a file with faults is rejected as a whole.

";

/// The default of a section all of whose keys have defaults.
const EMPTY_SECTION: &str = "{}";

/// The reference of all keys, as Markdown.
pub(crate) fn reference() -> String {
    let mut out = INTRODUCTION.to_owned();
    out.push_str("## Top level\n\n| key | default | meaning |\n| --- | --- | --- |\n");
    for key in File::KEYS {
        let default = match key.default {
            Some(EMPTY_SECTION) => String::new(),
            Some(default) => format!("`{default}`"),
            None if key.is_optional => String::new(),
            None => "required".to_owned(),
        };
        let text = prose(key.doc);
        let meaning = text.split_inclusive(". ").next().unwrap_or_default().trim_end();
        let _ = writeln!(out, "| [`{name}`](#{name}) | {default} | {meaning} |", name = key.name);
    }
    for key in File::KEYS {
        write_key(&mut out, "", key);
    }
    out
}

/// A key's own paragraph, and then the keys of its section.
fn write_key(out: &mut String, path: &str, key: &Key) {
    let level = if path.is_empty() { "##" } else { "###" };
    let _ = write!(out, "\n{level} `{path}{}`\n\n", key.name);
    let _ = writeln!(out, "{}\n", kind(key));
    write_doc(out, key.doc);
    let values = (key.allowed_values)();
    if !values.is_empty() {
        out.push('\n');
    }
    for allowed in values {
        let _ = writeln!(out, "- `{}`: {}", allowed.value, allowed.doc.replace('\n', " "));
    }
    let Some(nested) = (key.nested)() else { return };
    // The first paragraph is for the struct's own documentation.
    let details = nested.about.iter().position(|line| line.trim().is_empty());
    if let Some(details) = details {
        write_doc(out, &nested.about[details..]);
    }
    let path = format!("{path}{}{}.", key.name, if nested.is_list { "[]" } else { "" });
    for key in nested.keys {
        write_key(out, &path, key);
    }
}

fn write_doc(out: &mut String, doc: &[&str]) {
    for line in doc_lines(doc) {
        out.push_str(line);
        out.push('\n');
    }
}

/// The type of a key, and whether it may be left out.
fn kind(key: &Key) -> String {
    let presence = match key.default {
        Some(default) if default != EMPTY_SECTION => format!("Default: `{default}`."),
        None if !key.is_optional => "Required.".to_owned(),
        _ => "Optional.".to_owned(),
    };
    format!("Type: {}. {presence}", (key.expected)())
}

#[cfg(test)]
mod tests {
    use super::super::{Env, json_schema, parse, preset_schema};
    use super::*;
    use std::path::Path;

    /// Compares a generated file with its generator; with UPDATE=1 in the environment it is written instead.
    #[track_caller]
    fn check(path: &str, generated: &str) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let generated = format!("{}\n", generated.trim_end());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &generated).unwrap();
        }
        let published = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(published == generated, "{path} is out of date; run: UPDATE=1 cargo test --lib config::reference");
    }

    #[test]
    fn the_published_schemas_and_the_reference_are_up_to_date() {
        check("config/users-sync.schema.json", &json_schema());
        check("config/preset.schema.json", &preset_schema());
        check("docs/CONFIGURATION.md", &reference());
    }

    #[test]
    fn the_examples_in_the_reference_are_valid() {
        let reference = reference();
        let examples: Vec<&str> = reference.split("```yaml\n").skip(1).collect();
        assert!(!examples.is_empty());
        for example in examples {
            let example = example.split("```").next().unwrap();
            if !cfg!(feature = "kafka") && example.starts_with("kafka") {
                continue;
            }
            let mut text = example.to_owned();
            for (key, base) in [
                ("source", "{url: 'postgres://s@h/auth'}"),
                ("users", "{table: auth.users, id: id, tenant: org}"),
                ("tenants", "[{id: acme, target: 'postgres://u@h/acme'}]"),
            ] {
                if !example.lines().any(|line| line.starts_with(key)) {
                    text.push_str(&format!("{key}: {base}\n"));
                }
            }
            let variable = |name: &str| Some(format!("postgres://u@{name}/db"));
            let env = Env { variable: &variable, file: &|_| Ok("secret".to_owned()) };
            parse("example", &text, &env).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }

    #[test]
    fn every_key_is_documented_and_every_default_is_valid() {
        fn visit(path: &str, keys: &[Key]) {
            for key in keys {
                assert!(!key.doc.is_empty(), "{path}{} has no documentation", key.name);
                if let Some(nested) = (key.nested)() {
                    visit(&format!("{path}{}.", key.name), nested.keys);
                }
            }
        }
        visit("", File::KEYS);
        let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let text = "source: {url: 'postgres://u@h/d'}\nusers: {table: a.b, id: id}\n\
                    tenants: [{id: a, target: 'postgres://u@h/a'}]\nadmin: {}\n";
        let kafka = if cfg!(feature = "kafka") { "kafka: {brokers: b}\n" } else { "" };
        parse("defaults", &format!("{text}{kafka}"), &env).unwrap();
    }
}
