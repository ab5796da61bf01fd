//! Registers the schemas of the topics in a registry, or looks them up there. Bodies and credentials reach no log.

use super::failure::Failure;
use crate::config::Registry;
use crate::http_client::{Endpoint, EndpointError};
use crate::model::TopicTrouble;
use crate::pg::Secret;
use crate::tee::{SchemaIds, SchemaRefusal, SchemaRequest, SchemaSubject, Schemas};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::time::Duration;

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer. One to a lookup has the whole schema.
const MAX_ANSWER: usize = 64 << 10;
/// Requests at the same time: every topic needs two.
const AT_ONCE: usize = 8;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.schemaregistry.v1+json");
const ENDPOINT_REMEDY: &str = "correct kafka.registry.url";

/// The ids of the schemas of each topic, which are registered first if the configuration says so.
///
/// # Errors
/// The registry cannot be reached, or does not accept a schema.
pub(crate) async fn schema_ids(
    registry: &Registry,
    schemas: &Schemas,
    topics: &[&str],
) -> Result<HashMap<String, SchemaIds>, Failure> {
    let request = if registry.register { SchemaRequest::Register } else { SchemaRequest::LookUp };
    let endpoint = endpoint(registry)?;
    let topics: Vec<_> = topics.iter().map(|topic| ((*topic).to_owned(), schemas.subjects(topic))).collect();
    let ids = topics.into_iter().map(|(topic, subjects)| ids(endpoint.clone(), request, topic, subjects));
    // In order, so that the same failure has the same reason each time.
    stream::iter(ids).buffered(AT_ONCE).try_collect().await
}

/// Asks the registry whether it has or would accept the schemas of these topics. Writes nothing.
///
/// # Errors
/// As for [`schema_ids`].
pub(crate) async fn test_schemas(registry: &Registry, schemas: &Schemas, topics: &[&str]) -> Result<(), Failure> {
    let request = if registry.register { SchemaRequest::Test } else { SchemaRequest::LookUp };
    let endpoint = endpoint(registry)?;
    let subjects: Vec<_> = topics.iter().flat_map(|topic| schemas.subjects(topic)).collect();
    let asked = subjects.into_iter().map(|subject| ask(endpoint.clone(), request, subject));
    stream::iter(asked).buffered(AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await
}

fn endpoint(registry: &Registry) -> Result<Endpoint, Failure> {
    let unusable = |error: EndpointError| Failure {
        remedy: Some(ENDPOINT_REMEDY),
        ..failure(format!("the schema registry cannot be used: {error}"))
    };
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, MEDIA_TYPE), (ACCEPT, MEDIA_TYPE)]);
    if let (Some(user), Some(Secret(password))) = (&registry.user, &registry.password) {
        let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
    }
    Ok(Endpoint::new(&registry.url, TIMEOUT, MAX_ANSWER).map_err(unusable)?.with_headers(headers))
}

async fn ids(
    endpoint: Endpoint,
    request: SchemaRequest,
    topic: String,
    [key, value]: [SchemaSubject; 2],
) -> Result<(String, SchemaIds), Failure> {
    let none = || failure(format!("the schema registry has no id for the schemas of topic {topic}"));
    let key = ask(endpoint.clone(), request, key).await?.ok_or_else(none)?;
    let value = ask(endpoint, request, value).await?.ok_or_else(none)?;
    Ok((topic, SchemaIds { key, value }))
}

async fn ask(endpoint: Endpoint, request: SchemaRequest, subject: SchemaSubject) -> Result<Option<u32>, Failure> {
    let answered = match post(&endpoint, request, &subject).await? {
        Err(SchemaRefusal::NotThere) if request == SchemaRequest::LookUp => {
            post(&endpoint, SchemaRequest::LookUpNormalized, &subject).await?
        }
        answered => answered,
    };
    answered.map_err(|refusal| Failure {
        remedy: refusal.remedy(),
        ..failure(format!("subject {} in the schema registry: {refusal}", subject.name))
    })
}

async fn post(
    endpoint: &Endpoint,
    request: SchemaRequest,
    subject: &SchemaSubject,
) -> Result<Result<Option<u32>, SchemaRefusal>, Failure> {
    let answer = endpoint.post(&request.path(&subject.name), subject.body.clone()).await;
    let (status, body) = answer.map_err(|error| failure(format!("no answer of the schema registry: {error}")))?;
    Ok(request.read(status.as_u16(), &body))
}

/// It passes on its own unless it has a remedy.
fn failure(what: String) -> Failure {
    Failure { code: Some(TopicTrouble::Registry), ..Failure::plain(what) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Kafka, parse};
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn kafka(registry: &str) -> Kafka {
        let text = format!(
            "source: {{url: postgres://u@h/auth}}\nusers: {{table: auth.users, id: id}}\n\
             tenants: [{{id: acme, target: postgres://u@h/acme}}]\n\
             kafka: {{brokers: b, encoding: avro, registry: {registry}}}\n"
        );
        let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        parse("test", &text, &env).unwrap().kafka.unwrap()
    }

    /// Answers every request with this status and body. Returns its address, and the requests.
    async fn server(status: &'static str, body: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                // The body of a request is JSON.
                while !request.ends_with(b"}") && stream.read_buf(&mut request).await.unwrap() > 0 {}
                seen.lock().unwrap().push(String::from_utf8(request).unwrap());
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (at, requests)
    }

    async fn ask_for_ids(kafka: &Kafka, topics: &[&str]) -> Result<HashMap<String, SchemaIds>, Failure> {
        schema_ids(kafka.registry.as_ref().unwrap(), &Schemas::new(kafka).unwrap(), topics).await
    }

    #[tokio::test]
    async fn every_topic_has_two_subjects_and_requests_carry_the_login() {
        let (at, requests) = server("200 OK", "{\"id\":3}").await;
        let kafka = kafka(&format!("{{url: 'http://{at}/api/', user: u, password: p}}"));
        let ids = ask_for_ids(&kafka, &["a", "b"]).await.unwrap();
        let both = SchemaIds { key: 3, value: 3 };
        assert_eq!(ids, HashMap::from([("a".to_owned(), both), ("b".to_owned(), both)]));
        let requests = requests.lock().unwrap();
        for subject in ["a-key", "a-value", "b-key", "b-value"] {
            let line = format!("POST /api/subjects/{subject}/versions HTTP/1.1\r\n");
            let request = requests.iter().find(|request| request.starts_with(&line));
            let request = request.unwrap_or_else(|| panic!("{line}: {requests:?}"));
            // "u:p" in base 64.
            assert!(request.contains("authorization: Basic dTpw\r\n"), "{request}");
            assert!(request.contains("content-type: application/vnd.schemaregistry.v1+json\r\n"), "{request}");
            assert!(request.contains("{\"schema\":\"{"), "{request}");
        }
        assert_eq!(requests.len(), 4);
    }

    #[tokio::test]
    async fn a_refusal_names_the_subject_and_shows_neither_the_answer_nor_the_password() {
        let (at, _) = server("401 Unauthorized", "{\"message\":\"the password hidden is wrong\"}").await;
        let kafka = kafka(&format!("{{url: 'http://{at}', user: u, password: hidden, register: false}}"));
        let failure = ask_for_ids(&kafka, &["a"]).await.unwrap_err();
        assert_eq!(failure.code, Some(TopicTrouble::Registry));
        assert_eq!(failure.what, "subject a-key in the schema registry: the registry refuses the login");
        assert!(failure.remedy.is_some_and(|remedy| remedy.contains("kafka.registry.password")), "{failure:?}");
        assert!(!format!("{failure:?}").contains("hidden"));
    }

    #[tokio::test]
    async fn a_registry_that_is_away_needs_no_person() {
        let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let kafka = kafka(&format!("{{url: 'http://{at}'}}"));
        let registry = kafka.registry.as_ref().unwrap();
        let schemas = Schemas::new(&kafka).unwrap();
        for failure in [
            ask_for_ids(&kafka, &["a"]).await.unwrap_err(),
            test_schemas(registry, &schemas, &["a"]).await.unwrap_err(),
        ] {
            assert_eq!((failure.code, failure.remedy), (Some(TopicTrouble::Registry), None));
            assert_eq!(failure.what, "no answer of the schema registry: it cannot be reached: connection refused");
        }
    }

    #[tokio::test]
    async fn a_test_of_the_schemas_registers_nothing() {
        let (at, requests) = server("200 OK", "{\"is_compatible\":true}").await;
        let kafka = kafka(&format!("{{url: 'http://{at}'}}"));
        let schemas = Schemas::new(&kafka).unwrap();
        test_schemas(kafka.registry.as_ref().unwrap(), &schemas, &["a"]).await.unwrap();
        let requests = requests.lock().unwrap();
        assert_eq!(requests.len(), 2);
        assert!(requests.iter().all(|request| request.starts_with("POST /compatibility/subjects/a-")), "{requests:?}");
    }
}
