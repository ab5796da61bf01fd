//! The section `targets`: rules for the target databases of all tenants. Pure.

use super::hash::Hash;
use super::key_types::{Choice, CommandWords};
use super::section::section;
use crate::pg::PasswordCommand;
use schemars::JsonSchema;
use serde::Deserialize;

section! {
    /// Rules for the target databases of all tenants.
    ///
    /// ```yaml
    /// targets: {share_role: refuse}
    /// ```
    pub struct Targets {
        /// Whether one role of a server may be used for several databases: the targets of two tenants, or a target and the
        /// source or the state.
        ///
        /// The triggers, policies and generated columns of a target run as the role in its URL. Its owner can therefore use
        /// everything that the role may do in the other databases of that server.
        pub share_role: ShareRole as Choice<ShareRole> = "allow",
        /// As `source.password_command`, for each target whose URL has neither a password nor a password file.
        pub password_command: Option<PasswordCommand> as Option<CommandWords>,
        /// As `hash` of a tenant, for tenants without one.
        pub hash: Option<Hash>,
        /// As `mask` of a tenant, for tenants without one.
        pub mask: Option<Vec<String>>,
        /// As `only` of a tenant, for tenants without one.
        pub only: Option<Vec<String>>,
    }
}

/// `targets.share_role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShareRole {
    /// An error in the configuration: `run` does not start. Servers are compared by the host and port of the URLs. `check`
    /// also reports a server that is known by two names.
    Refuse,
    /// A warning of `check`, and at the start. Only for tenants that trust each other.
    Allow,
}
