//! The presets: YAML files that are part of the program. Pure.

use super::error::Fault;
use super::interpolate::Env;
use super::raw::{Key, Kind, Node, parse_yaml};
use super::section::{self, Section};

/// A store's mapping, ready to be used by its name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// What `users.preset` says.
    pub name: &'static str,
    /// The file.
    pub yaml: &'static str,
}

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// Every preset, by name.
        pub const PRESETS: &[Preset] =
            &[$(Preset { name: $name, yaml: include_str!(concat!("../../config/presets/", $name, ".yaml")) }),*];
    };
}

presets!(
    "authentik",
    "authjs",
    "better-auth",
    "casdoor",
    "devise",
    "django",
    "fusionauth",
    "keycloak",
    "kratos",
    "logto",
    "stack-auth",
    "supabase",
    "supertokens",
    "zitadel",
);

/// What a preset's file says beside the mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// What it is for, in a line.
    pub about: String,
    /// The software whose own tables it was tested on, or `no, ` and why not.
    pub verified: String,
}

impl Preset {
    /// The first lines of the file.
    pub fn about(&self) -> About {
        let said = |name| {
            let Ok(Node { kind: Kind::Section(entries), .. }) = parse_yaml(self.yaml) else { return String::new() };
            match entries.into_iter().find(|(key, _)| key.name == name).map(|(_, node)| node.kind) {
                Some(Kind::Scalar(text)) => text,
                _ => String::new(),
            }
        };
        About { about: said("about"), verified: said("verified") }
    }
}

/// One of the shapes that a store's tables have.
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) has: Vec<String>,
    pub(super) users: Node,
}

/// The variants of the preset that `node` names. Every place in them is that of `node`: there is no other in the file.
pub(super) fn variants(node: &Node, name: &str) -> Result<Vec<Variant>, Fault> {
    let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
        let scored = PRESETS.iter().map(|preset| (strsim::jaro_winkler(name, preset.name), preset.name));
        let nearest = scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.75);
        let help = match nearest {
            Some((_, nearest)) => format!("did you mean {nearest}?"),
            None => "`users-sync presets` lists those that there are".to_owned(),
        };
        return Err(Fault::new(&node.span, format!("there is no preset {name}")).help(help));
    };
    let broken = |what: String| Fault::new(&node.span, format!("preset {name} is broken: {what}"));
    let mut root = parse_yaml(preset.yaml).map_err(|error| broken(error.message))?;
    relocate(&mut root, node);
    // A preset takes nothing from its surroundings.
    let nowhere = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    let top = Section::of(&root, &section::PRESET, &nowhere)?;
    let users = top.required("users", "the mapping")?;
    let Some(Node { kind: Kind::List(families), .. }) = top.node("families") else {
        return Ok(vec![Variant { name: String::new(), has: Vec::new(), users: users.clone() }]);
    };
    let variant = |family: &Node| {
        let family = Section::of(family, &section::FAMILY, &nowhere)?;
        Ok(Variant {
            name: family.text("name")?.unwrap_or_default(),
            has: family.texts("has")?,
            users: family.node("users").map_or_else(|| users.clone(), |over| merge(users, over)),
        })
    };
    families.iter().map(variant).collect()
}

/// The keys of `base`, each replaced where `over` has it.
pub(super) fn merge(base: &Node, over: &Node) -> Node {
    let (Kind::Section(base), Kind::Section(entries)) = (&base.kind, &over.kind) else { return base.clone() };
    let kept = base.iter().filter(|(key, _)| !entries.iter().any(|(other, _)| other.name == key.name));
    Node { kind: Kind::Section(kept.chain(entries).cloned().collect()), span: over.span.clone() }
}

fn relocate(node: &mut Node, to: &Node) {
    node.span = to.span.clone();
    match &mut node.kind {
        Kind::Null | Kind::Scalar(_) => {}
        Kind::List(items) => items.iter_mut().for_each(|item| relocate(item, to)),
        Kind::Section(entries) => {
            for (Key { span, .. }, node) in entries {
                *span = to.span.clone();
                relocate(node, to);
            }
        }
    }
}
