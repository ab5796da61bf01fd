//! Which topic a tenant's users go to. Pure.

use crate::model::{TableName, TenantId};
use std::collections::HashMap;

/// Kafka's own bound on a topic's name.
const LONGEST: usize = 249;

/// The topics of all tenants, by their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    names: Vec<String>,
}

/// A template that does not make topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicsError {
    /// Letters, digits, dots, underscores and dashes are all that Kafka takes.
    #[error(
        "kafka.topic makes {topic:?} for tenant {tenant}, which Kafka does not take as a name: only letters, digits, '.', '_' and '-', at most 249"
    )]
    Name {
        /// The topic.
        topic: String,
        /// Whose it would be.
        tenant: TenantId,
    },
    /// Kafka's metrics do not tell a dot from an underscore, so that it takes only one of the two.
    #[error(
        "kafka.topic makes {one:?} and {other:?}, which Kafka does not tell apart; choose other tenant ids, or one shared topic"
    )]
    Alike {
        /// A topic.
        one: String,
        /// Another one.
        other: String,
    },
}

impl Topics {
    /// Puts tenants and table into a template with `{tenant}` and `{table}`; without `{tenant}` they share a topic.
    pub fn new<'a>(
        template: &str,
        table: &TableName,
        tenants: impl IntoIterator<Item = &'a TenantId>,
    ) -> Result<Topics, TopicsError> {
        let template = template.replace("{table}", &table.to_string());
        let mut names = Vec::new();
        let mut folded: HashMap<String, String> = HashMap::new();
        for tenant in tenants {
            let topic = template.replace("{tenant}", tenant.as_str());
            if !is_topic(&topic) {
                return Err(TopicsError::Name { topic, tenant: tenant.clone() });
            }
            match folded.insert(topic.replace('.', "_"), topic.clone()) {
                Some(other) if other != topic => return Err(TopicsError::Alike { one: other, other: topic }),
                _ => names.push(topic),
            }
        }
        Ok(Topics { names })
    }

    /// The topic of the tenant in this place.
    pub fn of(&self, tenant: usize) -> &str {
        &self.names[tenant]
    }

    /// Each topic once.
    pub fn distinct(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Whether Kafka takes it as a name.
fn is_topic(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=LONGEST).contains(&name.len()) && name != "." && name != ".." && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(template: &str, tenants: &[&str]) -> Result<Topics, TopicsError> {
        let table = TableName { schema: "auth".into(), name: "users".into() };
        let tenants: Vec<TenantId> = tenants.iter().map(|id| TenantId::new(id)).collect();
        Topics::new(template, &table, &tenants)
    }

    #[test]
    fn each_tenant_has_a_topic_or_all_share_one() {
        let each = topics("users_sync.{tenant}", &["b", "a"]).unwrap();
        assert_eq!((each.of(0), each.distinct()), ("users_sync.b", vec!["users_sync.a", "users_sync.b"]));
        let shared = topics("{table}", &["b", "a"]).unwrap();
        assert_eq!((shared.of(1), shared.distinct()), ("auth.users", vec!["auth.users"]));
    }

    #[test]
    fn invalid_topic_names_are_refused() {
        for (template, tenant) in
            [("a b", "x"), ("{tenant}", "ä"), ("", "x"), ("{tenant}", ".."), (&*"x".repeat(250), "x")]
        {
            assert!(matches!(topics(template, &[tenant]), Err(TopicsError::Name { .. })), "{template} {tenant}");
        }
        assert!(matches!(topics("{tenant}", &["a.b", "a_b"]), Err(TopicsError::Alike { .. })));
    }
}
