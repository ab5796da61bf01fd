//! The description of the HTTP API (OpenAPI 3.1), served as `/api/openapi.json`.

use super::overview::VERSION;
use super::paths::{ProtectedApi, PublicApi};
use super::refusals::problem;
use axum::Json;
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AdditionalProperties, Object, Schema};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Info, OpenApi, PathItem, RefOr, Required, SecurityRequirement};

pub(super) async fn openapi() -> Json<OpenApi> {
    Json(description())
}

fn description() -> OpenApi {
    let mut description = ProtectedApi::openapi();
    description.paths.paths.values_mut().for_each(add_refusals);
    description.merge(PublicApi::openapi());
    description.paths.paths.values_mut().for_each(add_other_sites);
    let components = description.components.get_or_insert_default();
    let needs_property = |name: &str| matches!(components.schemas.get(name), Some(RefOr::T(Schema::Object(object))) if !object.required.is_empty());
    for path in description.paths.paths.values_mut() {
        operations(path).for_each(|operation| finish(operation, &needs_property));
    }
    description.info = Info::builder()
        .title("users-sync")
        .version(VERSION)
        .description(Some("Status of a running users-sync, its tenants and their users; resync and verification jobs."))
        .build();
    description.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    let components = description.components.get_or_insert_default();
    components.schemas.values_mut().for_each(require_all);
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    description
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut path.get, &mut path.post].into_iter().flatten()
}

/// Gives errors their content type. A body may be empty if none of its properties is required.
fn finish(operation: &mut Operation, needs_property: &impl Fn(&str) -> bool) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response
            && let Some(content) = response.content.get("application/json")
            && name_of(content) == Some("Problem")
            && let Some(content) = response.content.shift_remove("application/json")
        {
            response.content.insert("application/problem+json".to_owned(), content);
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        let is_required = body.content.values().filter_map(name_of).any(needs_property);
        body.required = Some(if is_required { Required::True } else { Required::False });
    }
}

/// The name of the schema that a content refers to.
fn name_of(content: &RefOr<Content>) -> Option<&str> {
    match content {
        RefOr::T(Content { schema: Some(RefOr::Ref(schema)), .. }) => schema.ref_location.rsplit('/').next(),
        _ => None,
    }
}

/// Adds the responses of the authentication.
fn add_refusals(path: &mut PathItem) {
    for operation in operations(path) {
        let responses = &mut operation.responses.responses;
        responses.entry("401".to_owned()).or_insert_with(|| problem("Missing or invalid token."));
        responses.entry("400".to_owned()).or_insert_with(|| problem("The Host header does not name this machine."));
        responses.entry("503".to_owned()).or_insert_with(|| problem("Too many connections."));
    }
}

/// Adds the response to a request from a page of another site.
fn add_other_sites(path: &mut PathItem) {
    for operation in operations(path) {
        let responses = &mut operation.responses.responses;
        responses.entry("403".to_owned()).or_insert_with(|| problem("The request comes from a page of another site."));
    }
}

/// Whether the object allows no unknown property.
fn is_closed(object: &Object) -> bool {
    matches!(object.additional_properties.as_deref(), Some(AdditionalProperties::FreeForm(false)))
}

/// Marks all properties of responses as required: absent values are null. Request bodies, which allow no unknown property,
/// may omit some.
fn require_all(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) if !is_closed(object) => {
            object.required = object.properties.keys().cloned().collect();
        }
        RefOr::T(Schema::AllOf(all)) => all.items.iter_mut().for_each(require_all),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_exactly_the_served_paths() {
        let mut served = [ProtectedApi::PATHS, PublicApi::PATHS].concat();
        served.sort_unstable();
        let description = description();
        let described: Vec<&str> = description.paths.paths.keys().map(String::as_str).collect();
        assert_eq!(described, served);
    }
}
