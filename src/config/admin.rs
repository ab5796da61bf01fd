//! The section `admin`. Pure.

use super::error::Fault;
use super::interpolate::Env;
use super::raw::Node;
use super::section::{self, Section};
use super::settings::Admin;
use crate::pg::Secret;
use std::net::{Ipv4Addr, SocketAddr};

const PORT: u16 = 9187;
const LISTEN: &str = "an address and a port: 127.0.0.1:9187, [::1]:9187, or with a token 0.0.0.0:9187";

pub(super) fn admin(node: &Node, from: &Env<'_>) -> Result<Admin, Fault> {
    let section = Section::of(node, &section::ADMIN, from)?;
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let listen = section.parsed("listen", default, |text| text.parse().ok(), LISTEN)?;
    let token = section.text("token")?;
    let span = |name| section.node(name).map_or(&node.span, |node| &node.span);
    match &token {
        // It travels as a header's value.
        Some(token) if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            let fault = Fault::new(span("token"), "admin.token is empty, or holds what no HTTP header can carry");
            Err(fault.help("ASCII letters, digits and punctuation, without spaces: openssl rand -hex 32"))
        }
        None if !listen.ip().is_loopback() => {
            let fault =
                Fault::new(span("listen"), "admin.listen can be reached from elsewhere, but there is no admin.token");
            Err(fault.help("add token: ${ADMIN_TOKEN}, or listen on 127.0.0.1"))
        }
        _ => Ok(Admin { listen, token: token.map(Secret) }),
    }
}
