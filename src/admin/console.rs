//! The console: a web page whose files are compiled in. The files are served without authentication because they hold no
//! data; the page requests data from the API with the token.

use super::answer::Path;
use super::app::App;
use super::problem::{Problem, ProblemCode};
use crate::model::hex;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ring::digest::{SHA256, digest};

/// Allows only scripts, styles and requests of this origin, and forbids framing.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct Asset {
    name: &'static str,
    content: &'static [u8],
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        const ASSETS: &[Asset] = &[$(Asset { name: $name, content: include_bytes!(concat!("console/", $name)) }),*];
    };
}

assets! {
    "index.html",
    "style.css",
    "icon.svg",
    "actions.js",
    "activity.js",
    "api.js",
    "dialogs.js",
    "dom.js",
    "format.js",
    "jobs.js",
    "live.js",
    "main.js",
    "parts.js",
    "plot.js",
    "profile.js",
    "reference.js",
    "summary.js",
    "tenant.js",
    "tenants.js",
    "timeline.js",
    "users.js",
}

/// Where the console shows the description of the API. The address is relative, so it works behind a prefix.
const REFERENCE: HeaderValue = HeaderValue::from_static("../#/api");

/// The page at `/`, its files below `/assets`, and the address of its page about the API.
pub(super) fn console() -> Router<App> {
    Router::new()
        .route("/", get(async |headers: HeaderMap| respond("index.html", &headers)))
        .route("/api/docs", get(async || (StatusCode::SEE_OTHER, [(header::LOCATION, REFERENCE)])))
        .route("/assets/{name}", get(async |Path(name): Path<String>, headers: HeaderMap| respond(&name, &headers)))
}

/// Browsers revalidate cached files by their ETag, so that an update replaces the whole page.
fn respond(name: &str, request: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return Problem::new(ProblemCode::NoSuchPath, "no such path").into_response();
    };
    let tag = asset.tag();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type())),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let is_cached = request.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let tag = [(header::ETAG, tag)];
    if is_cached {
        return (StatusCode::NOT_MODIFIED, headers, tag).into_response();
    }
    (headers, tag, asset.content).into_response()
}

impl Asset {
    fn content_type(&self) -> &'static str {
        match self.name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        }
    }

    /// The ETag, a digest of the content.
    fn tag(&self) -> String {
        let sum = digest(&SHA256, self.content);
        let digits = hex(&sum.as_ref()[..16]);
        format!("\"{digits}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_console_file_is_embedded() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/console");
        let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let mut assets: Vec<_> = ASSETS.iter().map(|asset| asset.name).collect();
        files.sort();
        assets.sort_unstable();
        assert_eq!(files, assets);
    }

    #[test]
    fn the_page_obeys_its_content_security_policy_and_builds_no_markup_from_data() {
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.content).unwrap();
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "javascript:"] {
                assert!(!text.contains(word), "{} has {word}", asset.name);
            }
            if asset.name == "index.html" {
                for word in ["<style", " style=", "<script>", " onclick=", "http:", "https:", "//"] {
                    assert!(!text.contains(word), "{} has {word}", asset.name);
                }
            }
        }
    }

    #[test]
    fn an_unchanged_file_is_answered_with_not_modified() {
        let ask = |tag: Option<&HeaderValue>| {
            let known = tag.map(|tag| (header::IF_NONE_MATCH, tag.clone()));
            respond("main.js", &known.into_iter().collect())
        };
        let first = ask(None);
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(ask(first.headers().get(header::ETAG)).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(ask(Some(&HeaderValue::from_static("\"another\""))).status(), StatusCode::OK);
        assert_eq!(respond("nothing.js", &HeaderMap::new()).status(), StatusCode::NOT_FOUND);
    }
}
