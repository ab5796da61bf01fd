//! The section `admin`. Pure.

use super::error::Fault;
use super::key_types::{Address, SecretText};
use super::section::{Reader, section};
use super::yaml::Node;
use crate::pg::Secret;
use std::net::SocketAddr;

section! {
    /// The HTTP server.
    ///
    /// It serves `/healthz`, `/readyz`, `/metrics`, the API (`/api/openapi.json`) and the console.
    ///
    /// ```yaml
    /// admin: {listen: "0.0.0.0:9187", token: "${ADMIN_TOKEN}"}
    /// ```
    pub struct Admin {
        /// Address and port to listen on. Any other address than loopback requires `admin.token`.
        pub listen: SocketAddr as Address = "127.0.0.1:9187",
        /// Token that requests must send as `Authorization: Bearer TOKEN`, usually `${ADMIN_TOKEN}`: at least 16 ASCII letters,
        /// digits and punctuation characters.
        pub token: Option<Secret> as Option<SecretText>,
    }
}

/// A shorter token can be guessed.
const MIN_TOKEN_CHARACTERS: usize = 16;

/// Reports a token that cannot be sent or is too short, and a public address without one.
pub(super) fn check_admin(admin: &Admin, root: &Node, reader: &mut Reader<'_>) {
    match &admin.token {
        // It is sent as the value of a header.
        Some(Secret(token)) if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            let span = root.span_of("admin.token");
            let fault = Fault::new(span, "admin.token is empty, or contains characters that no HTTP header can carry");
            reader.push(fault.help("ASCII letters, digits and punctuation, without spaces: openssl rand -hex 32"));
        }
        Some(Secret(token)) if token.len() < MIN_TOKEN_CHARACTERS => {
            let message = format!("admin.token has fewer than {MIN_TOKEN_CHARACTERS} characters");
            let fault = Fault::new(root.span_of("admin.token"), message);
            reader.push(fault.help("generate one: openssl rand -hex 32"));
        }
        None if !admin.listen.ip().is_loopback() => {
            let span = root.span_of("admin.listen");
            let fault = Fault::new(span, "admin.listen can be reached from elsewhere, but there is no admin.token");
            reader.push(fault.help("add token: ${ADMIN_TOKEN}, or listen on 127.0.0.1"));
        }
        _ => {}
    }
}
