//! The topic of each tenant. Pure.

use crate::model::{ByConfigured, ConfiguredIdx, TableName, TenantId};
use std::collections::HashMap;

/// The longest name of a topic in Kafka.
const MAX_TOPIC_LEN: usize = 249;

/// Remedy for a [`TopicsError`].
#[cfg(feature = "kafka")]
pub(crate) const TOPICS_REMEDY: &str = "correct kafka.topic";

/// The topics of all tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    names: ByConfigured<String>,
}

/// Why a template does not produce topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicsError {
    /// The name contains more than letters, digits, dots, underscores and dashes, or is too long.
    #[error(
        "kafka.topic makes {topic:?} for tenant {tenant}, which is not a valid topic: expected letters, digits, '.', '_' and '-', at most 249"
    )]
    Name {
        /// The invalid topic.
        topic: String,
        /// The tenant of the topic.
        tenant: TenantId,
    },
    /// Kafka's metrics do not distinguish a dot from an underscore, so a broker rejects the second of two such topics.
    #[error(
        "kafka.topic makes {one:?} and {other:?}, which Kafka cannot distinguish; choose other tenant ids, or one shared topic"
    )]
    Alike {
        /// One topic.
        one: String,
        /// The other topic.
        other: String,
    },
}

/// The template with the table's name in it.
fn with_table(template: &str, table: &TableName) -> String {
    template.replace("{table}", &table.to_string())
}

/// The topic that the tenants share; `None` if the template gives each of them its own.
pub(super) fn shared_topic(template: &str, table: &TableName) -> Option<String> {
    (!template.contains("{tenant}")).then(|| with_table(template, table))
}

impl Topics {
    /// Replaces `{tenant}` and `{table}` in the template. Without `{tenant}` the tenants share a topic.
    ///
    /// # Errors
    /// A topic is not valid, or collides with another one in Kafka.
    pub fn new<'a>(
        template: &str,
        table: &TableName,
        tenants: impl IntoIterator<Item = &'a TenantId>,
    ) -> Result<Topics, TopicsError> {
        let template = with_table(template, table);
        let mut names = ByConfigured::default();
        let mut folded: HashMap<String, String> = HashMap::new();
        for tenant in tenants {
            let topic = template.replace("{tenant}", tenant.as_str());
            if !is_topic(&topic) {
                return Err(TopicsError::Name { topic, tenant: tenant.clone() });
            }
            match folded.insert(folded_topic(&topic), topic.clone()) {
                Some(other) if other != topic => return Err(TopicsError::Alike { one: other, other: topic }),
                _ => drop(names.push(topic)),
            }
        }
        Ok(Topics { names })
    }

    /// The topic of the tenant.
    pub fn of(&self, tenant: ConfiguredIdx) -> &str {
        &self.names[tenant]
    }

    /// The topics without repetitions, sorted.
    pub fn distinct(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The form in which Kafka's metrics show a topic: two topics with the same form collide.
pub(super) fn folded_topic(topic: &str) -> String {
    topic.replace('.', "_")
}

/// Whether Kafka accepts it as a topic.
fn is_topic(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=MAX_TOPIC_LEN).contains(&name.len()) && name != "." && name != ".." && name.chars().all(allowed)
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
        let tenants: Vec<ConfiguredIdx> = ["b", "a"].into_iter().collect::<ByConfigured<&str>>().indexes().collect();
        let (first, second) = (tenants[0], tenants[1]);
        let each = topics("users_sync.{tenant}", &["b", "a"]).unwrap();
        assert_eq!((each.of(first), each.distinct()), ("users_sync.b", vec!["users_sync.a", "users_sync.b"]));
        let shared = topics("{table}", &["b", "a"]).unwrap();
        assert_eq!((shared.of(second), shared.distinct()), ("auth.users", vec!["auth.users"]));
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
