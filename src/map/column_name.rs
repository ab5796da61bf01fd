//! Names of columns as the configuration writes them. Pure.

/// A name without its `?`, and whether it had one: the column is optional.
pub(crate) fn optional(name: &str) -> (&str, bool) {
    match name.strip_suffix('?') {
        Some(name) => (name, true),
        None => (name, false),
    }
}
