//! `${NAME}` (or `${env:NAME}`) and `${file:PATH}` inside a text. Variables and files are read through two functions, which tests replace.

use std::io;

/// The environment that values come from.
pub struct Env<'a> {
    /// Returns an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Returns the content of a file.
    pub file: &'a dyn Fn(&str) -> io::Result<String>,
}

/// A text without variables and files, such as a preset's.
pub(super) const NO_ENVIRONMENT: Env<'static> =
    Env { variable: &|_| None, file: &|_| Err(io::Error::from(io::ErrorKind::NotFound)) };

/// Why a text cannot be interpolated. It names variables and files, never their values.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InterpolationError {
    /// The variable is not set, or is not valid UTF-8.
    #[error("the environment variable {0} is not set")]
    Variable(String),
    /// The file cannot be read.
    #[error("cannot read the file {path}: {error}")]
    File {
        /// The path in the text.
        path: String,
        /// The reason.
        error: io::Error,
    },
    /// `${` without `}`.
    #[error("a '${{' has no '}}'")]
    Open,
    /// The text between the braces is not a name.
    #[error("'${{{0}}}' is neither ${{NAME}} nor ${{file:PATH}}")]
    Name(String),
}

/// Replaces the variables and files in a text from outside the configuration.
pub(crate) fn from_environment(text: &str) -> Result<String, InterpolationError> {
    let env = Env { variable: &|name| std::env::var(name).ok(), file: &|file| std::fs::read_to_string(file) };
    interpolate(text, &env)
}

/// The text with `filler` for each variable and file.
pub(crate) fn with_filler(text: &str, filler: &str) -> Result<String, InterpolationError> {
    interpolate(text, &Env { variable: &|_| Some(filler.to_owned()), file: &|_| Ok(filler.to_owned()) })
}

/// Replaces `${NAME}` by the variable, `${NAME:-DEFAULT}` by the default if the variable is unset or empty, `${file:PATH}` by the file without its last line break, and `$${` by `${`. Inserted text
/// is not expanded again.
pub(super) fn interpolate(text: &str, env: &Env<'_>) -> Result<String, InterpolationError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, opened) = (&rest[..at], &rest[at + 2..]);
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = opened;
            continue;
        }
        out.push_str(before);
        let (inside, after) = opened.split_once('}').ok_or(InterpolationError::Open)?;
        out.push_str(&value(inside, env)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value(inside: &str, env: &Env<'_>) -> Result<String, InterpolationError> {
    if let Some(path) = inside.strip_prefix("file:") {
        let mut content =
            (env.file)(path).map_err(|error| InterpolationError::File { path: path.to_owned(), error })?;
        if content.ends_with('\n') {
            content.pop();
            if content.ends_with('\r') {
                content.pop();
            }
        }
        return Ok(content);
    }
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let text = inside.strip_prefix("env:").unwrap_or(inside);
    let (name, default) = text.split_once(":-").map_or((text, None), |(name, default)| (name, Some(default)));
    if !is_name(name) {
        return Err(InterpolationError::Name(inside.to_owned()));
    }
    let value = (env.variable)(name).filter(|value| default.is_none() || !value.is_empty());
    value.or(default.map(str::to_owned)).ok_or_else(|| InterpolationError::Variable(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let variable = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${A}".to_owned()),
            _ => None,
        };
        let file = |path: &str| match path {
            "/run/p w" => Ok("pass\n".to_owned()),
            "/two" => Ok("b\r\n\n".to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let seen = interpolate(text, &Env { variable: &variable, file: &file });
        let seen = seen.map_err(|error| error.to_string());
        assert_eq!(seen.as_deref().map_err(String::as_str), expected, "{text}");
    }

    #[test]
    fn variables_and_files_are_substituted_once() {
        check("plain $ {A} $A", Ok("plain $ {A} $A"));
        check("${A:-x} ${EMPTY:-b:-c} ${env:B:-} ${B:-$A}", Ok("a b:-c  $A"));
        check("x${A}y${A}", Ok("xaya"));
        check("${env:A}", Ok("a"));
        check("p:${file:/run/p w}@h", Ok("p:pass@h"));
        check("${file:/two}", Ok("b\r\n"));
        check("${NESTED}", Ok("${A}"));
        check("$${A} ${A}", Ok("${A} a"));
        check("$$${A}", Ok("$${A}"));
    }

    #[test]
    fn missing_variables_and_files_are_named() {
        check("${env:B}", Err("the environment variable B is not set"));
        check("${B}", Err("the environment variable B is not set"));
        check("${file:/none}", Err("cannot read the file /none: entity not found"));
        check("a ${A", Err("a '${' has no '}'"));
        for inside in ["", "a b", "1A", ":-x", "env:", "env:env:A"] {
            let expected = format!("'${{{inside}}}' is neither ${{NAME}} nor ${{file:PATH}}");
            check(&format!("${{{inside}}}"), Err(&expected));
        }
    }
}
