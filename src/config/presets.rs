//! The presets: YAML files that are part of the program. Pure.

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
