//! The configuration that `init` writes, with comments. Pure.

use crate::model::{printable_line, variable_word};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Everything that the file contains.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    /// `source.url`, with variables in place of secrets.
    pub(crate) source_url: String,
    /// `source.slot`, if the default belongs to another database of the server.
    pub(crate) slot: Option<String>,
    pub(crate) users: Users,
    pub(crate) tenants: Vec<ProposedTenant>,
    /// Number of tenants with users that are not in the list.
    pub(crate) others: u64,
}

/// The section `users`.
#[derive(Clone, Debug)]
pub(crate) enum Users {
    /// A preset, and what it is for.
    Preset { name: &'static str, about: String },
    /// A table, and the keys that map its columns, with values in YAML's form.
    Table { table: String, keys: Vec<(&'static str, String)> },
}

/// A tenant of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProposedTenant {
    pub(crate) id: String,
    /// Its key, if the users have a tenant and the key is not the id.
    pub(crate) key: Option<String>,
    /// Number of its users, if it is known.
    pub(crate) users: Option<u64>,
    /// Its target's URL, with variables in place of secrets.
    pub(crate) target: String,
}

impl Proposal {
    /// The environment variables that the file refers to.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        let urls = self.tenants.iter().map(|tenant| &tenant.target).chain([&self.source_url]);
        let references = urls.flat_map(|url| url.split("${").skip(1).filter_map(|rest| rest.split_once('}')));
        references.map(|(name, _)| name).filter(|name| !name.starts_with("file:"))
    }

    /// The file's text.
    pub(crate) fn render(&self) -> String {
        let mut out = String::from(
            "# Written by `users-sync init`. `users-sync schema --markdown` describes every key.\n\
             # ${NAME} is an environment variable, ${file:PATH} the content of a file.\n\n\
             # The auth database, as the role that users-sync logs in with. `users-sync setup` creates the role.\n\
             source:\n",
        );
        let _ = writeln!(out, "  url: {}", yaml_text(&self.source_url));
        if let Some(slot) = &self.slot {
            let _ = writeln!(out, "  # The slot users_sync belongs to another database of this server.");
            let _ = writeln!(out, "  slot: {slot}");
        }
        self.users.render(&mut out);
        out.push_str("\n# One database for each tenant, in which users-sync writes neon_auth.users_sync.\ntenants:\n");
        for ProposedTenant { id, key, users, target } in &self.tenants {
            let users = users.map_or_else(String::new, |users| format!("    # {users} user{}", plural(users)));
            let _ = writeln!(out, "  - id: {}{users}", yaml_literal(id));
            if let Some(key) = key {
                let _ = writeln!(out, "    key: {}", yaml_literal(key));
            }
            let _ = writeln!(out, "    target: {}", yaml_text(target));
        }
        if self.others > 0 {
            let (n, s) = (self.others, plural(self.others));
            let _ = writeln!(out, "# {n} more tenant{s} have users. Many tenants fit better into files of their own:");
            let _ = writeln!(out, "# include: [tenants.d/*.yaml]");
        }
        out
    }
}

impl Users {
    /// The keys of the section, without indentation.
    pub(crate) fn section(&self) -> String {
        match self {
            Users::Preset { name, .. } => format!("preset: {name}\n"),
            Users::Table { table, keys } => {
                let keys = keys.iter().map(|(key, value)| format!("{key}: {value}\n"));
                format!("table: {}\n{}", yaml_literal(table), keys.collect::<String>())
            }
        }
    }

    fn render(&self, out: &mut String) {
        match self {
            Users::Preset { name, about } => {
                let about = printable_line(about);
                let _ = writeln!(out, "\n# {about}. `users-sync presets {name}` prints the mapping.");
                let _ = writeln!(out, "# Every key that is set here overrides the preset's.");
            }
            Users::Table { .. } => {
                let _ = writeln!(out, "\n# How a row becomes a user. Columns that look like secrets are not copied.");
                let _ = writeln!(out, "# `allow: [...]` names the only columns that are.");
            }
        }
        out.push_str("users:\n");
        self.section().lines().for_each(|line| {
            let _ = writeln!(out, "  {line}");
        });
    }
}

fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// A text that means itself, in YAML's form: a `${` in it is no variable.
pub(super) fn yaml_literal(text: &str) -> String {
    yaml_text(&text.replace("${", "$${"))
}

/// A text, which may have variables, in YAML's form: plain if it means itself, otherwise in single quotes.
fn yaml_text(text: &str) -> String {
    /// Words that YAML reads as a boolean or null, in lower case.
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && !WORDS.contains(&text.to_lowercase().as_str());
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

/// The environment variable for a tenant's target: `ACME_DATABASE_URL`. `taken` has the names that are in use, and receives
/// the new one.
pub(crate) fn variable_for(id: &str, taken: &mut BTreeSet<String>) -> String {
    let word = variable_word(id);
    let word = if word.starts_with(|c: char| c.is_ascii_digit()) { format!("TENANT_{word}") } else { word };
    let numbered = (2..).map(|n| format!("{word}_{n}_DATABASE_URL"));
    let mut names = std::iter::once(format!("{word}_DATABASE_URL")).chain(numbered);
    let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, parse};

    fn tenant(id: &str, key: Option<&str>) -> ProposedTenant {
        ProposedTenant {
            id: id.to_owned(),
            key: key.map(str::to_owned),
            users: Some(1),
            target: format!("postgres://u@h/{}", id.len()),
        }
    }

    #[track_caller]
    fn is_valid(proposal: &Proposal) -> crate::config::Config {
        let variable = |_: &str| Some("postgres://u@h/auth".to_owned());
        let file = |_: &str| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
        parse("users-sync.yaml", &proposal.render(), &Env { variable: &variable, file: &file }).unwrap()
    }

    #[test]
    fn every_file_is_a_valid_configuration_with_the_given_values() {
        for preset in crate::config::PRESETS {
            let proposal = Proposal {
                source_url: "${AUTH_DATABASE_URL}".to_owned(),
                slot: None,
                users: Users::Preset { name: preset.name, about: preset.about().about },
                tenants: vec![tenant("main", None)],
                others: 0,
            };
            assert_eq!(is_valid(&proposal).families, preset.families(), "{}", preset.name);
        }
        let odd = ["it's", "no", "7", "a: b # c", "- x", "ü", "007", "null", "{a}", "${x}", "$${x}", "*"];
        let proposal = Proposal {
            source_url: "${AUTH_DATABASE_URL}".to_owned(),
            slot: Some("users_sync_auth".to_owned()),
            users: Users::Table {
                table: "public.Users".to_owned(),
                keys: vec![("id", "id".to_owned()), ("tenant", "org".to_owned())],
            },
            tenants: odd
                .iter()
                .enumerate()
                .map(|(n, id)| ProposedTenant {
                    target: format!("postgres://u@h/{n}"),
                    ..tenant(id, Some(&format!("{id} key")))
                })
                .collect(),
            others: 3,
        };
        let config = is_valid(&proposal);
        assert_eq!(config.source.slot, "users_sync_auth");
        for (tenant, id) in config.tenants.iter().zip(odd) {
            assert_eq!((tenant.id.as_str(), tenant.key.as_str()), (id, &*format!("{id} key")));
        }
    }

    #[test]
    fn each_target_has_a_variable_of_its_own() {
        let mut taken = BTreeSet::new();
        let mut name = |id| variable_for(id, &mut taken);
        assert_eq!(name("acme"), "ACME_DATABASE_URL");
        assert_eq!(name("ACME"), "ACME_2_DATABASE_URL");
        assert_eq!(name("a-b.c é"), "A_B_C___DATABASE_URL");
        assert_eq!(name("7b1d"), "TENANT_7B1D_DATABASE_URL");
    }
}
