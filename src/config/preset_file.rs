//! The file of a preset: its keys, and how it combines with the file's own section `users`. Pure.

use super::error::Fault;
use super::interpolate::NO_ENVIRONMENT;
use super::presets::{PRESETS, Preset};
use super::section::{KeyType, Reader, section};
use super::users::Users;
use super::yaml::{Kind, Node, parse_yaml};

/// A less similar name of a preset (Jaro-Winkler) is not suggested.
const SIMILAR: f64 = 0.75;

/// Services whose users are in no PostgreSQL database that their customers can read.
const HOSTED: [&str; 12] = [
    "auth0",
    "clerk",
    "cognito",
    "descope",
    "entra",
    "firebase",
    "frontegg",
    "kinde",
    "okta",
    "propelauth",
    "stytch",
    "workos",
];
const HOSTED_HELP: &str = "\
    write its users to a table of your own, with its webhooks or its export, and map that table: users: {table: ..., id: ...}";

section! {
    /// A preset: the mapping of one auth store.
    pub(super) struct PresetFile {
        /// What it is for, in one line.
        about: String,
        /// The software whose own tables it was tested on, or `no: ` and the reason.
        verified: String,
        /// Columns of its table that tell it from the tables of other stores.
        signs: Option<Vec<String>>,
        /// The mapping.
        users: Node as UsersNode,
        /// The layouts that the store's tables may have. The first that the source has is used.
        families: Option<Vec<Variant>>,
    }
}

section! {
    /// A layout of the store's tables.
    pub(super) struct Variant {
        /// Name of the layout in messages.
        pub(super) name: String,
        /// Columns of the table by which the layout is recognised.
        pub(super) has: Vec<String>,
        /// The keys of the mapping that differ in this layout.
        pub(super) users: Node as UsersNode,
    }
}

/// A section `users` that is combined with others before it is read.
struct UsersNode;

impl KeyType for UsersNode {
    type Value = Node;
    type Schema = Users;

    fn expected() -> String {
        Users::expected()
    }

    fn read(node: &Node, _: &str, _: &mut Reader<'_>) -> Option<Node> {
        Some(node.clone())
    }
}

/// What the file of a preset says besides the mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// What it is for, in one line.
    pub about: String,
    /// The software whose own tables it was tested on, or `no: ` and the reason.
    pub verified: String,
    /// Columns of its table that tell it from the tables of other stores.
    pub signs: Vec<String>,
}

impl Preset {
    /// The description of the preset.
    pub fn about(&self) -> About {
        match parse_yaml(self.yaml).map_err(|error| error.message).and_then(|root| read(&root)) {
            Ok(PresetFile { about, verified, signs, .. }) => {
                About { about, verified, signs: signs.unwrap_or_default() }
            }
            Err(_) => About::default(),
        }
    }
}

/// Why there is no preset of a name, and what to do.
pub(crate) struct UnknownPreset {
    pub(crate) message: String,
    pub(crate) help: String,
}

impl UnknownPreset {
    pub(crate) fn of(name: &str) -> UnknownPreset {
        if HOSTED.contains(&name.to_lowercase().as_str()) {
            let message = format!("there is no preset {name}: it gives no access to its database");
            return UnknownPreset { message, help: HOSTED_HELP.to_owned() };
        }
        let scored = PRESETS.iter().map(|preset| (strsim::jaro_winkler(name, preset.name), preset.name));
        let nearest = scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > SIMILAR);
        let help = match nearest {
            Some((_, nearest)) => format!("did you mean {nearest}?"),
            None => "`users-sync presets` lists the presets".to_owned(),
        };
        UnknownPreset { message: format!("there is no preset {name}"), help }
    }
}

/// The variants of the preset that `node` names. All of their places are that of `node`, the only one in the user's file.
pub(super) fn variants(node: &Node, name: &str) -> Result<Vec<Variant>, Fault> {
    let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
        let UnknownPreset { message, help } = UnknownPreset::of(name);
        return Err(Fault::new(&node.span, message).help(help));
    };
    let broken = |message: String| Fault::new(&node.span, format!("preset {name} is invalid: {message}"));
    let mut root = parse_yaml(preset.yaml).map_err(|error| broken(error.message))?;
    root.relocate(&node.span);
    let PresetFile { users, families, .. } = read(&root).map_err(broken)?;
    let Some(families) = families else {
        return Ok(vec![Variant { name: String::new(), has: Vec::new(), users }]);
    };
    let merged = families.into_iter().map(|family| Variant { users: merge(&users, &family.users), ..family });
    Ok(merged.collect())
}

fn read(root: &Node) -> Result<PresetFile, String> {
    let mut reader = Reader::new(&NO_ENVIRONMENT, PresetFile::KEYS);
    let file = PresetFile::read(root, "", &mut reader);
    let message = |faults: Vec<Fault>| faults.into_iter().next().map(|fault| fault.message).unwrap_or_default();
    reader.finish(file).map_err(message)
}

/// The keys of `base`, each replaced where `over` has it.
pub(super) fn merge(base: &Node, over: &Node) -> Node {
    let (Kind::Section(base), Kind::Section(entries)) = (&base.kind, &over.kind) else { return base.clone() };
    let kept = base.iter().filter(|(key, _)| !entries.iter().any(|(other, _)| other.name == key.name));
    Node { kind: Kind::Section(kept.chain(entries).cloned().collect()), span: over.span.clone() }
}
