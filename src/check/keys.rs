//! Assesses keys of tenants that no user of the source has: typing errors, and names instead of ids. Pure.

use super::finding::{Finding, Subject};
use super::key_facts::KeyFacts;
use crate::config::{Config, Tenant};

/// Tenants for which a similar key is looked for: each is compared with every existing key.
const MAX_COMPARED: usize = 100;

pub(super) fn findings(config: &Config, facts: &Result<KeyFacts, String>) -> Vec<Finding> {
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            let message = format!("the keys of the tenants were not compared with those of the users: {error}");
            return vec![Finding::note(Subject::Source, message)];
        }
    };
    let missing = config.tenants.iter().filter(|tenant| facts.missing.contains(tenant.key.as_str()));
    missing.enumerate().map(|(n, tenant)| finding(tenant, facts, n < MAX_COMPARED)).collect()
}

fn finding(tenant: &Tenant, facts: &KeyFacts, compares: bool) -> Finding {
    let (id, key) = (&tenant.id, tenant.key.as_str());
    let lowered = key.to_lowercase();
    let in_other_case = facts.existing.iter().find(|existing| existing.to_lowercase() == lowered);
    let set = |existing: &str, why: &str| {
        format!("tenants: [{{id: {id}, key: '{}', ...}}]    # {why}", existing.replace('\'', "''"))
    };
    let remedy = if let Some(existing) = in_other_case {
        set(existing, "users have this key, which differs in upper and lower case")
    } else if let Some(named) = facts.named.get(&lowered) {
        set(&named.key, &format!("{} has this key for that name", named.table))
    } else if let Some(nearest) = nearest(&lowered, facts).filter(|_| compares) {
        set(nearest, "did you mean this one?")
    } else {
        "set its key to the value that its users have in users.tenant, unless it has no users yet".to_owned()
    };
    Finding::warning(Subject::Tenant(id.clone()), format!("no user of the source has the key {key}"), remedy)
}

/// The most similar key.
fn nearest<'a>(lowered: &str, facts: &'a KeyFacts) -> Option<&'a str> {
    /// Jaro-Winkler similarity below which keys are unrelated. Two random UUIDs have less.
    const MIN_SIMILARITY: f64 = 0.8;
    let score = |existing: &str| strsim::jaro_winkler(lowered, &existing.to_lowercase());
    let scored = facts.existing.iter().map(|existing| (score(existing), existing.as_str()));
    scored
        .filter(|(score, _)| *score >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, existing)| existing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::key_facts::NamedKey;
    use crate::config::{Env, parse};
    use crate::model::TableName;

    const UUID: &str = "7b1d3f52-0c1e-4f6a-9b57-2f1f0a9f6c11";

    #[track_caller]
    fn check(key: &str, remedy: &str) {
        let none = Env { variable: &|_| None, file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)) };
        let text = format!(
            "source: {{url: 'postgres://u@h/auth'}}\nusers: {{table: auth.users, id: id, tenant: org}}\n\
             tenants: [{{id: acme, key: '{key}', target: 'postgres://u@h/acme'}}]\n"
        );
        let config = parse("c.yaml", &text, &none).unwrap();
        let table = TableName { schema: "public".into(), name: "realm".into() };
        let facts = KeyFacts {
            existing: [UUID, "globex", "it's", "another"].map(str::to_owned).into(),
            missing: [key.to_owned()].into(),
            named: [("hooli".to_owned(), NamedKey { key: UUID.to_owned(), table })].into(),
        };
        let found = findings(&config, &Ok(facts));
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!(finding.message, format!("no user of the source has the key {key}"));
        assert!(finding.remedy.contains(remedy), "{finding}");
    }

    #[test]
    fn the_nearest_key_is_named() {
        check(&UUID.to_uppercase(), &format!("key: '{UUID}', ...}}]    # users have this key"));
        check("7b1d3f52-0c1e-4f6a-9b57-2f1f0a9f6c1l", &format!("key: '{UUID}', ...}}]    # did you mean"));
        check("Hooli", &format!("key: '{UUID}', ...}}]    # public.realm has this key for that name"));
        check("glboex", "key: 'globex'");
        check("its", "key: 'it''s'");
        check("e0a8f9c2-93d4-4b7e-8f20-6c5d4e3b2a19", "unless it has no users yet");
    }
}
