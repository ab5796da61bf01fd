//! Which databases are used with the same role of the same server. Pure.

use super::tenants::{Tenant, canonical_host};
use crate::model::TenantId;
use crate::pg::{PgUrl, quote_ident};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Tenants and statements that a message lists. The others are counted.
const LISTED: usize = 5;

/// A server, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ServerName {
    /// Host and port of its URL.
    Address(String, u16),
    /// What it says of itself: the same through every address and every pooler.
    Instance(String),
}

impl ServerName {
    /// The server as its URL names it. Names are not resolved: one address serves many hosts behind a proxy.
    pub(crate) fn of(url: &PgUrl) -> ServerName {
        ServerName::Address(canonical_host(&url.host), url.port)
    }
}

/// A role of one server that is used for a target and at least one other database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedRole {
    role: String,
    /// Host and port of the first URL.
    server: String,
    /// What the role is used for besides targets.
    own: Vec<&'static str>,
    /// At least one, or two if `own` is empty.
    pub(crate) tenants: Vec<TenantId>,
}

/// All shared roles, in the order of their first tenants. `name` tells which server a URL leads to.
pub(super) fn shared_roles(
    source: &PgUrl,
    state: &PgUrl,
    tenants: &[Arc<Tenant>],
    name: impl Fn(&PgUrl) -> ServerName,
) -> Vec<SharedRole> {
    let mut groups: BTreeMap<(ServerName, &str), SharedRole> = BTreeMap::new();
    let state = (state != source).then_some(("the state", None, state));
    let own = std::iter::once(("the source", None, source)).chain(state);
    let targets = tenants.iter().map(|tenant| ("", Some(&tenant.id), &tenant.target));
    for (what, tenant, url) in own.chain(targets) {
        let group = groups.entry((name(url), &url.user)).or_insert_with(|| SharedRole {
            role: url.user.clone(),
            server: format!("{}:{}", url.host, url.port),
            own: Vec::new(),
            tenants: Vec::new(),
        });
        match tenant {
            Some(tenant) => group.tenants.push(tenant.clone()),
            None => group.own.push(what),
        }
    }
    let is_shared = |group: &SharedRole| group.tenants.len() > usize::from(group.own.is_empty());
    let mut shared: Vec<_> = groups.into_values().filter(is_shared).collect();
    let places: BTreeMap<_, _> = tenants.iter().enumerate().map(|(place, tenant)| (&tenant.id, place)).collect();
    shared.sort_by_key(|group| group.tenants.first().and_then(|tenant| places.get(tenant).copied()));
    shared
}

impl fmt::Display for SharedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SharedRole { role, server, own, tenants } = self;
        let mut uses: Vec<String> = own.iter().map(|what| (*what).to_owned()).collect();
        uses.extend(tenants.iter().take(LISTED).map(|tenant| format!("tenant {tenant}")));
        if tenants.len() > LISTED {
            uses.push(format!("{} more tenants", tenants.len() - LISTED));
        }
        write!(
            f,
            "role {role} of server {server} is used for {}: the owner of one target can act as this role in the other \
             databases",
            uses.join(", ")
        )
    }
}

impl SharedRole {
    /// The statements for one role per target.
    pub(crate) fn remedy(&self) -> String {
        let role = |tenant: &TenantId| quote_ident(&format!("{}_{tenant}", self.role));
        let create = |tenant| format!("CREATE ROLE {} LOGIN PASSWORD '...';", role(tenant));
        let mut statements: Vec<_> = self.tenants.iter().take(LISTED).map(create).collect();
        if self.tenants.len() > LISTED {
            statements.push("...".to_owned());
        }
        format!(
            "one role per target: {} then set it in the target's URL, and run `users-sync setup` with --apply and \
             --target-admin for each of these tenants",
            statements.join(" ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Env, parse};

    fn config(source: &str, targets: &[&str]) -> Config {
        let mut text = format!("source: {{url: '{source}'}}\nusers: {{table: a.b, id: id, tenant: org}}\ntenants:\n");
        for (number, target) in targets.iter().enumerate() {
            text.push_str(&format!("- {{id: t{number}, target: '{target}'}}\n"));
        }
        let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        parse("c.yaml", &text, &env).unwrap()
    }

    #[track_caller]
    fn check(source: &str, targets: &[&str], expected: &[&str]) {
        let found = config(source, targets).shared_roles(ServerName::of);
        let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
        let shown: Vec<_> = shown.iter().map(|text| text.split(": the owner").next().unwrap()).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn one_role_of_one_server_in_two_databases_is_shared() {
        let source = "postgres://s@auth/auth";
        check(source, &["postgres://u@h/a", "postgres://v@h/b", "postgres://u@g/a", "postgres://u@h:5433/a"], &[]);
        check(
            source,
            &["postgres://u@h/a", "postgres://u@H./b", "postgres://u@h/c"],
            &["role u of server h:5432 is used for tenant t0, tenant t1, tenant t2"],
        );
        check(
            source,
            &["postgres://u@localhost/a", "postgres://u@[::1]/b"],
            &["role u of server localhost:5432 is used for tenant t0, tenant t1"],
        );
        check(
            "postgres://u@h/auth",
            &["postgres://x@h/a", "postgres://u@h/b"],
            &["role u of server h:5432 is used for the source, tenant t1"],
        );
        let many: Vec<_> = (0..7).map(|n| format!("postgres://u@h/{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let list = "tenant t0, tenant t1, tenant t2, tenant t3, tenant t4, 2 more tenants";
        check(source, &many, &[&format!("role u of server h:5432 is used for {list}")]);
    }

    #[test]
    fn a_server_may_be_known_by_two_names_and_a_name_may_lead_to_two_servers() {
        let config = config("postgres://s@auth/auth", &["postgres://u@a/x", "postgres://u@b/y", "postgres://u@b/z"]);
        let name = |url: &PgUrl| ServerName::Instance(if url.database == "z" { "2" } else { "1" }.to_owned());
        let found = config.shared_roles(name);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].tenants, ["t0", "t1"].map(TenantId::new));
        assert_eq!(
            found[0].remedy(),
            "one role per target: CREATE ROLE \"u_t0\" LOGIN PASSWORD '...'; CREATE ROLE \"u_t1\" LOGIN PASSWORD \
             '...'; then set it in the target's URL, and run `users-sync setup` with --apply and --target-admin for each \
             of these tenants"
        );
    }
}
