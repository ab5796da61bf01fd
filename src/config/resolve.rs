//! The tree -> [`Config`]: defaults, and every rule between keys. Pure.

use super::admin::admin;
use super::error::{ConfigError, Fault};
use super::interpolate::Env;
use super::kafka::kafka;
use super::raw::{Kind, Malformed, Node, parse_yaml};
use super::section::{self, SLOT, Section, is_name, is_slot, text, url};
use super::settings::{Config, Limits, LogFormat, MaxDeletes, OnSlotLoss, Publish, Source};
use super::tenants::add_tenants;
use super::units::{DURATION, parse_duration, parse_percent, parse_size};
use super::users;
use crate::model::Deletes;
use std::time::Duration;

const SIZE: &str = "a size: 16MB, 1GB, or plain bytes";

/// Reads a configuration's text. `name` is what errors call it.
pub fn parse(name: &str, text: &str, from: &Env<'_>) -> Result<Config, ConfigError> {
    let root = parse_yaml(text).map_err(not_yaml);
    root.and_then(|root| resolve(&root, from)).map_err(|fault| fault.in_file(name, text))
}

pub(super) fn not_yaml(error: Malformed) -> Fault {
    Fault::new(&error.span, format!("this is not YAML: {}", error.message))
        .help("look at the indentation and the quotes there, and just before")
}

/// Resolves the whole file.
fn resolve(root: &Node, from: &Env<'_>) -> Result<Config, Fault> {
    let top = Section::of(root, &section::TOP, from)?;
    let source = source(top.required("source", "source.url says where the auth database is")?, from)?;
    let state_url = match top.node("state") {
        Some(node) => {
            let state = Section::of(node, &section::STATE, from)?;
            url(state.required("url", "leave `state` out to keep the state in the source")?, "state.url", from)?
        }
        None => source.url.clone(),
    };
    let users_node = top.required("users", "users.table and users.id say who the users are")?;
    let families = users::families(users_node, from)?;
    let users = families.first().map(|family| family.rules.clone());
    let users = users.ok_or_else(|| Fault::new(&users_node.span, "the preset has no family of tables"))?;
    if source.publish == Publish::Columns && users.allow.is_none() && users.query.is_none() {
        let fault = Fault::new(&users_node.span, "source.publish is columns, but users.allow is missing");
        return Err(fault.help("a publication of columns cannot follow new ones: list those that leave"));
    }
    let include = top.texts("include")?;
    let wake_after = top.parsed("wake_after", None, |text| parse_duration(text).map(Some), DURATION)?;
    let mut tenants = Vec::new();
    match top.node("tenants") {
        None if !include.is_empty() => {}
        _ => {
            let node = top.required("tenants", "each tenant has an id and a target")?;
            add_tenants(&mut tenants, node, &users, wake_after, from)?;
        }
    }
    let (deletes, purge_after) = deletes(top.node("deletes"), from)?;
    let kafka = top.node("kafka").map(|node| kafka(node, &source.slot, &users, &tenants, from)).transpose()?;
    let admin = top.node("admin").map(|node| admin(node, from)).transpose()?;
    Ok(Config {
        kafka,
        admin,
        state_url,
        tenants,
        include,
        wake_after,
        deletes,
        purge_after,
        notify: top.switch("notify", false)?,
        limits: limits(top.node("limits"), from)?,
        on_slot_loss: top.parsed(
            "on_slot_loss",
            OnSlotLoss::Resync,
            |text| match text {
                "resync" => Some(OnSlotLoss::Resync),
                "stop" => Some(OnSlotLoss::Stop),
                _ => None,
            },
            "resync or stop",
        )?,
        log: top.parsed(
            "log",
            LogFormat::Text,
            |text| match text {
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            },
            "text or json",
        )?,
        source,
        users,
        families,
    })
}

fn source(node: &Node, from: &Env<'_>) -> Result<Source, Fault> {
    let source = Section::of(node, &section::SOURCE, from)?;
    let publish = source.parsed(
        "publish",
        Publish::Rows,
        |text| match text {
            "rows" => Some(Publish::Rows),
            "columns" => Some(Publish::Columns),
            _ => None,
        },
        "rows or columns",
    )?;
    let default = || "users_sync".to_owned();
    Ok(Source {
        url: url(source.required("url", "for example url: ${AUTH_DATABASE_URL}")?, "source.url", from)?,
        slot: source.parsed("slot", default(), |name| is_slot(name).then(|| name.to_owned()), SLOT)?,
        publication: source.parsed(
            "publication",
            default(),
            |name| is_name(name).then(|| name.to_owned()),
            "a name of at most 63 bytes",
        )?,
        publish,
    })
}

/// What a delete means, and after how long a soft one is for good.
fn deletes(node: Option<&Node>, from: &Env<'_>) -> Result<(Deletes, Option<Duration>), Fault> {
    let Some(node) = node else { return Ok((Deletes::Soft, None)) };
    let (mode, purge_after) = match &node.kind {
        Kind::Section(_) => {
            let section = Section::of(node, &section::DELETES, from)?;
            let purge_after = section.parsed("purge_after", None, |text| parse_duration(text).map(Some), DURATION)?;
            (section.required("mode", "soft or hard")?, purge_after)
        }
        _ => (node, None),
    };
    match (&*text(mode, "deletes", from)?, purge_after) {
        ("soft", purge_after) => Ok((Deletes::Soft, purge_after)),
        ("hard", None) => Ok((Deletes::Hard, None)),
        ("hard", Some(_)) => {
            Err(Fault::new(&node.span, "hard deletes leave nothing to be purged").help("leave purge_after out"))
        }
        _ => Err(Fault::new(&mode.span, "deletes has no such value").help("it takes soft or hard")),
    }
}

fn limits(node: Option<&Node>, from: &Env<'_>) -> Result<Limits, Fault> {
    let absent = Node { kind: Kind::Null, span: 0..0 };
    let limits = Section::of(node.unwrap_or(&absent), &section::LIMITS, from)?;
    let bytes = |text: &str| parse_size(text).and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
    Ok(Limits {
        source_wal: limits.parsed("source_wal", 1 << 30, |text| parse_size(text).filter(|size| *size > 0), SIZE)?,
        memory: limits.parsed("memory", 256 << 20, bytes, SIZE)?,
        tenant_memory: limits.parsed("tenant_memory", 16 << 20, bytes, SIZE)?,
        park_after: limits.parsed("park_after", Duration::from_secs(600), parse_duration, DURATION)?,
        stall: limits.parsed("stall", Duration::from_secs(5), parse_duration, DURATION)?,
        max_deletes: limits.parsed(
            "max_deletes",
            MaxDeletes { percent: 10.0 },
            |text| parse_percent(text).map(|percent| MaxDeletes { percent }),
            "a share: 10%",
        )?,
        snapshot_age: limits.parsed("snapshot_age", Duration::from_secs(3600), parse_duration, DURATION)?,
        kafka_wal: limits.parsed("kafka_wal", 1 << 30, |text| parse_size(text).filter(|size| *size > 0), SIZE)?,
    })
}
