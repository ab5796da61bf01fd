//! `tenants.target`: the URL of a tenant's target, made from a template. Pure.
//!
//! `{name}` stands for a value of the tenant. The result is a text as in the file: `${...}` in it is replaced afterwards, so
//! `${file:/run/secrets/{tenant}}` is a file for each tenant.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a part of a URL may contain as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a template does not make a URL. Values of the tenant are not shown: one of them may be a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    /// `{` without `}`, or `${` without `}`.
    #[error("a '{{' has no '}}'")]
    Open,
    /// The text between the braces is not a name.
    #[error("'{{{0}}}' is not a name in braces, such as {{tenant}}")]
    Name(String),
    /// The tenant has no such value, or it is null or empty: an empty database's name would be the role's.
    #[error("there is no value for {{{0}}}")]
    Missing(String),
    /// The value stands in a variable's name or a file's path, where it could lead elsewhere.
    #[error(
        "the value of {{{0}}} cannot be part of a variable's name or a file's path: only letters, digits, '_', '-' and '.' can, \
         and no '.' at its start"
    )]
    Unsafe(String),
}

/// The template with the values. Outside of `${...}` they are percent-encoded, so that none of them can add a host or an
/// option to the URL.
pub(super) fn fill<'a>(template: &str, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut in_reference = false;
    while let Some(at) = rest.find(['{', '}', '$']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("$${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            out.push_str("${");
            (in_reference, rest) = (true, after);
        } else if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('}') {
            (in_reference, rest) = (false, after);
            out.push('}');
        } else {
            let (name, after) = rest[1..].split_once('}').ok_or(TemplateError::Open)?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(TemplateError::Name(name.to_owned()));
            }
            let value = value(name).filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| TemplateError::Missing(name.to_owned()))?;
            if !in_reference {
                out.extend(utf8_percent_encode(value, ENCODED));
            } else if is_safe(value) {
                out.push_str(value);
            } else {
                return Err(TemplateError::Unsafe(name.to_owned()));
            }
            rest = after;
        }
    }
    if in_reference {
        return Err(TemplateError::Open);
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether the value, as part of a path, stays in its directory.
fn is_safe(value: &str) -> bool {
    !value.starts_with('.') && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, expected: Result<&str, TemplateError>) {
        let value = |name: &str| match name {
            "tenant" => Some("acme-1"),
            "host" => Some("db.example.com"),
            "odd" => Some("a/b?c@d ${X}ä"),
            "up" => Some("../etc"),
            "empty" => Some(""),
            _ => None,
        };
        assert_eq!(fill(template, value), expected.map(str::to_owned), "{template}");
    }

    #[test]
    fn values_are_encoded_and_references_stay() {
        check("postgres://u@{host}/{tenant}", Ok("postgres://u@db.example.com/acme-1"));
        check(
            "postgres://u:${file:/run/secrets/{tenant}}@{host}:5432/${env:DB_{tenant}}_{tenant}",
            Ok("postgres://u:${file:/run/secrets/acme-1}@db.example.com:5432/${env:DB_acme-1}_acme-1"),
        );
        check("postgres://u@h/{odd}", Ok("postgres://u@h/a%2Fb%3Fc%40d%20%24%7BX%7D%C3%A4"));
        check("p$w ${A} $${tenant} x}", Ok("p$w ${A} $${tenant} x}"));
    }

    #[test]
    fn a_value_that_is_missing_or_leads_elsewhere_is_refused() {
        check("{region}", Err(TemplateError::Missing("region".into())));
        check("${file:/run/{up}}", Err(TemplateError::Unsafe("up".into())));
        check("${file:/run/{odd}}", Err(TemplateError::Unsafe("odd".into())));
        check("postgres://u@h/{empty}", Err(TemplateError::Missing("empty".into())));
        check("{tenant", Err(TemplateError::Open));
        check("${file:/run/{tenant}", Err(TemplateError::Open));
        check("{}", Err(TemplateError::Name(String::new())));
        check("{a b}", Err(TemplateError::Name("a b".into())));
    }
}
