import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.environment.ray_variables import MAX_RESOURCES_VARIABLE
from orchestrator.study.reader import parse_study

HERE = Path(__file__).parent
DEPLOY = HERE.parents[1] / "deploy"
OVERLAYS = ("cpu", "gpu", "cpu-job", "gpu-job")
SECRETS = {"ray-auth", "s3-credentials", "postgres"}
"""The secrets that users create by hand, as deploy/README.md says; no manifest contains them."""
KEEPALIVES = {
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}
Resource = dict[str, Any]
Render = Callable[[str], list[Resource]]
Problems = Callable[[Resource], list[str]]
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def one(resources: list[Resource], kind: str) -> Resource:
    (found,) = [each for each in resources if each["kind"] == kind]
    return found


def cluster_of(resources: list[Resource]) -> Resource:
    jobs = [each for each in resources if each["kind"] == "RayJob"]
    spec: Resource = (
        jobs[0]["spec"]["rayClusterSpec"] if jobs else one(resources, "RayCluster")["spec"]
    )
    return spec


def dicts_in(value: object) -> Iterator[Resource]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from dicts_in(each)
    if isinstance(value, list):
        for each in value:
            yield from dicts_in(each)


def pods_in(resources: list[Resource]) -> list[Resource]:
    return [each for each in dicts_in(resources) if "containers" in each]


def settings_of(resources: list[Resource], container: Resource) -> dict[str, str]:
    maps = {each["metadata"]["name"]: each["data"] for each in resources if "data" in each}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps.get(source.get("configMapRef", {}).get("name"), {})
    return found


@every_overlay
def test_every_manifest_is_valid(overlay: str, render: Render, problems: Problems) -> None:
    """Every manifest meets KubeRay's schemas and CEL rules or Kubernetes' own strict schemas."""
    found = {
        f"{each['kind']} {each['metadata']['name']}": problems(each) for each in render(overlay)
    }
    assert len(found) > 10
    assert {name: each for name, each in found.items() if each} == {}


CLUSTER = "RayCluster"
JOB = "RayJob"
GROUP = "spec.workerGroupSpecs.0"
CONTAINER = f"{GROUP}.template.spec.containers.0"
OLD_AND_NEW = {"onSuccess": {"policy": "DeleteSelf"}, "onFailure": {"policy": "DeleteSelf"}}
RULES = [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 1}}]
TWO_CONDITIONS = [
    {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}
]
BROKEN = [
    (CLUSTER, "spec.rayVersion", 2.6, "not of type 'string'"),
    (CLUSTER, "spec.authOptions.mode", "open", "not one of"),
    (CLUSTER, "spec.authOptions.secret", "ray-auth", "'secret' was unexpected"),
    (CLUSTER, "spec.autoscalerOptions.version", "v3", "not one of"),
    (CLUSTER, "spec.autoscalerOptions.upscalingMode", "Fast", "not one of"),
    (CLUSTER, "spec.managedBy", "nobody", "managedBy field value must be"),
    (CLUSTER, "spec.headGroupSpec", None, "not of type 'object'"),
    (CLUSTER, f"{GROUP}.maxReplica", 3, "'maxReplica' was unexpected"),
    (CLUSTER, f"{GROUP}.minReplicas", "two", "not of type 'integer'"),
    (CLUSTER, f"{GROUP}.rayStartParams", {"num-gpus": 1}, "not of type 'string'"),
    (CLUSTER, f"{GROUP}.template.spec.nodeSelectors", {}, "'nodeSelectors' was unexpected"),
    (CLUSTER, f"{CONTAINER}.resources.limits", {"memory": "32 GB"}, "does not match"),
    (CLUSTER, f"{CONTAINER}.envFrom", {"configMapRef": {}}, "not of type 'array'"),
    (CLUSTER, f"{CONTAINER}.ports.0.containerPort", "8080", "not of type 'integer'"),
    (JOB, "spec.backoffLimit", "three", "not of type 'integer'"),
    (JOB, "spec.entryPoint", "mergesweep run", "'entryPoint' was unexpected"),
    (JOB, "spec.rayClusterSpec.enableInTreeAutoscaling", "yes", "not of type 'boolean'"),
    (JOB, "spec.deletionStrategy", {}, "requires either BOTH onSuccess and onFailure"),
    (
        JOB,
        "spec.deletionStrategy",
        OLD_AND_NEW | {"deletionRules": RULES},
        "cannot be used together",
    ),
    (JOB, "spec.deletionStrategy", {"deletionRules": TWO_CONDITIONS}, "cannot be used together"),
    ("Deployment", "spec.replicas", "one", "replicas"),
    ("Deployment", "spec.template.spec.securityContext.runAsNonroot", True, "runAsNonroot"),
    ("StatefulSet", "spec.selector.matchLabel", {}, "matchLabel"),
    ("NetworkPolicy", "spec.policyTypes", "Ingress", "policyTypes"),
    ("Service", "spec.ports.0.port", "http", "port"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: f"{each[0]} {each[1]}")
def test_broken_field_is_found(
    broken: tuple[str, str, object, str], render: Render, problems: Problems
) -> None:
    """The check finds wrong types, names, choices and quantities at any depth, and broken rules."""
    kind, path, value, message = broken
    resource = next(
        each for each in render("gpu-job" if kind == JOB else "gpu") if each["kind"] == kind
    )
    assert problems(resource) == []
    *steps, last = path.split(".")
    place: Any = resource
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value
    assert any(message in each for each in problems(resource)), problems(resource)


@pytest.mark.parametrize(("job", "cluster"), [("cpu-job", "cpu"), ("gpu-job", "gpu")])
def test_job_has_the_cluster_of_its_overlay_and_no_other(
    job: str, cluster: str, render: Render
) -> None:
    """A job's overlay takes its cluster from the cluster's overlay and starts no second cluster."""
    assert cluster_of(render(job)) == one(render(cluster), "RayCluster")["spec"]
    assert "RayCluster" not in [each["kind"] for each in render(job)]


@every_overlay
def test_every_ray_process_notices_a_silent_host(overlay: str, render: Render) -> None:
    """Head, workers and autoscaler all send keepalives: on one side alone they would half help."""
    resources = render(overlay)
    cluster = cluster_of(resources)
    containers = [cluster["autoscalerOptions"]]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        containers += group["template"]["spec"]["containers"]
    assert len(containers) == 4
    for container in containers:
        assert settings_of(resources, container).items() >= KEEPALIVES.items()


@every_overlay
def test_spot_nodes_are_tried_before_the_others(overlay: str, render: Render) -> None:
    """Spot nodes have the higher priority; otherwise only the node selector of the groups differs.

    Both groups start with no node.
    """
    spot, other = cluster_of(render(overlay))["workerGroupSpecs"]
    assert spot["priority"] > other["priority"]
    assert [spot["minReplicas"], other["minReplicas"]] == [0, 0]
    places = [each["template"]["spec"].pop("nodeSelector") for each in (spot, other)]
    assert places == [{"karpenter.sh/capacity-type": each} for each in ("spot", "on-demand")]
    assert spot["template"] == other["template"]


@every_overlay
def test_head_knows_what_its_groups_have_together(overlay: str, render: Render) -> None:
    """The head's variable holds the sum of the worker groups' maximum resources.

    A driver submits as many trials as fit on the cluster at its maximum size.
    """
    resources = render(overlay)
    cluster = cluster_of(resources)
    total: dict[str, int] = {}
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for name, key in (("CPU", "cpu"), ("GPU", "nvidia.com/gpu")):
            if key in limits:
                total[name] = total.get(name, 0) + int(limits[key]) * group["maxReplicas"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert json.loads(settings_of(resources, head)[MAX_RESOURCES_VARIABLE]) == total


@every_overlay
def test_secrets_are_named_and_never_written(overlay: str, render: Render) -> None:
    """Manifests refer to secrets by name and contain no Secret and no secret variable's value."""
    resources = render(overlay)
    assert "Secret" not in [each["kind"] for each in resources]
    named = {each["secretRef"]["name"] for each in dicts_in(resources) if "secretRef" in each}
    named |= {
        each["secretKeyRef"]["name"] for each in dicts_in(resources) if "secretKeyRef" in each
    }
    named.add(cluster_of(resources)["authOptions"]["secretName"])
    assert named == SECRETS
    for each in dicts_in(resources):
        if re.search(r"(?i)password|token|secret|access_key", str(each.get("name", ""))):
            assert "value" not in each
    readme = (DEPLOY / "README.md").read_text("utf-8")
    assert [name for name in SECRETS if f"generic {name}" not in readme] == []


@every_overlay
def test_cluster_asks_for_a_token(overlay: str, render: Render) -> None:
    """The cluster's dashboard and Jobs API require a token."""
    assert cluster_of(render(overlay))["authOptions"] == {"mode": "token", "secretName": "ray-auth"}


@every_overlay
def test_no_pod_has_rights_or_resources_without_limit(overlay: str, render: Render) -> None:
    """Every pod meets Kubernetes' restricted security profile and has CPU and memory limits."""
    pods = pods_in(render(overlay))
    assert len(pods) == 5
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            assert ":" in container["image"]


@every_overlay
def test_what_pods_take_their_settings_from_is_there(overlay: str, render: Render) -> None:
    """Every ConfigMap that a pod refers to is in the overlay; without it the pod does not start."""
    resources = render(overlay)
    made = {each["metadata"]["name"] for each in resources if each["kind"] == "ConfigMap"}
    wanted = {
        each["configMapRef"]["name"] for each in dicts_in(resources) if "configMapRef" in each
    }
    assert wanted <= made
    assert ("study" in made) is overlay.endswith("-job")


@every_overlay
def test_network_policies_select_pods_that_exist(overlay: str, render: Render) -> None:
    """Every network policy selects labels of existing pods; otherwise it would protect nothing."""
    resources = render(overlay)
    by_operator = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}
    labels = set(by_operator.items())
    for each in dicts_in(resources):
        labels |= set(each.get("template", {}).get("metadata", {}).get("labels", {}).items())
    policies = [each["spec"] for each in resources if each["kind"] == "NetworkPolicy"]
    selected = [each["podSelector"].get("matchLabels", {}) for each in policies]
    assert {} in selected
    assert [each for each in selected if not each.items() <= labels] == []


STUDIES = [*DEPLOY.glob("kuberay/**/study.yaml"), *DEPLOY.glob("compose/studies/*.yaml")]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_study_of_a_deployment_fits_it(path: Path, tmp_path: Path) -> None:
    """A study uses its deployment's bucket and MLflow server, and GPUs if there are any."""
    text = path.read_text("utf-8")
    study = parse_study(text, source=str(path), store=str(tmp_path))
    assert yaml.safe_load(text)["store"] == "s3://mergesweep/studies"
    assert study.tracking == "http://mlflow:5000"
    assert (study.resources.trial.gpu > 0) is (path.parent.name == "gpu-job")


def test_vendored_schemas_are_as_they_were_published() -> None:
    """The schemas have their published hashes: an edited schema could hide a wrong manifest."""
    folder = HERE / "vendored" / "kuberay"
    readme = (folder / "README.md").read_text("utf-8")
    for path in folder.glob("*.yaml"):
        assert f"| `{path.name}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |" in readme
