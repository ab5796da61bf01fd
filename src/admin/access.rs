//! Authentication: a bearer token, or, without one, loopback and a Host check (defence against DNS rebinding). Requests
//! that a browser sends for a page of another site are refused in both cases.

use super::connections::Connection;
use super::problem::{Problem, ProblemCode};
use crate::config::Admin;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri, header, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::digest::{SHA256, digest};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use subtle::ConstantTimeEq;

/// What a request has to present. Clones share the rule.
#[derive(Clone, Debug)]
pub(super) struct Access(Arc<RwLock<Rule>>);

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The SHA-256 of the token. Digests have equal length, so that a comparison does not reveal the token's length.
    Token([u8; 32]),
    /// No request is allowed before a configuration is applied.
    Closed,
    /// No token: only local users can connect. A web page could reach this address under a host name of its own, so the
    /// Host header must name this machine.
    Loopback,
}

impl Default for Access {
    fn default() -> Self {
        Access(Arc::new(RwLock::new(Rule::Closed)))
    }
}

impl Access {
    pub(super) fn change(&self, admin: &Admin) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Rule::of(admin);
    }

    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let rule = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        match rule {
            Rule::Token(expected) => {
                let value = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
                let is_bearer = value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
                let presented = sha256(value.get(7..).unwrap_or_default());
                if is_bearer & bool::from(presented.ct_eq(&expected)) {
                    return Ok(());
                }
                Err(Problem::new(ProblemCode::Unauthorized, "missing or invalid token")
                    .remedy("send the header Authorization: Bearer TOKEN, with the value of admin.token"))
            }
            Rule::Closed => Err(Problem::new(ProblemCode::Starting, "the process is still starting")),
            Rule::Loopback => {
                let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
                let host = host.and_then(|host| host.parse::<Authority>().ok());
                let host = host.as_ref().or(uri.authority()).map(Authority::host);
                if host.is_some_and(is_loopback) {
                    return Ok(());
                }
                Err(Problem::new(ProblemCode::WrongHost, "the Host header does not name this machine")
                    .remedy("use http://127.0.0.1 or http://localhost, or set admin.token"))
            }
        }
    }
}

impl Rule {
    fn of(admin: &Admin) -> Rule {
        admin.token.as_ref().map_or(Rule::Loopback, |token| Rule::Token(sha256(token.0.as_bytes())))
    }
}

fn sha256(text: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, text).as_ref());
    out
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Middleware in front of every path except the health checks and the console's files.
pub(super) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    if let Err(problem) = access.check(request.uri(), request.headers()) {
        return problem.into_response();
    }
    let connection = request.extensions().get::<Connection>();
    if connection.is_some_and(|connection| !connection.authorize()) {
        let problem = Problem::new(ProblemCode::TooManyConnections, "too many connections")
            .remedy("close other clients, or try again in a moment");
        return ([(header::CONNECTION, "close")], problem).into_response();
    }
    next.run(request).await
}

/// Middleware in front of every path.
pub(super) async fn refuse_other_sites(request: Request, next: Next) -> Response {
    if is_from_other_site(request.headers()) && !opens_console(request.method(), request.uri(), request.headers()) {
        let problem = Problem::new(ProblemCode::OtherSite, "the request comes from a page of another site");
        return problem.remedy("open the console at / and use it from there").into_response();
    }
    next.run(request).await
}

/// Browsers send `Sec-Fetch-Site` (W3C, "Fetch Metadata Request Headers"); other clients do not. `none` is an address that
/// the user entered. `same-site` includes other ports of this host, so it is another site here.
fn is_from_other_site(headers: &HeaderMap) -> bool {
    let sites = headers.get_all("sec-fetch-site");
    sites.iter().any(|site| site != "same-origin" && site != "none")
}

/// A link on another site may open the console: the page holds no data.
fn opens_console(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let is_page = method == Method::GET && uri.path() == "/";
    let is_navigation = headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
    // A frame has another destination.
    is_page && is_navigation && headers.get("sec-fetch-dest").is_none_or(|destination| destination == "document")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Secret;

    fn check(token: Option<&str>, headers: &[(&'static str, &str)]) -> u16 {
        let admin = Admin { listen: ([127, 0, 0, 1], 1).into(), token: token.map(|token| Secret(token.to_owned())) };
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_str(value).unwrap())
        });
        let access = Access::default();
        access.change(&admin);
        match access.check(&Uri::from_static("/"), &headers.collect()) {
            Ok(()) => 200,
            Err(problem) => problem.into_response().status().as_u16(),
        }
    }

    #[test]
    fn only_the_exact_token_is_accepted() {
        let send = |value: &str| check(Some("hunter2"), &[("authorization", value), ("host", "a.example")]);
        assert_eq!([send("Bearer hunter2"), send("bearer hunter2")], [200, 200]);
        for value in ["Bearer hunter", "Bearer hunter22", "Bearer ", "Bearer", "Basic hunter2", "hunter2", ""] {
            assert_eq!(send(value), 401, "{value}");
        }
        assert_eq!(check(Some("hunter2"), &[("host", "localhost")]), 401);
    }

    #[test]
    fn without_a_token_only_local_host_names_are_accepted() {
        for host in ["localhost", "LOCALHOST:9187", "127.0.0.1:9187", "127.1.2.3", "[::1]:9187", "[::1]"] {
            assert_eq!(check(None, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9187",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "a b",
            "",
        ] {
            assert_eq!(check(None, &[("host", host)]), 400, "{host}");
        }
        assert_eq!(check(None, &[]), 400);
    }

    fn is_refused(method: Method, path: &'static str, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), header::HeaderValue::from_static(value)));
        let headers = headers.collect();
        is_from_other_site(&headers) && !opens_console(&method, &Uri::from_static(path), &headers)
    }

    #[test]
    fn requests_of_other_sites_are_refused() {
        let site = |value| ("sec-fetch-site", value);
        for allowed in [&[][..], &[site("same-origin")], &[site("none")]] {
            assert!(!is_refused(Method::GET, "/api/status", allowed), "{allowed:?}");
        }
        for method in [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS] {
            for refused in ["cross-site", "same-site", "another", ""] {
                assert!(is_refused(method.clone(), "/api/status", &[site(refused)]), "{method} {refused}");
            }
        }
    }

    #[test]
    fn a_link_may_open_the_console_and_nothing_else() {
        let site = ("sec-fetch-site", "cross-site");
        let link = [site, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert!(!is_refused(Method::GET, "/", &link) && !is_refused(Method::GET, "/?tenant=acme", &link));
        assert!(is_refused(Method::POST, "/", &link) && is_refused(Method::GET, "/metrics", &link));
        let frame = [site, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        assert!(is_refused(Method::GET, "/", &frame) && is_refused(Method::GET, "/", &[site]));
    }
}
