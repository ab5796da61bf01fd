"""Checks the manifests that .ci/helm has rendered:

    helm-check.py RENDERED CRDS OLDEST NEWEST

Against the schemas of Kubernetes (both versions), the operator's definitions in CRDS, and that of users-sync.yaml; and
against the files that the chart must agree with: docker/kubernetes.yaml, rules.yml, board.json, values.yaml, Cargo.toml.
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


def crd_schemas(directory):
    schemas = {}
    for kind in ["servicemonitors", "prometheusrules"]:
        (crd,) = documents(directory / f"monitoring.coreos.com_{kind}.yaml")
        version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
        schema = closed(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[crd["spec"]["names"]["kind"]] = schema
    return schemas


def check_schema(name, manifest, crds, versions):
    if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
        for error in jsonschema.Draft202012Validator(crds[manifest["kind"]]).iter_errors(manifest):
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

    deployment = of("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    selectors = {"Deployment": deployment["selector"]["matchLabels"], "Service": of("Service")["spec"]["selector"]}
    for kind, field in [("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")]:
        if of(kind):
            selectors[kind] = of(kind)["spec"][field]["matchLabels"]
    if of("ServiceMonitor"):
        if not of("ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= of("Service")["metadata"]["labels"].items():
            fault(name, "the ServiceMonitor does not select the Service")
    for kind, selector in selectors.items():
        if not selector.items() <= labels:
            fault(name, f"the {kind} does not select the pods")
    for probe in ["livenessProbe", "readinessProbe"]:
        if container[probe]["httpGet"]["port"] not in ports:
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
    rendered, crds, versions = Path(sys.argv[1]), crd_schemas(Path(sys.argv[2])), sys.argv[3:]
    schema = jsonschema.Draft202012Validator(json.loads((ROOT / "config/users-sync.schema.json").read_text()))
    checked = configurations = 0
    files = {path.stem: documents(path) for path in sorted(rendered.glob("*.yaml"))}
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
    check_chart()
    if faults:
        sys.exit("\n".join(faults))
    print(f"schemas of Kubernetes {' and '.join(versions)}: {checked} objects; users-sync.yaml: {configurations}")


main()
