//! Pure: the families of `/metrics`, in the text that prometheus-client writes, as metrics of OTLP. So each family is
//! defined once. A counter becomes a cumulative sum and loses its suffix `_total`, as the specification asks for.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, metric::Data,
    number_data_point::Value,
};

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// When the counters began, and now: nanoseconds since 1970.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) start: u64,
    pub(super) now: u64,
}

type Labels = Vec<(String, String)>;

struct Sample<'a> {
    name: &'a str,
    labels: Labels,
    value: &'a str,
}

#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

/// The metrics of an exposition.
pub(super) fn metrics(text: &str, times: Times) -> Vec<Metric> {
    families(text).into_iter().filter(|family| !family.samples.is_empty()).map(|family| metric(family, times)).collect()
}

fn families(text: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.push(Family { name, help: help.trim_end_matches('.'), ..Family::default() });
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.last_mut().into_iter().for_each(|family| family.kind = kind);
        } else if let (Some(sample), Some(family)) = (sample(line), families.last_mut()) {
            family.samples.push(sample);
        }
    }
    families
}

/// A line such as `name{label="value"} 1`; `None` for a comment.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    if name.starts_with('#') {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    Some(Sample { name, labels, value: rest.split_ascii_whitespace().next()? })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    c => c,
                }),
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &quoted[end + 1..];
    }
}

fn metric(family: Family<'_>, times: Times) -> Metric {
    let Family { name, help, kind, samples } = family;
    let suffix = if kind == "info" { "_info" } else { "" };
    let data = match kind {
        "counter" => Data::Sum(Sum {
            data_points: samples.into_iter().map(|sample| point(sample, times)).collect(),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }),
        "histogram" => {
            Data::Histogram(Histogram { data_points: histograms(samples, times), aggregation_temporality: CUMULATIVE })
        }
        _ => Data::Gauge(Gauge {
            data_points: samples.into_iter().map(|sample| point(sample, Times { start: 0, ..times })).collect(),
        }),
    };
    Metric { name: format!("{name}{suffix}"), description: help.to_owned(), data: Some(data), ..Metric::default() }
}

fn point(sample: Sample<'_>, times: Times) -> NumberDataPoint {
    let value = match sample.value.parse() {
        Ok(whole) => Value::AsInt(whole),
        Err(_) => Value::AsDouble(real(sample.value)),
    };
    NumberDataPoint {
        attributes: attributes(sample.labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

/// prometheus-client writes numbers that Rust reads.
fn real(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

fn whole(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

/// One point for each set of labels. The buckets of the text contain those before them.
fn histograms(samples: Vec<Sample<'_>>, times: Times) -> Vec<HistogramDataPoint> {
    let mut points: Vec<(Labels, u64, HistogramDataPoint)> = Vec::new();
    for Sample { name, mut labels, value } in samples {
        let bound = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
        let index = points.iter().position(|(of, ..)| *of == labels).unwrap_or_else(|| {
            let point = HistogramDataPoint {
                attributes: attributes(labels.clone()),
                start_time_unix_nano: times.start,
                time_unix_nano: times.now,
                ..HistogramDataPoint::default()
            };
            points.push((labels, 0, point));
            points.len() - 1
        });
        let (_, before, point) = &mut points[index];
        match bound {
            Some(bound) => {
                let so_far = whole(value);
                point.bucket_counts.push(so_far.saturating_sub(*before));
                *before = so_far;
                point.explicit_bounds.extend(Some(real(&bound)).filter(|bound| bound.is_finite()));
            }
            None if name.ends_with("_sum") => point.sum = Some(real(value)),
            None => point.count = whole(value),
        }
    }
    points.into_iter().map(|(_, _, point)| point).collect()
}

fn attributes(labels: Labels) -> Vec<KeyValue> {
    let attribute = |(key, value)| {
        let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
        KeyValue { key, value, ..KeyValue::default() }
    };
    labels.into_iter().map(attribute).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_family_is_converted() {
        let text = "# HELP us_build Version.\n# TYPE us_build info\nus_build_info{version=\"1\"} 1\n\
            # HELP us_lag Lag of \"x\".\n# TYPE us_lag gauge\nus_lag{tenant=\"a,b=\\\"c\\\\\\n}\",k=\"\"} 0.5\nus_lag{tenant=\"d\"} 2\n\
            # HELP us_rows Rows.\n# TYPE us_rows counter\nus_rows_total 7\n\
            # HELP us_none None.\n# TYPE us_none gauge\n\
            # HELP us_t Time.\n# TYPE us_t histogram\nus_t_sum 1.5\nus_t_count 3\nus_t_bucket{le=\"1.0\"} 2\n\
            us_t_bucket{le=\"2.0\"} 2\nus_t_bucket{le=\"+Inf\"} 3\n# EOF\n";
        let found = metrics(text, Times { start: 1, now: 2 });
        let names: Vec<&str> = found.iter().map(|metric| &*metric.name).collect();
        assert_eq!(names, ["us_build_info", "us_lag", "us_rows", "us_t"]);
        assert_eq!(found[1].description, "Lag of \"x\"");
        let [_, Some(Data::Gauge(lag)), Some(Data::Sum(rows)), Some(Data::Histogram(times))] =
            [&found[0].data, &found[1].data, &found[2].data, &found[3].data]
        else {
            panic!("{found:?}")
        };
        let expected = [("tenant".to_owned(), "a,b=\"c\\\n}".to_owned()), ("k".to_owned(), String::new())];
        assert_eq!(lag.data_points[0].attributes, attributes(expected.to_vec()));
        let values: Vec<_> = lag.data_points.iter().map(|point| point.value).collect();
        assert_eq!(values, [Some(Value::AsDouble(0.5)), Some(Value::AsInt(2))]);
        assert_eq!((rows.is_monotonic, rows.data_points[0].value), (true, Some(Value::AsInt(7))));
        assert_eq!((rows.data_points[0].start_time_unix_nano, rows.data_points[0].time_unix_nano), (1, 2));
        let [point] = &*times.data_points else { panic!("{times:?}") };
        assert_eq!((point.count, point.sum), (3, Some(1.5)));
        assert_eq!((&*point.bucket_counts, &*point.explicit_bounds), (&[2, 0, 1][..], &[1.0, 2.0][..]));
    }
}
