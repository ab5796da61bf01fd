"""Checks the manifests that .ci/helm has rendered, and docker/kubernetes-apply.yaml:

    helm-check.py RENDERED PROMETHEUS_OPERATOR KEDA OLDEST NEWEST

Against the schemas of Kubernetes (both versions), the definitions in the modules of the operator and of KEDA, and that of
users-sync.yaml; and against the files that they must agree with: docker/kubernetes.yaml, rules.yml, board.json, values.yaml,
Cargo.toml.
"""

import json
import re
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "docker/helm"
# Labels and annotations that the chart has beside those of docker/kubernetes.yaml.
ADDED = {"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart",
         "checksum/secrets"}
faults = []


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def fault(name, message):
    faults.append(f"{name}: {message}")


def described(error):
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"[:500]


def closed(schema):
    """The schema without room for unknown keys: the API server drops those of a custom resource."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            schema.setdefault("additionalProperties", False)
    return schema


def crd_schemas(files):
    """By apiVersion and kind."""
    schemas = {}
    for file in files:
        (crd,) = documents(file)
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            schemas[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return schemas


def check_schema(name, manifest, crds, versions):
    if "." in manifest["apiVersion"] and not manifest["apiVersion"].split("/")[0].endswith(".k8s.io"):
        schema = crds.get((manifest["apiVersion"], manifest["kind"]))
        if not schema:
            return fault(name, f"no definition of {manifest['apiVersion']}")
        for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest):
            fault(name, described(error))
        return
    for version in versions:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            fault(name, f"Kubernetes {version}: {described(error)}")


def check_configuration(name, data, schema):
    """users-sync.yaml, also with the tenants of each included file."""
    main = yaml.safe_load(data["users-sync.yaml"])
    included = [yaml.safe_load(text) for file, text in data.items() if file != "users-sync.yaml"]
    for config in [main, *({**main, **file} for file in included)]:
        for error in schema.iter_errors(config):
            fault(name, described(error))


def check_references(name, manifests):
    """Selectors match the pods, volumes are there, and named ports exist."""
    def of(kind):
        return next((manifest for manifest in manifests if manifest["kind"] == kind), None)

    workload = of("Deployment") or of("StatefulSet")
    labels = workload["spec"]["template"]["metadata"]["labels"].items()
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    selectors = {workload["kind"]: workload["spec"]["selector"]["matchLabels"], "Service": of("Service")["spec"]["selector"]}
    for kind, field in [("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")]:
        if of(kind):
            selectors[kind] = of(kind)["spec"][field]["matchLabels"]
    if of("ServiceMonitor"):
        if not of("ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= of("Service")["metadata"]["labels"].items():
            fault(name, "the ServiceMonitor does not select the Service")
    for kind, selector in selectors.items():
        if not selector.items() <= labels:
            fault(name, f"the {kind} does not select the pods")
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
        if probe in container and container[probe]["httpGet"]["port"] not in ports:
            fault(name, f"{probe} names no port of the container")
    volumes = {volume["name"] for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            fault(name, f"no volume {mount['name']}")
        if "subPath" in mount:
            fault(name, f"{mount['mountPath']} is a subPath, so changes do not reach it")
    account = of("ServiceAccount")
    if account and account["metadata"]["name"] != pod["serviceAccountName"]:
        fault(name, "the pods use another service account")
    secret = of("Secret")
    if secret and {"secretRef": {"name": secret["metadata"]["name"]}} not in (container.get("envFrom") or []):
        fault(name, "the pods do not use the Secret")


def without_additions(value):
    if isinstance(value, dict):
        return {key: without_additions(value) for key, value in value.items() if key not in ADDED}
    if isinstance(value, list):
        return [without_additions(item) for item in value]
    return value


def comparable(path):
    """Each object by its kind; the text of the configuration as what it means."""
    objects = {}
    for manifest in documents(path):
        if manifest["kind"] == "ConfigMap":
            manifest["data"] = {name: yaml.safe_load(text) for name, text in manifest["data"].items()}
        objects[manifest["kind"]] = without_additions(manifest)
    return objects


def check_manifest(rendered):
    """The chart renders what docker/kubernetes.yaml has."""
    expected, found = comparable(ROOT / "docker/kubernetes.yaml"), comparable(rendered / "kubernetes.yaml")
    if expected.keys() != found.keys():
        fault("kubernetes", f"objects {sorted(found)}, docker/kubernetes.yaml has {sorted(expected)}")
    for kind in expected.keys() & found.keys():
        if expected[kind] != found[kind]:
            fault("kubernetes", f"{kind} is\n  {json.dumps(found[kind])}\ndocker/kubernetes.yaml has\n  {json.dumps(expected[kind])}")


def by_kind(path):
    return {manifest["kind"]: manifest for manifest in documents(path)}


def check_apply(parameters):
    """The workers are as hardened as docker/kubernetes.yaml, and their configuration, their Secret and KEDA's trigger agree."""
    publisher, workers = by_kind(ROOT / "docker/kubernetes.yaml"), by_kind(ROOT / "docker/kubernetes-apply.yaml")

    def same(what, expected, found):
        if expected != found:
            fault(f"kubernetes-apply: {what}", f"{json.dumps(found)} instead of {json.dumps(expected)}")

    statefulset = workers["StatefulSet"]["spec"]
    pods = publisher["Deployment"]["spec"]["template"]["spec"], statefulset["template"]["spec"]
    for field in ["automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext"]:
        same(field, *(pod[field] for pod in pods))
    containers = [pod["containers"][0] for pod in pods]
    for field in ["image", "livenessProbe", "readinessProbe", "resources", "securityContext", "volumeMounts"]:
        same(field, *(container[field] for container in containers))
    for field in ["policyTypes", "ingress", "egress"]:
        same(f"NetworkPolicy {field}", *(kinds["NetworkPolicy"]["spec"][field] for kinds in (publisher, workers)))
    same("serviceName", workers["Service"]["metadata"]["name"], statefulset["serviceName"])
    same("replicas, which KEDA sets", None, statefulset.get("replicas"))

    # Publisher and workers read one file.
    maps = [kinds["ConfigMap"] for kinds in (publisher, workers)]
    same("ConfigMap", *(config["metadata"] for config in maps))
    without, config = (yaml.safe_load(config["data"]["users-sync.yaml"]) for config in maps)
    kafka = config["kafka"]
    same("users-sync.yaml without state and kafka", without,
         {key: value for key, value in config.items() if key not in ["state", "kafka"]})
    same("partition_by", "tenant", kafka["partition_by"])
    # A container runtime sets HOSTNAME to the name of the pod.
    provided = workers["Secret"]["stringData"].keys() | {"HOSTNAME"}
    used = set(re.findall(r"\$\{(\w+)\}", maps[1]["data"]["users-sync.yaml"]))
    same("variables of users-sync.yaml", sorted(used | {"HOSTNAME"}), sorted(provided))

    scaled = workers["ScaledObject"]["spec"]
    same("scaleTargetRef", {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": workers["StatefulSet"]["metadata"]["name"]},
         scaled["scaleTargetRef"])
    same("maxReplicaCount", kafka["partitions"], scaled["maxReplicaCount"])
    (trigger,) = scaled["triggers"]
    same("type of the trigger", "kafka", trigger["type"])
    metadata = trigger["metadata"]
    for key, value in [("bootstrapServers", kafka["brokers"]), ("consumerGroup", kafka["group"]), ("topic", kafka["topic"]),
                       ("allowIdleConsumers", "false"), ("tls", "enable"),
                       ("sasl", kafka["properties"]["sasl.mechanism"].lower().replace("-sha-", "_sha"))]:
        same(f"{key} of the trigger", value, metadata.get(key))

    # What KEDA reads from the trigger and from its authentication, also whether it must be there.
    authentication = workers["TriggerAuthentication"]
    same("authenticationRef", {"name": authentication["metadata"]["name"]}, trigger["authenticationRef"])
    secrets = authentication["spec"]["secretTargetRef"]
    for given, readable in [(metadata.items(), "metadataVariableReadable"),
                            ([(secret["parameter"], None) for secret in secrets], "triggerAuthenticationVariableReadable")]:
        for key, value in given:
            parameter = parameters.get(key, {})
            if not parameter.get(readable):
                fault("kubernetes-apply: trigger", f"KEDA does not read {key} there")
            elif value is not None and value not in parameter.get("allowedValue", [value]):
                fault("kubernetes-apply: trigger", f"{key} is {value}, not one of {parameter['allowedValue']}")
    for key, parameter in parameters.items():
        if not parameter.get("optional") and "default" not in parameter and key not in metadata:
            fault("kubernetes-apply: trigger", f"{key} is missing")
    for secret in secrets:
        same(f"Secret of {secret['parameter']}", workers["Secret"]["metadata"]["name"], secret["name"])
        if secret["key"] not in workers["Secret"]["stringData"]:
            fault("kubernetes-apply: TriggerAuthentication", f"the Secret has no {secret['key']}")


def check_copies(manifests):
    """Alerts and board are those of the repository."""
    rule = next(manifest for manifest in manifests if manifest["kind"] == "PrometheusRule")
    if rule["spec"] != yaml.safe_load((ROOT / "docker/prometheus/rules.yml").read_text()):
        fault("everything", "PrometheusRule has other alerts than docker/prometheus/rules.yml")
    board = next(manifest for manifest in manifests if manifest["metadata"]["name"].endswith("-dashboard"))
    if json.loads(board["data"]["users-sync.json"]) != json.loads((ROOT / "docker/grafana/board.json").read_text()):
        fault("everything", "the dashboard is not docker/grafana/board.json")


def check_chart():
    """The version, and that no value is left out by the tests."""
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    (chart,) = documents(CHART / "Chart.yaml")
    if chart["appVersion"] != version:
        fault("Chart.yaml", f"appVersion is {chart['appVersion']}, the version in Cargo.toml is {version}")
    used = set().union(*(documents(path)[0] for path in (CHART / "ci").glob("*.yaml")))
    for key in documents(CHART / "values.yaml")[0].keys() - used:
        fault("values.yaml", f"no file in docker/helm/ci sets {key}")


def main():
    rendered, operator, keda, versions = *map(Path, sys.argv[1:4]), sys.argv[4:]
    operator_files, keda_files = operator / "example/prometheus-operator-crd", keda / "config/crd/bases"
    crds = crd_schemas([
        *(operator_files / f"monitoring.coreos.com_{kind}.yaml" for kind in ["servicemonitors", "prometheusrules"]),
        *(keda_files / f"keda.sh_{kind}.yaml" for kind in ["scaledobjects", "triggerauthentications"]),
    ])
    scalers = json.loads((keda / "schema/generated/scalers-schema.json").read_text())["scalers"]
    trigger = next(scaler for scaler in scalers if scaler["type"] == "kafka")
    schema = jsonschema.Draft202012Validator(json.loads((ROOT / "config/users-sync.schema.json").read_text()))
    checked = configurations = 0
    files = {path.stem: documents(path) for path in [*sorted(rendered.glob("*.yaml")), ROOT / "docker/kubernetes-apply.yaml"]}
    for name, manifests in files.items():
        for manifest in manifests:
            check_schema(f"{name}: {manifest['kind']}", manifest, crds, versions)
            checked += 1
    # The other checks expect objects of the right form.
    if faults:
        sys.exit("\n".join(faults))
    for name, manifests in files.items():
        for manifest in manifests:
            if "users-sync.yaml" in manifest.get("data", {}):
                check_configuration(f"{name}: users-sync.yaml", manifest["data"], schema)
                configurations += 1
        check_references(name, manifests)
    check_copies(files["everything"])
    check_manifest(rendered)
    check_apply({parameter["name"]: parameter for parameter in trigger["parameters"]})
    check_chart()
    if faults:
        sys.exit("\n".join(faults))
    print(f"schemas of Kubernetes {' and '.join(versions)}: {checked} objects; users-sync.yaml: {configurations}")


main()
