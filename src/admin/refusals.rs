//! Error responses as the API description (OpenAPI) shows them.

use std::collections::BTreeMap;
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// The response of a job that cannot start.
pub(super) struct NotBegun;

impl IntoResponses for NotBegun {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let refusals = [
            ("400", "The path or the body cannot be."),
            ("404", "There is no such tenant."),
            ("409", "Another job runs for it."),
            ("413", "The body is too long."),
            ("415", "The body is not said to be JSON."),
            ("422", "The body is another one."),
            ("503", "Too many jobs run."),
        ];
        refusals.map(|(status, description)| (status.to_owned(), problem(description))).into()
    }
}

pub(super) fn problem(description: &str) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content("application/json", content).build().into()
}
