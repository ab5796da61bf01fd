//! The difference between the tenant lists of two configurations. Pure.

use crate::config::Tenant;
use crate::model::{TenantId, TenantKey};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How the tenants differ. A tenant with another key is removed and added, as it has other users.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TenantDiff {
    pub(crate) removed: Vec<TenantId>,
    pub(crate) added: Vec<Arc<Tenant>>,
    /// Tenants whose target is reached in another way: a URL with another password, host or setting, or another `wake_after`.
    pub(crate) moved: Vec<Arc<Tenant>>,
}

impl TenantDiff {
    pub(crate) fn between(old: &[Arc<Tenant>], new: &[Arc<Tenant>]) -> TenantDiff {
        let by_id: HashMap<&TenantId, &Arc<Tenant>> = old.iter().map(|tenant| (&tenant.id, tenant)).collect();
        let kept: HashSet<(&TenantId, &TenantKey)> = new.iter().map(|tenant| (&tenant.id, &tenant.key)).collect();
        let removed = old.iter().filter(|tenant| !kept.contains(&(&tenant.id, &tenant.key)));
        let mut diff =
            TenantDiff { removed: removed.map(|tenant| tenant.id.clone()).collect(), ..TenantDiff::default() };
        for tenant in new {
            match by_id.get(&tenant.id).filter(|known| known.key == tenant.key) {
                Some(known) if *known == tenant => {}
                Some(_) => diff.moved.push(tenant.clone()),
                None => diff.added.push(tenant.clone()),
            }
        }
        diff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, parse};

    fn tenants(tenants: &[(&str, &str, &str)]) -> Vec<Arc<Tenant>> {
        let none = Env { variable: &|_| None, file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)) };
        let mut text =
            "source: {url: 'postgres://u@h/auth'}\nusers: {table: a.b, id: id, tenant: t}\ntenants:\n".to_owned();
        tenants.iter().for_each(|(id, key, url)| {
            text.push_str(&format!("- {{id: {id}, key: {key}, target: 'postgres://{url}'}}\n"))
        });
        parse("c.yaml", &text, &none).unwrap().tenants
    }

    #[test]
    fn a_tenant_is_removed_and_added_for_another_key_and_moved_for_another_url() {
        let old = tenants(&[("a", "a", "u@h/1"), ("b", "b", "u@h/2"), ("c", "c", "u:x@h/3"), ("e", "e", "u@h/5")]);
        let new = tenants(&[("c", "c", "u:y@h/3"), ("a", "a", "u@h/1"), ("d", "d", "u@h/2"), ("e", "f", "u@h/5")]);
        let diff = TenantDiff::between(&old, &new);
        let names = |ids: Vec<&TenantId>| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(names(diff.removed.iter().collect()), ["b", "e"]);
        assert_eq!(names(diff.added.iter().map(|tenant| &tenant.id).collect()), ["d", "e"]);
        assert_eq!(names(diff.moved.iter().map(|tenant| &tenant.id).collect()), ["c"]);
        assert_eq!(TenantDiff::between(&old, &old), TenantDiff::default());
    }
}
