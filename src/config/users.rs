//! The `users` section: a preset's and the file's own keys together -> [`Rules`], one for each family of tables that the
//! store may have. Pure.

use super::error::Fault;
use super::filter::parse_filter;
use super::interpolate::Env;
use super::presets;
use super::raw::{Kind, Node};
use super::section::{self, Section, is_name, text};
use super::values::parse_value;
use crate::map::{Query, Rules, Value, Via, Watch};
use crate::model::TableName;
use crate::pg::{quote_ident, quote_table};

/// Tables of one shape that a store's versions and set-ups may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// What people call it; empty where there is only one.
    pub name: String,
    /// The columns of the table by which it is recognised.
    pub has: Vec<String>,
    /// The mapping for it.
    pub rules: Rules,
}

impl Family {
    /// What it is recognised by.
    pub fn describe(&self) -> String {
        match &self.has[..] {
            [] => self.rules.table.to_string(),
            has => format!("{} with {}", self.rules.table, has.join(", ")),
        }
    }
}

/// The column by which a fanned-out user's row names its tenant.
const FAN_OUT_TENANT: &str = "users_sync_tenant";

/// Every family of the section's preset, each with the file's own keys over it; one alone without a preset.
pub(super) fn families(node: &Node, from: &Env<'_>) -> Result<Vec<Family>, Fault> {
    let section = Section::of(node, &section::USERS, from)?;
    let Some(preset) = section.node("preset") else {
        let rules = rules(&section, from)?;
        return Ok(vec![Family { name: String::new(), has: Vec::new(), rules }]);
    };
    let variants = presets::variants(preset, &text(preset, "users.preset", from)?)?;
    let merge = |variant: presets::Variant| {
        let merged = presets::merge(&variant.users, node);
        let rules = rules(&Section::of(&merged, &section::USERS, from)?, from)?;
        Ok(Family { name: variant.name, has: variant.has, rules })
    };
    variants.into_iter().map(merge).collect()
}

fn rules(users: &Section<'_>, from: &Env<'_>) -> Result<Rules, Fault> {
    let value = |name| -> Result<Option<Value>, Fault> {
        users.node(name).map(|node| parse_value(node, &users.path(name), from)).transpose()
    };
    let id = parse_value(users.required("id", "the column that identifies a user")?, "users.id", from)?;
    let filter = match users.node("where") {
        Some(node) => Some(
            parse_filter(&text(node, "users.where", from)?)
                .map_err(|(message, help)| Fault::new(&node.span, format!("users.where: {message}")).help(help))?,
        ),
        None => None,
    };
    let allow = match users.node("allow") {
        Some(_) => Some(users.texts("allow")?),
        None => None,
    };
    let mut rules = Rules {
        table: table(users, from)?,
        id,
        name: value("name")?,
        email: value("email")?,
        created_at: value("created_at")?,
        updated_at: value("updated_at")?,
        deleted_at: value("deleted_at")?,
        tenant: value("tenant")?,
        filter,
        allow,
        exclude: users.texts("exclude")?,
        query: None,
    };
    match (users.node("query"), users.node("fan_out")) {
        (Some(query), None) => rules.query = Some(parse_query(users, query, &rules, from)?),
        (None, Some(node)) => fan_out(node, &mut rules, from)?,
        (Some(_), Some(node)) => {
            let fault = Fault::new(&node.span, "users.fan_out and users.query exclude each other");
            return Err(fault.help("let the query give one row per user and tenant, and leave fan_out out"));
        }
        (None, None) => {
            for name in ["key", "watch"] {
                if let Some(node) = users.node(name) {
                    let fault = Fault::new(&node.span, format!("users.{name} without users.query"));
                    return Err(fault.help("both belong to a query; leave it out"));
                }
            }
        }
    }
    Ok(rules)
}

fn table(section: &Section<'_>, from: &Env<'_>) -> Result<TableName, Fault> {
    let path = section.path("table");
    let node = section.required("table", "schema.name, for example auth.users")?;
    let text = text(node, &path, from)?;
    match text.split_once('.') {
        Some((schema, name)) if is_name(schema) && is_name(name) => {
            Ok(TableName { schema: schema.to_owned(), name: name.to_owned() })
        }
        _ => Err(Fault::new(&node.span, format!("{path} has to be schema.name"))
            .help("for example public.users; taken literally: no quotes, case matters")),
    }
}

fn parse_query(users: &Section<'_>, node: &Node, rules: &Rules, from: &Env<'_>) -> Result<Query, Fault> {
    // Not interpolated piece by piece: a variable in SQL is text like any other.
    let sql = text(node, "users.query", from)?.trim().to_owned();
    if sql.is_empty() || sql.contains(';') {
        let fault = Fault::new(&node.span, "users.query has to be one SELECT, without a semicolon");
        return Err(fault.help("it gives one row per user; users-sync adds the condition on the key itself"));
    }
    let mut key = users.one_or_more("key")?;
    if key.is_empty() {
        key.extend(plain(&rules.id));
    }
    if !plain(&rules.id).is_some_and(|id| key.contains(&id)) {
        let node = users.node("key").unwrap_or(node);
        let fault = Fault::new(&node.span, "users.id is not among the columns of users.key");
        return Err(fault.help("with a query, users.id is a plain column of its result, and one of the key's columns"));
    }
    let items: &[Node] = match users.node("watch") {
        Some(Node { kind: Kind::List(items), .. }) => items,
        None => &[],
        Some(node) => {
            let fault = Fault::new(&node.span, "users.watch has to be a list");
            return Err(fault.help("watch: [{table: public.emails, key: user_id}]"));
        }
    };
    let read = |item| parse_watch(item, &rules.table, &key, from);
    let mut watch = items.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if !watch.iter().any(|watch| watch.is_users_own) {
        let (table, tenant) = (rules.table.clone(), rules.tenant.clone());
        watch.push(Watch { table, key: key.clone(), tenant, is_users_own: true, via: None });
    }
    Ok(Query { sql, key, watch })
}

fn parse_watch(node: &Node, users: &TableName, key: &[String], from: &Env<'_>) -> Result<Watch, Fault> {
    let watch = Section::of(node, &section::WATCH, from)?;
    let (table, columns) = (table(&watch, from)?, watch.one_or_more("key")?);
    let via = watch.node("via").map(|node| parse_via(node, &columns, key, from)).transpose()?;
    if columns.len() != key.len() && via.is_none() {
        let message = format!("users.watch.key has {} columns, and users.key has {}", columns.len(), key.len());
        return Err(Fault::new(&watch.node("key").unwrap_or(node).span, message)
            .help(format!("name the columns that hold {}, in this order", key.join(", "))));
    }
    Ok(Watch {
        is_users_own: table == *users,
        table,
        key: columns,
        tenant: watch.node("tenant").map(|node| parse_value(node, "users.watch.tenant", from)).transpose()?,
        via,
    })
}

fn parse_via(node: &Node, columns: &[String], key: &[String], from: &Env<'_>) -> Result<Via, Fault> {
    let section = Section::of(node, &section::VIA, from)?;
    let via = Via { table: table(&section, from)?, from: section.one_or_more("from")?, to: section.one_or_more("to")? };
    for (name, has, wanted) in [("from", &via.from, columns), ("to", &via.to, key)] {
        if has.len() != wanted.len() {
            let message = format!("users.watch.via.{name} has {} columns instead of {}", has.len(), wanted.len());
            return Err(Fault::new(&section.node(name).unwrap_or(node).span, message)
                .help(format!("name the columns that hold {}, in this order", wanted.join(", "))));
        }
    }
    Ok(via)
}

/// A user is in as many tenants as another table says: a query that says so.
fn fan_out(node: &Node, rules: &mut Rules, from: &Env<'_>) -> Result<(), Fault> {
    let section = Section::of(node, &section::FAN_OUT, from)?;
    if rules.tenant.is_some() {
        let fault = Fault::new(&node.span, "users.fan_out and users.tenant exclude each other");
        return Err(fault.help("the tenant of a fanned-out user is fan_out.tenant; leave users.tenant out"));
    }
    let Some(id) = plain(&rules.id) else {
        return Err(Fault::new(&node.span, "with users.fan_out, users.id has to be a plain column"));
    };
    let column = |name, help| section.required(name, help).and_then(|node| text(node, &section.path(name), from));
    let members = table(&section, from)?;
    let user = column("id", "the column that holds the user's id")?;
    let tenant = column("tenant", "the column that holds the tenant's key")?;
    let sql = format!(
        "SELECT u.*, m.{tenant}::text AS {FAN_OUT_TENANT} FROM {users} u JOIN {members} m ON m.{user} = u.{id}",
        tenant = quote_ident(&tenant),
        users = quote_table(&rules.table),
        members = quote_table(&members),
        user = quote_ident(&user),
        id = quote_ident(&id),
    );
    rules.tenant = Some(Value::Column(FAN_OUT_TENANT.to_owned()));
    rules.exclude.push(FAN_OUT_TENANT.to_owned());
    let own = Watch { table: rules.table.clone(), key: vec![id.clone()], tenant: None, is_users_own: true, via: None };
    let tenant = Some(Value::Column(tenant));
    let members = Watch { table: members, key: vec![user], tenant, is_users_own: false, via: None };
    rules.query = Some(Query { sql, key: vec![id], watch: vec![own, members] });
    Ok(())
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Column(name) => Some(name.clone()),
        _ => None,
    }
}
