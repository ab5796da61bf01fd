//! The section `users` -> [`Rules`], for each layout that the store's tables may have. Keys of the file override those of the
//! preset. Pure.

use super::error::Fault;
use super::interpolate::NO_ENVIRONMENT;
use super::preset_file::{merge, variants};
use super::presets::Preset;
use super::section::{KeyType, Nested, Reader};
use super::users::{self, Users};
use super::yaml::{Kind, Node, parse_yaml};
use crate::map::{FAN_OUT_TENANT, Memberships, Query, Redactions, Rules, Value, Via, Watch, fan_out_query};
use crate::model::TableName;

/// One layout of a store's tables. Layouts differ between versions and set-ups of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// The preset that it belongs to.
    pub preset: Option<String>,
    /// Name of the layout; empty if there is only one.
    pub name: String,
    /// Columns of the table by which the layout is recognised.
    pub has: Vec<String>,
    /// The mapping for it.
    pub rules: Rules,
}

impl Family {
    /// The table and columns by which the layout is recognised.
    pub fn describe(&self) -> String {
        match &self.has[..] {
            [] => self.rules.table.to_string(),
            has => format!("{} with {}", self.rules.table, has.join(", ")),
        }
    }
}

/// The section `users`, read as the families of its preset. Without a preset there is one family.
pub(super) struct Mapping;

impl KeyType for Mapping {
    type Value = Vec<Family>;
    type Schema = Users;

    fn expected() -> String {
        Users::expected()
    }

    fn nested() -> Option<Nested> {
        Users::nested()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Vec<Family>> {
        let Some(preset) = node.get("preset") else {
            let rules = read_rules(node, path, reader)?;
            return Some(vec![Family { preset: None, name: String::new(), has: Vec::new(), rules }]);
        };
        let name = reader.text(preset, "users.preset")?;
        let variants = match variants(preset, &name) {
            Ok(variants) => variants,
            Err(fault) => {
                reader.push(fault);
                return None;
            }
        };
        let read = variants.into_iter().map(|variant| {
            let rules = read_rules(&merge(&variant.users, node), path, reader)?;
            Some(Family { preset: Some(name.clone()), name: variant.name, has: variant.has, rules })
        });
        read.collect()
    }
}

impl Preset {
    /// The mapping for each layout of its tables, the most likely first.
    pub(crate) fn families(&self) -> Vec<Family> {
        read_mapping(&format!("preset: {}", self.name))
    }
}

/// The mapping that a section `users` without variables describes; empty if it is not valid.
pub(crate) fn read_mapping(yaml: &str) -> Vec<Family> {
    let mut reader = Reader::new(&NO_ENVIRONMENT, Users::KEYS);
    let node = parse_yaml(yaml).ok();
    let read = node.and_then(|node| Mapping::read(&node, "users", &mut reader));
    reader.finish(read).unwrap_or_default()
}

fn read_rules(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Rules> {
    let users = Users::read(node, path, reader)?;
    let mut rules = Rules {
        table: users.table,
        id: users.id,
        name: users.name,
        email: users.email,
        created_at: users.created_at,
        updated_at: users.updated_at,
        deleted_at: users.deleted_at,
        tenant: users.tenant,
        filter: users.r#where,
        allow: users.allow,
        exclude: users.exclude,
        query: None,
        redactions: Redactions::default(),
    };
    let built = match (users.query, users.fan_out) {
        (Some(sql), None) => {
            let query = build_query(&sql, users.key.unwrap_or_default(), users.watch.unwrap_or_default(), &rules, node);
            query.map(|query| rules.query = Some(query))
        }
        (None, Some(members)) => fan_out(&members, &mut rules, node),
        (Some(_), Some(_)) => {
            let fault = Fault::new(node.span_of("fan_out"), "users.fan_out and users.query exclude each other");
            Err(fault.help("return one row per user and tenant from the query, and remove fan_out"))
        }
        (None, None) => ["key", "watch"].into_iter().try_for_each(|name| match node.get(name) {
            Some(value) => Err(Fault::new(&value.span, format!("users.{name} requires users.query"))
                .help("it describes the result of a query; remove it")),
            None => Ok(()),
        }),
    };
    if let Err(fault) = built {
        reader.push(fault);
        return None;
    }
    Some(rules)
}

fn build_query(
    sql: &str,
    mut key: Vec<String>,
    sections: Vec<users::Watch>,
    rules: &Rules,
    node: &Node,
) -> Result<Query, Fault> {
    let sql = sql.trim().to_owned();
    if sql.is_empty() || sql.contains(';') {
        let fault = Fault::new(node.span_of("query"), "users.query must be one SELECT without a semicolon");
        return Err(fault.help("it returns one row per user; users-sync adds the condition on the key itself"));
    }
    if key.is_empty() {
        key.extend(plain(&rules.id));
    }
    if !plain(&rules.id).is_some_and(|id| key.contains(&id)) {
        let span = node.get("key").map_or(node.span_of("query"), |key| &key.span);
        let fault = Fault::new(span, "users.id is not one of the columns in users.key");
        return Err(fault.help("with a query, users.id is a plain column of its result, and one of the key's columns"));
    }
    let items: &[Node] = match node.get("watch") {
        Some(Node { kind: Kind::List(items), .. }) => items,
        _ => &[],
    };
    let mut watch = Vec::new();
    for (section, item) in sections.into_iter().zip(items) {
        watch.push(build_watch(section, item, &rules.table, &key)?);
    }
    if !watch.iter().any(|watch| watch.is_users_own) {
        let (table, tenant) = (rules.table.clone(), rules.tenant.clone());
        watch.push(Watch { table, key: key.clone(), tenant, is_users_own: true, via: None });
    }
    Ok(Query { sql, key, watch, distinct: Vec::new() })
}

fn build_watch(section: users::Watch, item: &Node, users: &TableName, key: &[String]) -> Result<Watch, Fault> {
    let via = match section.via {
        Some(via) => {
            check_columns(item, "via.from", &via.from, &section.key)?;
            check_columns(item, "via.to", &via.to, key)?;
            Some(Via { table: via.table, from: via.from, to: via.to })
        }
        None => {
            check_columns(item, "key", &section.key, key)?;
            None
        }
    };
    Ok(Watch {
        is_users_own: section.table == *users,
        table: section.table,
        key: section.key,
        tenant: section.tenant,
        via,
    })
}

/// Reports a list of columns that is not as long as the list that it corresponds to.
fn check_columns(item: &Node, name: &str, columns: &[String], of: &[String]) -> Result<(), Fault> {
    if columns.len() == of.len() {
        return Ok(());
    }
    let message = format!("users.watch.{name} has {} columns instead of {}", columns.len(), of.len());
    let help = format!("name the columns that contain {}, in this order", of.join(", "));
    Err(Fault::new(item.span_of(name), message).help(help))
}

/// The query behind `users.fan_out`: the users' table joined with the memberships.
fn fan_out(section: &users::FanOut, rules: &mut Rules, node: &Node) -> Result<(), Fault> {
    let users::FanOut { table: members, id: user, tenant } = section;
    if rules.tenant.is_some() {
        let fault = Fault::new(node.span_of("fan_out"), "users.fan_out and users.tenant exclude each other");
        return Err(fault.help("the tenant is fan_out.tenant; leave users.tenant out"));
    }
    let Some(id) = plain(&rules.id) else {
        return Err(Fault::new(node.span_of("fan_out"), "with users.fan_out, users.id must be a plain column"));
    };
    let memberships = Memberships { table: members, user, tenant };
    let sql = fan_out_query(&rules.table, &id, &memberships, "JOIN");
    rules.tenant = Some(Value::Column(FAN_OUT_TENANT.to_owned()));
    rules.exclude.push(FAN_OUT_TENANT.to_owned());
    let own = Watch { table: rules.table.clone(), key: vec![id.clone()], tenant: None, is_users_own: true, via: None };
    let tenant = Some(Value::Column(tenant.clone()));
    let members = Watch { table: members.clone(), key: vec![user.clone()], tenant, is_users_own: false, via: None };
    // No unique index has to keep a membership from being stored twice.
    let distinct = vec![id.clone(), FAN_OUT_TENANT.to_owned()];
    rules.query = Some(Query { sql, key: vec![id], watch: vec![own, members], distinct });
    Ok(())
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Column(name) => Some(name.clone()),
        _ => None,
    }
}
