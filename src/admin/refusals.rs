//! Error responses as the API description (OpenAPI) shows them.

use std::collections::BTreeMap;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// Responses to a job that cannot start.
pub(super) struct JobRefusals;

impl IntoResponses for JobRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let refusals = [
            ("400", "Invalid path or body."),
            ("404", "Unknown tenant."),
            ("408", "The body is too slow."),
            ("409", "Another job is running for this tenant."),
            ("413", "The body is too large."),
            ("415", "The content type is not application/json."),
            ("422", "The body does not match the schema."),
            ("503", "Too many jobs are running."),
        ];
        refusals.map(|(status, description)| (status.to_owned(), problem(description))).into()
    }
}

pub(super) fn problem(description: &str) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content("application/json", content).build().into()
}
