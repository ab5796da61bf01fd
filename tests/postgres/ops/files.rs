//! The program accepts the configurations in docker/, and the deployment files provide every secret that they name.

use super::{read, yaml};
use std::collections::BTreeSet;
use users_sync::config::{Config, Env, parse};

fn variables(text: &str) -> BTreeSet<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let named = code.flat_map(|line| line.split("${").skip(1));
    named.map(|rest| rest.split('}').next().unwrap()).collect()
}

#[track_caller]
fn parsed(name: &str, text: &str) -> Config {
    let variable = |name: &str| match name {
        "KAFKA_BROKERS" => Some("kafka:9092".to_owned()),
        name if name.ends_with("_URL") => Some(format!("postgres://u:p@{}/d", name.to_ascii_lowercase())),
        _ => Some("0123456789abcdef".to_owned()),
    };
    let file = |_: &str| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    parse(name, text, &Env { variable: &variable, file: &file }).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn compose_provides_every_variable_of_its_configuration() {
    let text = read("docker/users-sync.yaml");
    let config = parsed("users-sync.yaml", &text);
    assert_eq!((config.tenants.len(), config.kafka.is_some(), config.admin.is_some()), (2, true, true));
    let compose = yaml(&read("docker/compose.yaml"));
    let services = compose["services"].as_object().unwrap();
    for service in ["users-sync", "standby"] {
        let service = &services[service];
        let given: BTreeSet<&str> = service["environment"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(given, variables(&text));
        let spool = service["tmpfs"][0].as_str().and_then(|mount| mount.split(':').next());
        assert_eq!(spool, config.spool.directory.as_deref());
        assert_eq!((&service["read_only"], &service["cap_drop"][0]), (&true.into(), &"ALL".into()), "{service}");
    }
    // A variable without a default has a throwaway value for the trial.
    let trial = read("docker/.env");
    for image in trial.lines().filter(|line| line.contains("_IMAGE=")) {
        assert!(image.contains("@sha256:"), "{image} has no digest");
    }
    for variable in variables(&read("docker/compose.yaml")) {
        let (name, is_required) = variable.split_once(":?").map_or((variable, false), |(name, _)| (name, true));
        assert!(!is_required || trial.contains(&format!("\n{name}=")), "{name} is not in docker/.env");
    }
}

#[test]
fn the_manifest_provides_every_variable_of_its_configuration() {
    let manifest = read("docker/kubernetes.yaml");
    let documents: Vec<_> = manifest.split("\n---\n").map(yaml).collect();
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let text = of("ConfigMap")["data"]["users-sync.yaml"].as_str().unwrap();
    assert!(parsed("users-sync.yaml", text).admin.is_some_and(|admin| admin.token.is_some()));
    let given: BTreeSet<&str> = of("Secret")["stringData"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(given, variables(text));
    let pod = &of("Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(of("Deployment")["spec"]["replicas"], 2);
    let policy = &of("NetworkPolicy")["spec"];
    assert_eq!(policy["podSelector"], of("Deployment")["spec"]["selector"]);
    assert_eq!(policy["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    assert_eq!(policy["ingress"][0]["ports"][0]["port"], container["ports"][0]["name"]);
    assert_eq!(policy["ingress"].as_array().map(Vec::len), Some(1));
    // A snapshot and a comparison may each take spool.size; past the volume's limit the pod is evicted.
    let spool = parsed("users-sync.yaml", text).spool;
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["mountPath"].as_str() == spool.directory.as_deref()).unwrap();
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]).unwrap();
    let limit = volume["emptyDir"]["sizeLimit"].as_str().and_then(|limit| limit.strip_suffix("Gi")).unwrap();
    assert!(limit.parse::<u64>().unwrap() << 30 > 2 * spool.size);
    // The restricted pod security standard.
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
}

/// `.ci/helm`, which is not part of CI, compares all that the chart renders.
#[test]
fn the_chart_has_the_configuration_of_the_manifest() {
    let manifest = read("docker/kubernetes.yaml");
    let documents: Vec<_> = manifest.split("\n---\n").map(yaml).collect();
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
    let defaults = yaml(&read("docker/helm/values.yaml"));
    let values = yaml(&read("docker/helm/ci/kubernetes.yaml"));
    let mut config = defaults["config"].clone();
    config.as_object_mut().unwrap().extend(values["config"].as_object().unwrap().clone());
    assert_eq!(config, yaml(of("ConfigMap")["data"]["users-sync.yaml"].as_str().unwrap()));
    assert_eq!(values["secrets"], of("Secret")["stringData"]);
    let deployment = &of("Deployment")["spec"];
    let pod = &deployment["template"]["spec"];
    assert_eq!(defaults["replicas"], deployment["replicas"]);
    assert_eq!(defaults["resources"], pod["containers"][0]["resources"]);
    assert_eq!(defaults["terminationGracePeriodSeconds"], pod["terminationGracePeriodSeconds"]);
}

#[test]
fn documented_commands_exist() {
    use clap::Parser;
    let commands = [
        yaml(&read("docker/compose.yaml"))["services"]["users-sync"]["command"].clone(),
        yaml(read("docker/kubernetes.yaml").split("\n---\n").find(|document| document.contains("Deployment")).unwrap())
            ["spec"]["template"]["spec"]["containers"][0]["args"]
            .clone(),
    ];
    let listed = |value: &serde_json::Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let unit = read("docker/users-sync.service");
    let unit = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/users-sync ")).unwrap();
    let image = read("docker/Dockerfile");
    let image = image.lines().filter_map(|line| line.split_once("CMD [")).map(|(_, rest)| yaml(&format!("[{rest}")));
    let mut shown: Vec<Vec<String>> = commands.iter().map(listed).collect();
    shown.push(unit.split(' ').map(str::to_owned).collect());
    shown.extend(image.map(|command| {
        let command = listed(&command);
        command.into_iter().filter(|word| word != "/usr/local/bin/users-sync").collect()
    }));
    assert_eq!(shown.len(), 5, "{shown:?}");
    for words in shown {
        let line = std::iter::once("users-sync".to_owned()).chain(words.clone());
        assert!(users_sync::cli::Cli::try_parse_from(line).is_ok(), "{words:?}");
    }
}
