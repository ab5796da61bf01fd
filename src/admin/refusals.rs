//! Error responses as the API description (OpenAPI) shows them.

use std::collections::BTreeMap;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// Responses to a job that cannot start.
pub(super) struct JobRefusals;

impl IntoResponses for JobRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals("Another job is running for this tenant.", "Too many jobs are running.")
    }
}

/// Responses to an action on a tenant that cannot be done.
pub(super) struct ActionRefusals;

impl IntoResponses for ActionRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals("The tenant is paused.", "The state cannot be read or written, or no process replicates.")
    }
}

/// Responses to a path or a body that cannot be read.
pub(super) struct BodyRefusals;

impl IntoResponses for BodyRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let refusals = [
            ("400", "Invalid path or body."),
            ("408", "The body is too slow."),
            ("413", "The body is too large."),
            ("415", "The content type is not application/json."),
            ("422", "The body does not match the schema."),
        ];
        refusals.map(|(status, description)| (status.to_owned(), problem(description))).into()
    }
}

fn refusals(conflict: &str, unavailable: &str) -> BTreeMap<String, RefOr<Response>> {
    let more = [("404", "Unknown tenant."), ("409", conflict), ("503", unavailable)];
    let more = more.map(|(status, description)| (status.to_owned(), problem(description)));
    BodyRefusals::responses().into_iter().chain(more).collect()
}

pub(super) fn problem(description: &str) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content("application/json", content).build().into()
}
