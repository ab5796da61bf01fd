//! The presets: YAML files that are compiled into the program. Pure.

/// The ready mapping of an auth store.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// The value of `users.preset`.
    pub name: &'static str,
    /// The content of its file.
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
    "neon-auth",
    "stack-auth",
    "supabase",
    "supertokens",
    "zitadel",
);
