//! Parses and checks a libpq connection URL (manual: "Connection URIs"). Pure.
//!
//! Stricter than libpq where that prevents mistakes: one host only, nothing from the environment. No error
//! repeats anything that may be part of a password.

use super::password_source::PasswordSource;
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A text that is never shown in a log or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// libpq's `sslmode` (manual: "SSL Mode Descriptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Plain text only.
    Disable,
    /// Plain text; TLS if the server insists.
    Allow,
    /// TLS if the server supports it, without verification.
    Prefer,
    /// TLS; the certificate is verified only if a root file is given.
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for this host name.
    VerifyFull,
}

/// The trusted authorities (`sslrootcert`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SslRoots {
    /// Not set.
    Default,
    /// `sslrootcert=webpki`: the built-in Mozilla roots.
    Webpki,
    /// `sslrootcert=system`: the platform's roots.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// A certificate that proves to the server who connects, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// `sslcert`: a PEM file with the certificate and its intermediate authorities.
    pub certificate: PathBuf,
    /// `sslkey`: a file with the private key.
    pub key: PathBuf,
    /// `sslpassword`: the password of an encrypted key.
    pub password: Option<Secret>,
}

/// libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If the server offers it.
    Prefer,
    /// Required; the login fails without it.
    Require,
}

/// A database and how to reach it. `Display` shows host, port and database, never user or password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgUrl {
    /// Host name or address; a directory of Unix sockets if it starts with `/`.
    pub host: String,
    /// TCP port; 5432 by default.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Password, if one is given.
    pub password: Option<Secret>,
    /// Where the password comes from if none is given.
    pub password_from: Option<PasswordSource>,
    /// Database name; by default that of the role.
    pub database: String,
    /// TLS mode; `prefer` by default, as in libpq.
    pub ssl_mode: SslMode,
    /// Trusted authorities.
    pub ssl_roots: SslRoots,
    /// The certificate for a server that asks for one.
    pub client_certificate: Option<ClientCertificate>,
    /// Channel binding.
    pub channel_binding: ChannelBinding,
    /// Time limit of one attempt to connect; 10 s by default.
    pub connect_timeout: Duration,
    /// `application_name`; `users-sync` by default.
    pub application_name: String,
    /// `options`: command-line options for the server, for example Neon's `endpoint=...`.
    pub options: Option<String>,
}

impl fmt::Display for PgUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// Why a text is not a usable connection URL. Names the parameter and the remedy; never repeats a secret or
/// the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("it must start with postgres:// or postgresql:// (key=value connection strings are not supported)")]
    Scheme,
    /// A byte that no URL has, usually a line break from a file.
    #[error("it contains a line break or another control character; remove it")]
    ControlCharacter,
    /// A part with an encoded control character. It would end a comment in SQL or change what a terminal shows.
    #[error("the {0} contains an encoded control character, such as %0A for a line break; remove it")]
    EncodedControl(&'static str),
    /// `%` that is not followed by two hexadecimal digits, `%00`, or bytes that are not UTF-8.
    #[error("the {0} is not valid percent-encoding: write a literal '%' as %25, and encode text as UTF-8")]
    Encoding(&'static str),
    /// What stands in the port's place, and the usual cause.
    #[error(
        "the port is not a number from 1 to 65535 (characters such as / ? # @ : % in a password have to be \
         percent-encoded: / is %2F, @ is %40)"
    )]
    Port,
    /// The brackets are not closed, or do not hold an IPv6 address.
    #[error("the host in brackets is not an IPv6 address, as in [::1]:5432")]
    Ipv6,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address goes in brackets: [::1] or [::1]:5432")]
    BareIpv6,
    /// A database name with an unescaped `/` or `@`.
    #[error(
        "the database name contains a '/' or '@'; if it is intended, write %2F or %40; if it belongs to the password, \
         percent-encode it there"
    )]
    Database,
    /// More than one host or port.
    #[error("several hosts or ports are given; name only one (a virtual address or the primary)")]
    SeveralHosts,
    /// No host.
    #[error("the host is missing: postgres://user@HOST/database, or ?host=/directory for a Unix socket")]
    MissingHost,
    /// No user.
    #[error("the user is missing: postgres://USER@host/database")]
    MissingUser,
    /// A part of the query without `=`.
    #[error("after '?', parameters have the form name=value and are joined by '&' (write a '?' in a password as %3F)")]
    Query,
    /// An unknown parameter.
    #[error("unknown parameter {name:?}; remove it (known parameters: {known})", known = KNOWN_PARAMETERS.join(", "))]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// A known parameter with an invalid value.
    #[error("invalid value {value:?} for {parameter}: expected {takes}")]
    Value {
        /// The parameter's name.
        parameter: &'static str,
        /// The given value.
        value: String,
        /// The possible values.
        takes: &'static str,
    },
    /// `sslrootcert=system` with a mode that does not check the host name.
    #[error("sslrootcert=system needs sslmode=verify-full (anyone can get a certificate for another name)")]
    WeakSystemRoots,
    /// `sslcert`, `sslkey` and `sslpassword` without one that they need.
    #[error("{given} needs {missing}; set both (files in ~/.postgresql are not used)")]
    HalfCertificate {
        /// The parameter that is given.
        given: &'static str,
        /// The parameter that it needs.
        missing: &'static str,
    },
}

/// The parameters that a URL may carry.
const KNOWN_PARAMETERS: [&str; 16] = [
    "host",
    "port",
    "user",
    "password",
    "passfile",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "options",
    "ssl",
];

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_APPLICATION_NAME: &str = "users-sync";

/// The parts read so far. Defaults and rules between parts are applied at the end.
#[derive(Default)]
struct Draft {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    database: Option<String>,
    ssl_mode: Option<SslMode>,
    ssl_roots: Option<SslRoots>,
    ssl_certificate: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    ssl_password: Option<String>,
    channel_binding: Option<ChannelBinding>,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
    options: Option<String>,
}

impl PgUrl {
    /// Parses `postgres://user:password@host:port/database?parameter=value&...`.
    ///
    /// As in libpq, parameters override the parts before them, `sslmode` defaults to `prefer`, and
    /// `sslrootcert=system` implies `verify-full`. Unlike in libpq, `connect_timeout` covers the whole
    /// attempt and defaults to 10 s (0 means no limit).
    pub fn parse(text: &str) -> Result<PgUrl, UrlError> {
        if text.chars().any(char::is_control) {
            return Err(UrlError::ControlCharacter);
        }
        let rest =
            text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")).ok_or(UrlError::Scheme)?;
        let (front, query) = rest.split_once('?').map_or((rest, None), |(front, query)| (front, Some(query)));
        let (authority, database) = front.split_once('/').unwrap_or((front, ""));
        // The last '@' ends user and password, so that a password with a raw '@' is read as intended.
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };

        let mut draft = Draft::default();
        if let Some(login) = login {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, pw)| (user, Some(pw)));
            draft.user = not_empty(decode(user, "user")?);
            draft.password = password.map(|text| decode(text, "password")).transpose()?.and_then(not_empty);
        }
        parse_place(place, &mut draft)?;
        if database.contains(['/', '@']) {
            return Err(UrlError::Database);
        }
        draft.database = not_empty(decode(database, "database")?);
        for parameter in query.unwrap_or("").split('&').filter(|part| !part.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or(UrlError::Query)?;
            // Without a login before it, an '@' here means that a raw '?' split a password: do not repeat it.
            if login.is_none() && parameter.contains('@') && !KNOWN_PARAMETERS.contains(&name) {
                return Err(UrlError::Query);
            }
            parse_parameter(&decode(name, "name of a parameter")?, value, &mut draft)?;
        }
        draft.finish()
    }
}

impl PgUrl {
    /// The texts that must not be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let of_key = self.client_certificate.as_ref().and_then(|certificate| certificate.password.as_ref());
        self.password.iter().chain(of_key)
    }

    /// Whether a login may send a password.
    pub(crate) fn has_password(&self) -> bool {
        self.password.is_some() || self.password_from.is_some()
    }

    /// Whether a connection proves that the server is the intended one. A public authority proves it only
    /// together with the host name, because it issues certificates to any host.
    pub(crate) fn verifies_server(&self) -> bool {
        let has_own_authority = matches!(self.ssl_roots, SslRoots::File(_));
        match self.ssl_mode {
            SslMode::VerifyFull => true,
            SslMode::Require | SslMode::VerifyCa => has_own_authority,
            SslMode::Disable | SslMode::Allow | SslMode::Prefer => false,
        }
    }
}

/// `host`, `host:port`, `[v6]:port`, or nothing.
fn parse_place(place: &str, draft: &mut Draft) -> Result<(), UrlError> {
    if place.contains(',') {
        return Err(UrlError::SeveralHosts);
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(inside) => {
            let (address, after) = inside.split_once(']').ok_or(UrlError::Ipv6)?;
            // A zone (`fe80::1%25eth0`) belongs to the host, not to the address.
            let address = decode(address, "host")?;
            let bare = address.split('%').next().unwrap_or_default();
            bare.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Ipv6)?;
            let port = match after.strip_prefix(':') {
                Some(port) => port,
                None if after.is_empty() => "",
                None => return Err(UrlError::Ipv6),
            };
            (address.into_owned(), port)
        }
        None => {
            if is_bare_ipv6(place) {
                return Err(UrlError::BareIpv6);
            }
            let (host, port) = place.split_once(':').unwrap_or((place, ""));
            (decode(host, "host")?.into_owned(), port)
        }
    };
    draft.host = (!host.is_empty()).then_some(host);
    draft.port = parse_port(port)?;
    Ok(())
}

/// Whether this is an IPv6 address, perhaps with a zone, or with a port behind it.
fn is_bare_ipv6(place: &str) -> bool {
    let is_address = |text: &str| {
        let bare = text.split('%').next().unwrap_or_default();
        bare.parse::<std::net::Ipv6Addr>().is_ok()
    };
    is_address(place) || place.rsplit_once(':').is_some_and(|(address, _)| is_address(address))
}

fn parse_port(text: &str) -> Result<Option<u16>, UrlError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().ok().filter(|port| *port > 0).map(Some).ok_or(UrlError::Port)
}

fn parse_parameter(name: &str, value: &str, draft: &mut Draft) -> Result<(), UrlError> {
    let Some(known) = KNOWN_PARAMETERS.into_iter().find(|known| *known == name) else {
        return Err(UrlError::UnknownParameter { name: name.to_owned() });
    };
    let value = decode(value, known)?;
    let wrong = |takes| UrlError::Value { parameter: known, value: value.to_string(), takes };
    match known {
        "host" if value.contains(',') => return Err(UrlError::SeveralHosts),
        "port" if value.contains(',') => return Err(UrlError::SeveralHosts),
        "host" => draft.host = not_empty(value),
        "port" => draft.port = parse_port(&value)?,
        "user" => draft.user = not_empty(value),
        "password" => draft.password = not_empty(value),
        "passfile" => draft.password_file = not_empty(value).map(PathBuf::from),
        "dbname" => draft.database = not_empty(value),
        "application_name" => draft.application_name = not_empty(value),
        "options" => draft.options = not_empty(value),
        "sslmode" => {
            draft.ssl_mode = Some(match &*value {
                "disable" => SslMode::Disable,
                "allow" => SslMode::Allow,
                "prefer" => SslMode::Prefer,
                "require" => SslMode::Require,
                "verify-ca" => SslMode::VerifyCa,
                "verify-full" => SslMode::VerifyFull,
                _ => return Err(wrong("disable, allow, prefer, require, verify-ca or verify-full")),
            });
        }
        // The JDBC driver's spelling, which libpq also accepts.
        "ssl" if value == "true" => draft.ssl_mode = Some(SslMode::Require),
        "ssl" => return Err(wrong("true; use sslmode for anything else")),
        "sslrootcert" => {
            draft.ssl_roots = match &*value {
                "" => None,
                "webpki" => Some(SslRoots::Webpki),
                "system" => Some(SslRoots::System),
                path => Some(SslRoots::File(PathBuf::from(path))),
            };
        }
        "sslcert" => draft.ssl_certificate = not_empty(value).map(PathBuf::from),
        "sslkey" => draft.ssl_key = not_empty(value).map(PathBuf::from),
        "sslpassword" => draft.ssl_password = not_empty(value),
        "channel_binding" => {
            draft.channel_binding = Some(match &*value {
                "disable" => ChannelBinding::Disable,
                "prefer" => ChannelBinding::Prefer,
                "require" => ChannelBinding::Require,
                _ => return Err(wrong("disable, prefer or require")),
            });
        }
        "connect_timeout" => {
            let seconds: u64 = value.parse().map_err(|_| wrong("a number of seconds, 0 for no limit"))?;
            draft.connect_timeout = Some(if seconds == 0 { Duration::MAX } else { Duration::from_secs(seconds) });
        }
        _ => return Err(UrlError::UnknownParameter { name: name.to_owned() }),
    }
    Ok(())
}

impl Draft {
    fn finish(self) -> Result<PgUrl, UrlError> {
        let host = self.host.ok_or(UrlError::MissingHost)?;
        let user = self.user.ok_or(UrlError::MissingUser)?;
        let ssl_roots = self.ssl_roots.unwrap_or(SslRoots::Default);
        let ssl_mode = match (&ssl_roots, self.ssl_mode) {
            (SslRoots::System, None | Some(SslMode::VerifyFull)) => SslMode::VerifyFull,
            (SslRoots::System, Some(_)) => return Err(UrlError::WeakSystemRoots),
            (_, mode) => mode.unwrap_or(SslMode::Prefer),
        };
        let half = |given, missing| UrlError::HalfCertificate { given, missing };
        let client_certificate = match (self.ssl_certificate, self.ssl_key, self.ssl_password) {
            (Some(certificate), Some(key), password) => {
                Some(ClientCertificate { certificate, key, password: password.map(Secret) })
            }
            (Some(_), None, _) => return Err(half("sslcert", "sslkey")),
            (None, Some(_), _) => return Err(half("sslkey", "sslcert")),
            (None, None, Some(_)) => return Err(half("sslpassword", "sslcert and sslkey")),
            (None, None, None) => None,
        };
        Ok(PgUrl {
            host,
            port: self.port.unwrap_or(DEFAULT_PORT),
            database: self.database.unwrap_or_else(|| user.clone()),
            user,
            // As in libpq, a password comes before the file.
            password_from: match self.password {
                Some(_) => None,
                None => self.password_file.map(PasswordSource::File),
            },
            password: self.password.map(Secret),
            ssl_mode,
            ssl_roots,
            client_certificate,
            channel_binding: self.channel_binding.unwrap_or(ChannelBinding::Prefer),
            connect_timeout: self.connect_timeout.unwrap_or(DEFAULT_TIMEOUT),
            application_name: self.application_name.unwrap_or_else(|| DEFAULT_APPLICATION_NAME.to_owned()),
            options: self.options,
        })
    }
}

fn not_empty(text: Cow<'_, str>) -> Option<String> {
    (!text.is_empty()).then(|| text.into_owned())
}

/// Undoes percent-encoding. Strict, so that a literal `%` in a password is reported instead of changing it, and without
/// control characters in any part.
fn decode<'a>(text: &'a str, part: &'static str) -> Result<Cow<'a, str>, UrlError> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) || digits == b"00" {
            return Err(UrlError::Encoding(part));
        }
    }
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Encoding(part))?;
    if decoded.chars().any(char::is_control) {
        return Err(UrlError::EncodedControl(part));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses, and returns the given parts in libpq's terms for comparison.
    fn check(text: &str, expected: Result<&str, UrlError>) {
        let seen = PgUrl::parse(text).map(|url| {
            let password = url.password.as_ref().map_or("-", |secret| secret.0.as_str());
            format!("{}|{}|{}|{}|{}", url.host, url.port, url.user, password, url.database)
        });
        assert_eq!(seen, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn hosts_users_and_databases_are_parsed_as_in_libpq() {
        check("postgres://u:p@h:6543/db", Ok("h|6543|u|p|db"));
        check("postgresql://u@h", Ok("h|5432|u|-|u"));
        check("postgres://u:@h/", Ok("h|5432|u|-|u"));
        check("postgres://u@[::1]:6543/db", Ok("::1|6543|u|-|db"));
        check("postgres://u@[fe80::1%25eth0]/db", Ok("fe80::1%eth0|5432|u|-|db"));
        check("postgres://u%40corp:p%2F%3f%40%25@h/d%20b", Ok("h|5432|u@corp|p/?@%|d b"));
        check("postgres://u:p@ss:w@h/db", Ok("h|5432|u|p@ss:w|db"));
        check("postgres://u@%2Ftmp/db", Ok("/tmp|5432|u|-|db"));
        check("postgres:///db?host=/tmp&user=u", Ok("/tmp|5432|u|-|db"));
        check("postgres://?host=/tmp&user=u&password=a%26b&port=1&dbname=d", Ok("/tmp|1|u|a&b|d"));
        check("postgres://u:p@h:1/db?host=other&port=2&user=v&password=q&dbname=e", Ok("other|2|v|q|e"));
        check("postgres://h/db?user=a@b", Ok("h|5432|a@b|-|db"));
    }

    #[test]
    fn url_errors_have_a_remedy() {
        let value = |parameter, value: &str, takes| UrlError::Value { parameter, value: value.to_owned(), takes };
        check("mysql://u@h/db", Err(UrlError::Scheme));
        check("host=h user=u", Err(UrlError::Scheme));
        check("postgres://u@h/db\n", Err(UrlError::ControlCharacter));
        for control in ["%0A", "%0d", "%1B", "%7f", "%C2%9B"] {
            for (text, part) in [
                ("postgres://u@h/db~%5C!", "database"),
                ("postgres://u~:p@h/db", "user"),
                ("postgres://u:p~@h/db", "password"),
                ("postgres://u@h~/db", "host"),
                ("postgres://u@[fe80::1%25~]/db", "host"),
                ("postgres://u@h/db?~=1", "name of a parameter"),
                ("postgres://u@h/db?dbname=~", "dbname"),
                ("postgres://u@h/db?user=~", "user"),
                ("postgres://u@h/db?password=~", "password"),
                ("postgres://u@h/db?host=~", "host"),
                ("postgres://u@h/db?options=~", "options"),
                ("postgres://u@h/db?application_name=~", "application_name"),
                ("postgres://u@h/db?sslrootcert=~", "sslrootcert"),
                ("postgres://u@h/db?sslmode=~", "sslmode"),
                ("postgres://u@h/db?sslcert=~", "sslcert"),
                ("postgres://u@h/db?sslkey=~", "sslkey"),
                ("postgres://u@h/db?sslpassword=~", "sslpassword"),
            ] {
                check(&text.replace('~', control), Err(UrlError::EncodedControl(part)));
            }
        }
        check("postgres://u:100%@h/db", Err(UrlError::Encoding("password")));
        check("postgres://u:%ff@h/db", Err(UrlError::Encoding("password")));
        check("postgres://u@h/a%00b", Err(UrlError::Encoding("database")));
        check("postgres://u@h:0/db", Err(UrlError::Port));
        check("postgres://u@h:70000/db", Err(UrlError::Port));
        check("postgres://u@[::1/db", Err(UrlError::Ipv6));
        check("postgres://u@[nonsense]/db", Err(UrlError::Ipv6));
        check("postgres://u@a,b/db", Err(UrlError::SeveralHosts));
        check("postgres://u@a:1,b:2/db", Err(UrlError::SeveralHosts));
        check("postgres://u@h/db?host=a,b", Err(UrlError::SeveralHosts));
        check("postgres:///db?user=u", Err(UrlError::MissingHost));
        check("postgres://h/db", Err(UrlError::MissingUser));
        check("postgres://u@h/db?sslmode", Err(UrlError::Query));
        check("postgres://u@h/db?pgbouncer=true", Err(UrlError::UnknownParameter { name: "pgbouncer".to_owned() }));
        check(
            "postgres://u@h/db?sslmode=on",
            Err(value("sslmode", "on", "disable, allow, prefer, require, verify-ca or verify-full")),
        );
        check(
            "postgres://u@h/db?connect_timeout=10s",
            Err(value("connect_timeout", "10s", "a number of seconds, 0 for no limit")),
        );
        check(
            "postgres://u@h/db?channel_binding=yes",
            Err(value("channel_binding", "yes", "disable, prefer or require")),
        );
        check("postgres://u@h/db?sslrootcert=system&sslmode=require", Err(UrlError::WeakSystemRoots));
        for (query, given, missing) in [
            ("sslcert=/c", "sslcert", "sslkey"),
            ("sslcert=/c&sslkey=&sslpassword=p", "sslcert", "sslkey"),
            ("sslkey=/k", "sslkey", "sslcert"),
            ("sslpassword=p", "sslpassword", "sslcert and sslkey"),
        ] {
            check(&format!("postgres://u@h/db?{query}"), Err(UrlError::HalfCertificate { given, missing }));
        }
    }

    #[test]
    fn no_url_error_repeats_a_password() {
        for text in [
            "postgres://u:hunter2/x@h/db",
            "postgres://u:12/hunter2@h/db",
            "postgres://u:hunter2?x@h/db",
            "postgres://u:12?hunter2@h/db",
            "postgres://u:12?a=hunter2@h/db",
            "postgres://u:12?hunter2=a@h/db",
            "postgres://u:hunter2%@h/db",
            "postgres://u:hunter2@h:port/db",
            "postgres://u:hunter2@/db",
            "postgres://u:hunter2@h/db?x=1",
            "postgres://u:hunter2@h/db?sslmode=wrong",
            "postgres://h/db?user=u&password=hunter2&port=x",
            "postgres://h/db?user=u&password=hunter2%",
            "postgres://:hunter2@h/db",
            "postgres://u@h/db?sslpassword=hunter2",
            "postgres://u@h/db?sslcert=/c&sslpassword=hunter2",
            "postgres://u@h/db?sslcert=/c&sslkey=/k&sslpassword=hunter2%",
            "postgres://u@h/db?sslcert=/c&sslkey=/k&sslpassword=hunter2%0A",
            "postgres://u@h/db?sslcert=/c&sslkey=/k&sslpassword=hunter2&sslmode=wrong",
            "user=u password=hunter2",
        ] {
            let error = PgUrl::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn parameters_have_libpqs_defaults_and_meanings() {
        let url = |query: &str| PgUrl::parse(&format!("postgres://u@h/db?{query}")).expect(query);
        let plain = url("");
        assert_eq!((plain.ssl_mode, plain.channel_binding), (SslMode::Prefer, ChannelBinding::Prefer));
        assert_eq!((plain.ssl_roots, plain.options), (SslRoots::Default, None));
        assert_eq!((plain.connect_timeout, &*plain.application_name), (Duration::from_secs(10), "users-sync"));

        assert_eq!(url("sslmode=verify-ca").ssl_mode, SslMode::VerifyCa);
        assert_eq!(url("ssl=true").ssl_mode, SslMode::Require);
        assert_eq!(url("sslrootcert=system").ssl_mode, SslMode::VerifyFull);
        assert_eq!(url("sslrootcert=webpki").ssl_roots, SslRoots::Webpki);
        assert_eq!(url("sslrootcert=/etc/ca.pem").ssl_roots, SslRoots::File("/etc/ca.pem".into()));
        assert_eq!(url("sslcert=&sslkey=").client_certificate, None);
        let certificate = ClientCertificate { certificate: "/c d".into(), key: "/k".into(), password: None };
        assert_eq!(url("sslcert=/c%20d&sslkey=/k").client_certificate.as_ref(), Some(&certificate));
        let password = Some(Secret("a&b".to_owned()));
        assert_eq!(
            url("sslcert=/c%20d&sslkey=/k&sslpassword=a%26b").client_certificate,
            Some(ClientCertificate { password, ..certificate })
        );
        assert_eq!(url("channel_binding=require").channel_binding, ChannelBinding::Require);
        assert_eq!(url("passfile=/p%20f").password_from, Some(PasswordSource::File("/p f".into())));
        assert_eq!((url("passfile=").password_from, url("passfile=/p&password=a").password_from), (None, None));
        assert_eq!(url("connect_timeout=3").connect_timeout, Duration::from_secs(3));
        assert_eq!(url("connect_timeout=0").connect_timeout, Duration::MAX);
        assert_eq!(url("application_name=a%20b").application_name, "a b");
        assert_eq!(url("options=endpoint%3Dep-1").options.as_deref(), Some("endpoint=ep-1"));
    }

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        let url = "postgres://alice:hunter2@h/db?sslcert=/c&sslkey=/k&sslpassword=hunter2";
        let url = PgUrl::parse(url).expect("parses");
        assert_eq!(url.to_string(), "h:5432/db");
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}
