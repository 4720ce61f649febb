import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator

from orchestrator.environment.ray_variables import MAX_RESOURCES_VARIABLE

CLOUDS = Path(__file__).parents[2] / "deploy" / "clouds"
both = pytest.mark.parametrize("cloud", ["aws", "gcp"])
Config = dict[str, Any]


def read(cloud: str) -> Config:
    config: Config = yaml.safe_load((CLOUDS / f"{cloud}.yaml").read_text("utf-8"))
    return config


@pytest.fixture(scope="module")
def problems() -> Callable[[Config], list[str]]:
    """Returns a function that lists the problems that Ray's launcher finds in a configuration."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    return lambda config: [
        f"{each.json_path}: {each.message}" for each in validator.iter_errors(config)
    ]


@both
def test_launcher_file_is_valid(cloud: str, problems: Callable[[Config], list[str]]) -> None:
    """Each launcher file meets the schema with which `ray up` checks it."""
    assert problems(read(cloud)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("max_worker", 20),
        ("max_workers", -1),
        ("upscaling_speed", "fast"),
        ("provider", {"region": "us-west-2"}),
        ("auth.ssh_password", "x"),
        ("docker.run_options", "--shm-size=8g"),
        ("docker.images", []),
        ("file_mounts", ["~/.ray/auth_token"]),
        ("head_start_ray_commands", "ray start"),
        ("available_node_types.gpu_spot.resources", {"GPU": 0.5}),
        ("available_node_types.gpu_spot.labels", {"capacity": 1}),
        ("available_node_types.gpu_spot.spot", True),
        ("available_node_types.gpu_spot.min_workers", "none"),
        ("available_node_types.head", {"resources": {}}),
    ],
    ids=str,
)
@both
def test_broken_field_is_found(
    cloud: str, path: str, value: object, problems: Callable[[Config], list[str]]
) -> None:
    """The schema finds wrong names and types at every depth that it describes."""
    config = read(cloud)
    *steps, last = path.split(".")
    place = config
    for step in steps:
        place = place[step]
    place[last] = value
    assert problems(config) != []


def ec2_problems(node_config: Config) -> str:
    """Returns the problems that the EC2 API would find in a node's configuration, as text."""
    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node_config}, shape)
    return str(report.generate_report())


def test_nodes_on_aws_are_what_its_api_takes() -> None:
    """Node configurations are valid for the EC2 API, to which Ray passes them unchecked."""
    types = read("aws")["available_node_types"]
    assert {
        name: ec2_problems(each["node_config"]) for name, each in types.items()
    } == dict.fromkeys(types, "")
    broken = types["gpu_spot"]["node_config"]
    assert "SpotType" in ec2_problems({**broken, "SpotType": "one-time"})
    assert "InstanceType" in ec2_problems({**broken, "InstanceType": 6})
    broken["BlockDeviceMappings"][0]["Ebs"]["Size"] = 200
    assert "Size" in ec2_problems(broken)


@both
def test_spot_nodes_are_tried_before_the_others(cloud: str) -> None:
    """Spot nodes have the higher priority; both kinds start with no node.

    The cluster's limit is the sum of both limits.
    """
    config = read(cloud)
    types = config["available_node_types"]
    spot, other = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["priority"] > other["priority"]
    assert [spot["min_workers"], other["min_workers"]] == [0, 0]
    assert config["max_workers"] == spot["max_workers"] + other["max_workers"]
    assert [("spot" in json.dumps(each["node_config"]).lower()) for each in (spot, other)] == [
        True,
        False,
    ]


@both
def test_every_node_notices_a_silent_host_and_asks_for_the_token(cloud: str) -> None:
    """Every node's container sends keepalives and requires the token, which comes as a file."""
    config = read(cloud)
    options = config["docker"]["run_options"]
    assert "--env RAY_grpc_client_keepalive_time_ms=10000" in options
    assert "--env RAY_grpc_client_keepalive_timeout_ms=10000" in options
    assert "--env RAY_AUTH_MODE=token" in options
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    assert any("--dashboard-host=127.0.0.1" in each for each in config["head_start_ray_commands"])
    text = (CLOUDS / f"{cloud}.yaml").read_text("utf-8")
    assert re.findall(r"(?i)AUTH_TOKEN=|SECRET_ACCESS_KEY|PASSWORD", text) == []


@both
def test_head_knows_what_its_groups_have_together(cloud: str) -> None:
    """The head's variable holds the sum of the node types' maximum resources.

    A driver submits as many trials as fit on the cluster at its maximum size.
    """
    config = read(cloud)
    total: dict[str, int] = {}
    for name, each in config["available_node_types"].items():
        if name != config["head_node_type"]:
            for resource, amount in each["resources"].items():
                total[resource] = total.get(resource, 0) + amount * each["max_workers"]
    (option,) = [each for each in config["docker"]["run_options"] if MAX_RESOURCES_VARIABLE in each]
    assert json.loads(option.partition("=")[2].strip("'")) == total
