//! The format `upsert`: the seven columns as a flat object. Pure.

use super::json::{push_text, push_time};
use crate::model::{User, push_string};

/// Writes a user. `raw_json` is a nested document; times are ISO 8601.
pub(super) fn write(user: &User, out: &mut String) {
    out.push_str("{\"id\":");
    push_string(&user.id, out);
    out.push_str(",\"raw_json\":");
    out.push_str(&user.raw_json);
    push_text("name", user.name.as_deref(), out);
    push_text("email", user.email.as_deref(), out);
    push_time("created_at", user.created_at, out);
    push_time("deleted_at", user.deleted_at, out);
    push_time("updated_at", user.updated_at, out);
    out.push('}');
}
