//! The difference between the tenant lists of two configurations. Pure.

use crate::config::Tenant;
use crate::model::TenantId;

/// Removed and added tenants. A tenant with another key or target is both.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TenantDiff {
    pub(crate) removed: Vec<TenantId>,
    pub(crate) added: Vec<Tenant>,
}

impl TenantDiff {
    pub(crate) fn between(old: &[Tenant], new: &[Tenant]) -> TenantDiff {
        let lacking = |one: &[Tenant], other: &[Tenant]| -> Vec<Tenant> {
            one.iter().filter(|tenant| !other.contains(tenant)).cloned().collect()
        };
        TenantDiff {
            removed: lacking(old, new).into_iter().map(|tenant| tenant.id).collect(),
            added: lacking(new, old),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, parse};

    fn tenants(tenants: &[(&str, &str)]) -> Vec<Tenant> {
        let none = Env { variable: &|_| None, file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)) };
        let mut text =
            "source: {url: 'postgres://u@h/auth'}\nusers: {table: a.b, id: id, tenant: t}\ntenants:\n".to_owned();
        tenants
            .iter()
            .for_each(|(id, url)| text.push_str(&format!("- {{id: {id}, target: 'postgres://u@h/{url}'}}\n")));
        parse("c.yaml", &text, &none).unwrap().tenants
    }

    #[test]
    fn tenants_are_added_removed_and_moved() {
        let old = tenants(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let new = tenants(&[("c", "4"), ("a", "1"), ("d", "2")]);
        let diff = TenantDiff::between(&old, &new);
        let names = |ids: Vec<&TenantId>| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(names(diff.removed.iter().collect()), ["b", "c"]);
        assert_eq!(names(diff.added.iter().map(|tenant| &tenant.id).collect()), ["c", "d"]);
        assert_eq!(TenantDiff::between(&old, &old), TenantDiff::default());
    }
}
