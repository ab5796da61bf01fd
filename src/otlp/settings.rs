//! Pure: what the standard `OTEL_*` variables say about the export. An empty variable counts as not set. The SDK reads the
//! others: `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`, and those of batches and resources.

use percent_encoding::percent_decode_str;
use std::time::Duration;

/// As the specification of the exporter says.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// What is exported, and where to.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) traces: Option<Destination>,
    pub(super) metrics: Option<Destination>,
    /// Time between two exports of metrics.
    pub(super) interval: Duration,
}

/// Where a signal is sent to.
#[derive(PartialEq)]
pub(super) struct Destination {
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Duration,
}

/// Without the values: headers hold secrets, and a URL may.
impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Destination")
    }
}

/// Why a variable cannot be used. It does not show the value.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}: only http/protobuf is supported")]
    Protocol(String),
    #[error("{0} is not supported: remove it")]
    Unsupported(String),
    #[error("{0}: a list of name=value, separated by commas and percent-encoded, is expected")]
    Headers(String),
    #[error("{0}: a number of milliseconds is expected")]
    Number(String),
}

/// The settings; `None` if nothing is to be exported. `variable` reads a variable of the environment.
pub(super) fn settings(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Settings>, Fault> {
    let variable = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let traces = destination(&variable, "TRACES", "v1/traces")?;
    let metrics = destination(&variable, "METRICS", "v1/metrics")?;
    if traces.is_none() && metrics.is_none() {
        return Ok(None);
    }
    let interval = milliseconds(&variable, "OTEL_METRIC_EXPORT_INTERVAL")?.unwrap_or(DEFAULT_INTERVAL);
    Ok(Some(Settings { traces, metrics, interval }))
}

fn destination(
    variable: &impl Fn(&str) -> Option<String>,
    signal: &str,
    path: &str,
) -> Result<Option<Destination>, Fault> {
    if variable(&format!("OTEL_{signal}_EXPORTER")).as_deref() == Some("none") {
        return Ok(None);
    }
    // The variable of a signal comes before that of all signals.
    let chosen = |setting: &str| {
        let names = [format!("OTEL_EXPORTER_OTLP_{signal}_{setting}"), format!("OTEL_EXPORTER_OTLP_{setting}")];
        names.into_iter().find_map(|name| variable(&name).map(|value| (name, value)))
    };
    let url = match chosen("ENDPOINT") {
        None => return Ok(None),
        Some((name, url)) if name.contains(signal) => url,
        Some((_, base)) => format!("{}/{path}", base.trim_end_matches('/')),
    };
    if let Some((name, protocol)) = chosen("PROTOCOL")
        && protocol != "http/protobuf"
    {
        return Err(Fault::Protocol(name));
    }
    // To ignore one of these could send to a collector that was not meant.
    for setting in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
        if let Some((name, _)) = chosen(setting) {
            return Err(Fault::Unsupported(name));
        }
    }
    let headers = match chosen("HEADERS") {
        Some((name, text)) => headers(&text).ok_or(Fault::Headers(name))?,
        None => Vec::new(),
    };
    let timeout = match chosen("TIMEOUT") {
        Some((name, _)) => milliseconds(variable, &name)?,
        None => None,
    };
    Ok(Some(Destination { url, headers, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT) }))
}

fn milliseconds(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<Duration>, Fault> {
    let Some(text) = variable(name) else { return Ok(None) };
    match text.parse() {
        Ok(0) | Err(_) => Err(Fault::Number(name.to_owned())),
        Ok(milliseconds) => Ok(Some(Duration::from_millis(milliseconds))),
    }
}

/// `None` if a header could change the request.
fn headers(text: &str) -> Option<Vec<(String, String)>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let name = name.trim();
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        (is_name && !value.chars().any(char::is_control)).then(|| (name.to_owned(), value.into_owned()))
    };
    pairs.map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Settings>, Fault> {
        let find = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        settings(find)
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_if_the_sdk_is_disabled() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(None));
        assert_eq!(of(&[BASE, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(None));
        assert_eq!(of(&[BASE, ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "none")]), Ok(None));
        assert!(of(&[BASE, ("OTEL_SDK_DISABLED", "false")]).unwrap().is_some());
    }

    #[test]
    fn the_variable_of_a_signal_comes_before_that_of_all_signals() {
        let settings = of(&[
            BASE,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces/other"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, tenant = a"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "7"),
        ]);
        let Settings { traces, metrics, interval } = settings.unwrap().unwrap();
        let (traces, metrics) = (traces.unwrap(), metrics.unwrap());
        assert_eq!(
            (&*traces.url, traces.timeout, interval),
            ("https://traces/other", DEFAULT_TIMEOUT, DEFAULT_INTERVAL)
        );
        assert_eq!((&*metrics.url, metrics.timeout.as_millis()), ("http://collector:4318/v1/metrics", 7));
        let headers = [("authorization", "Bearer x"), ("tenant", "a")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!((&*traces.headers, &*metrics.headers), (&headers[..], &headers[..]));
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_named_without_its_value() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/secret.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/secret.key"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0d%0ab"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ] {
            let fault = of(&[BASE, (name, value)]).unwrap_err().to_string();
            assert!(fault.starts_with(name) && !fault.contains(value) && !fault.contains("secret"), "{fault}");
        }
    }
}
