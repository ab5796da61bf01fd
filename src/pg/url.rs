//! A libpq connection URL, parsed and checked (manual: "Connection URIs"). Pure.
//!
//! Stricter than libpq where that helps people: one host only, nothing taken from the environment, and no error
//! ever repeats what may be part of a password.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A text that never shows in a log or an error.
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
    /// Plain text, TLS where the server insists.
    Allow,
    /// TLS where the server can, without verification.
    Prefer,
    /// TLS; the certificate is verified only where a root file is given.
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for this host.
    VerifyFull,
}

/// Which authorities are trusted (`sslrootcert`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SslRoots {
    /// Not said.
    Default,
    /// `sslrootcert=webpki`: the Mozilla roots built in.
    Webpki,
    /// `sslrootcert=system`: the platform's.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always, or fail.
    Require,
}

/// A database and how to reach it. `Display` shows host, port and database, never user or password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgUrl {
    /// Host name, address, or (when it starts with `/`) the directory of the Unix socket.
    pub host: String,
    /// TCP port, 5432 unless said.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Password, where one is given.
    pub password: Option<Secret>,
    /// Database name; the role's unless said.
    pub database: String,
    /// TLS mode; `prefer` unless said, as libpq.
    pub ssl_mode: SslMode,
    /// Trusted authorities.
    pub ssl_roots: SslRoots,
    /// Channel binding.
    pub channel_binding: ChannelBinding,
    /// How long one attempt to connect may take; 10 s unless said.
    pub connect_timeout: Duration,
    /// `application_name`; `users-sync` unless said.
    pub application_name: String,
    /// `options`: command-line options for the server, such as Neon's `endpoint=...`.
    pub options: Option<String>,
}

impl fmt::Display for PgUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

/// Why a text is not a usable connection URL. Names the parameter and the remedy, never a secret or the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("it has to start with postgres:// or postgresql:// (key=value connection strings are not taken)")]
    Scheme,
    /// A byte that no URL holds, mostly a line break from a file.
    #[error("it holds a line break or another control character; remove it, or write it as %0A and so on")]
    ControlCharacter,
    /// `%` that is not followed by two hexadecimal digits, `%00`, or bytes that are not UTF-8.
    #[error("the {0} is not percent-encoded well: write a literal '%' as %25, and text as UTF-8")]
    Encoding(&'static str),
    /// What stands where the port should, and why that happens.
    #[error(
        "the port is not a number from 1 to 65535 (characters such as / ? # @ : % in a password have to be \
         percent-encoded: / is %2F, @ is %40)"
    )]
    Port,
    /// An address in brackets that is not closed or not an IPv6 address.
    #[error("the host in brackets is not an IPv6 address, as in [::1]:5432")]
    Ipv6,
    /// A database name with a raw `/` or `@`.
    #[error(
        "the database name holds a '/' or '@'; if it is meant, write %2F or %40; if it belongs to the password, \
         percent-encode it there"
    )]
    Database,
    /// More than one host or port.
    #[error("several hosts or ports are given; name one (a virtual address or the primary)")]
    SeveralHosts,
    /// No host.
    #[error("the host is missing: postgres://user@HOST/database, or ?host=/directory for a Unix socket")]
    MissingHost,
    /// No user.
    #[error("the user is missing: postgres://USER@host/database")]
    MissingUser,
    /// A part of the query without `=`.
    #[error("behind the '?' stand parameters of the form name=value, joined by '&' (write a '?' in a password as %3F)")]
    Query,
    /// A parameter that is not known here.
    #[error("the parameter {name:?} is not known; remove it (known are {known})", known = KNOWN_PARAMETERS.join(", "))]
    UnknownParameter {
        /// Its name.
        name: String,
    },
    /// A known parameter with a value that is not.
    #[error("{parameter} cannot be {value:?}; it takes {takes}")]
    Value {
        /// The parameter's name.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// What is possible.
        takes: &'static str,
    },
    /// `sslrootcert=system` together with a mode that would not check the name.
    #[error("sslrootcert=system needs sslmode=verify-full (anybody can get a certificate for some other name)")]
    WeakSystemRoots,
}

/// The parameters that a URL may carry.
const KNOWN_PARAMETERS: [&str; 12] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "options",
    "ssl",
];

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_APPLICATION_NAME: &str = "users-sync";

/// What has been said so far; defaults and rules between the parts come at the end.
#[derive(Default)]
struct Draft {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    ssl_mode: Option<SslMode>,
    ssl_roots: Option<SslRoots>,
    channel_binding: Option<ChannelBinding>,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
    options: Option<String>,
}

impl PgUrl {
    /// Reads `postgres://user:password@host:port/database?parameter=value&...`.
    ///
    /// As libpq, parameters win over the parts before them, `sslmode` is `prefer` unless said, and
    /// `sslrootcert=system` means `verify-full`. Unlike libpq, `connect_timeout` covers the whole attempt
    /// and is 10 s unless said (0 still means for ever).
    pub fn parse(text: &str) -> Result<PgUrl, UrlError> {
        if text.chars().any(char::is_control) {
            return Err(UrlError::ControlCharacter);
        }
        let rest =
            text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")).ok_or(UrlError::Scheme)?;
        let (front, query) = rest.split_once('?').map_or((rest, None), |(front, query)| (front, Some(query)));
        let (authority, database) = front.split_once('/').unwrap_or((front, ""));
        // The last '@' ends the user and password: a password with a raw '@' is read as it was meant.
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
            // Without a login in front, an '@' here says that a raw '?' cut a password in two: do not repeat it.
            if login.is_none() && parameter.contains('@') && !KNOWN_PARAMETERS.contains(&name) {
                return Err(UrlError::Query);
            }
            parse_parameter(&decode(name, "name of a parameter")?, value, &mut draft)?;
        }
        draft.finish()
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
            let (host, port) = place.split_once(':').unwrap_or((place, ""));
            (decode(host, "host")?.into_owned(), port)
        }
    };
    draft.host = (!host.is_empty()).then_some(host);
    draft.port = parse_port(port)?;
    Ok(())
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
        // JDBC's way to say it, which libpq takes too.
        "ssl" if value == "true" => draft.ssl_mode = Some(SslMode::Require),
        "ssl" => return Err(wrong("true; say the rest with sslmode")),
        "sslrootcert" => {
            draft.ssl_roots = match &*value {
                "" => None,
                "webpki" => Some(SslRoots::Webpki),
                "system" => Some(SslRoots::System),
                path => Some(SslRoots::File(PathBuf::from(path))),
            };
        }
        "channel_binding" => {
            draft.channel_binding = Some(match &*value {
                "disable" => ChannelBinding::Disable,
                "prefer" => ChannelBinding::Prefer,
                "require" => ChannelBinding::Require,
                _ => return Err(wrong("disable, prefer or require")),
            });
        }
        "connect_timeout" => {
            let seconds: u64 = value.parse().map_err(|_| wrong("a number of seconds, 0 for ever"))?;
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
        Ok(PgUrl {
            host,
            port: self.port.unwrap_or(DEFAULT_PORT),
            database: self.database.unwrap_or_else(|| user.clone()),
            user,
            password: self.password.map(Secret),
            ssl_mode,
            ssl_roots,
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

/// Undoes percent-encoding; strict, so that a literal `%` in a password is noticed and not sent as something else.
fn decode<'a>(text: &'a str, part: &'static str) -> Result<Cow<'a, str>, UrlError> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) || digits == b"00" {
            return Err(UrlError::Encoding(part));
        }
    }
    percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Encoding(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses, and gives the shape that the tests compare: the parts that were said, in libpq's words.
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
            Err(value("connect_timeout", "10s", "a number of seconds, 0 for ever")),
        );
        check(
            "postgres://u@h/db?channel_binding=yes",
            Err(value("channel_binding", "yes", "disable, prefer or require")),
        );
        check("postgres://u@h/db?sslrootcert=system&sslmode=require", Err(UrlError::WeakSystemRoots));
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
        assert_eq!(url("channel_binding=require").channel_binding, ChannelBinding::Require);
        assert_eq!(url("connect_timeout=3").connect_timeout, Duration::from_secs(3));
        assert_eq!(url("connect_timeout=0").connect_timeout, Duration::MAX);
        assert_eq!(url("application_name=a%20b").application_name, "a b");
        assert_eq!(url("options=endpoint%3Dep-1").options.as_deref(), Some("endpoint=ep-1"));
    }

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        let url = PgUrl::parse("postgres://somebody:hunter2@h/db").expect("parses");
        assert_eq!(url.to_string(), "h:5432/db");
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}
