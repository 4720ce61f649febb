"""Fixtures that run external checkers, render overlays, and apply KubeRay's own schemas."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import kubernetes_validate
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEMAS = Path(__file__).parent / "vendored" / "kuberay"
KUBERNETES = "1.37"
OVERLAYS = ("cpu", "gpu", "cpu-job", "gpu-job")
Resource = dict[str, Any]


@pytest.fixture(scope="session")
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Returns a function that runs a binary installed by the development requirements."""

    def run(
        name: str,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        beside = Path(sys.executable).with_name(name)
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None and os.environ.get("CI") == "true":
            pytest.fail(f"no `{name}`: install the development requirements")
        if found is None:
            pytest.skip(f"no `{name}`")
        return subprocess.run(
            [found, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            env=None if environment is None else {**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def render(
    tool: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[[str], list[Resource]]:
    """Returns a function that renders an overlay's resources as kubectl would apply them."""

    @cache
    def text(overlay: str) -> str:
        ended = tool("kubectl", "kustomize", DEPLOY / "kuberay" / "overlays" / overlay)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return lambda overlay: list(yaml.load_all(text(overlay), yaml.CSafeLoader))


@pytest.fixture(scope="session")
def problems() -> Callable[[Resource], list[str]]:
    """Returns a function that lists the reasons why the API server would refuse a resource."""
    schemas = {
        (f"ray.io/{version['name']}", definition["spec"]["names"]["kind"]): version["schema"][
            "openAPIV3Schema"
        ]
        for path in SCHEMAS.glob("*.yaml")
        for definition in yaml.load_all(path.read_text("utf-8"), yaml.CSafeLoader)
        for version in definition["spec"]["versions"]
    }
    strict = {kind: _strict_validator(schema) for kind, schema in schemas.items()}

    def check(resource: Resource) -> list[str]:
        kind = (resource["apiVersion"], resource["kind"])
        if kind in schemas:
            whole = copy.deepcopy(resource)
            _set_defaults(whole, schema=schemas[kind])
            errors = [
                f"{each.json_path}: {each.message}" for each in strict[kind].iter_errors(whole)
            ]
            return errors or list(_broken_rules(whole, schema=schemas[kind], path="$"))
        try:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [str(error)]
        return []

    return check


def _strict_validator(schema: Resource) -> jsonschema.Draft202012Validator:
    translated = _strict(schema)
    translated["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return jsonschema.Draft202012Validator(translated)


def _strict(schema: Resource) -> Resource:
    """Translates a structural schema into a JSON schema that refuses unknown fields."""
    of_kubernetes = {name for name in schema if name.startswith("x-kubernetes-")}
    left_out = of_kubernetes | {"default", "description", "nullable", "format"}
    made: Resource = {name: each for name, each in schema.items() if name not in left_out}
    for name, each in made.items():
        if name == "properties":
            made[name] = {field: _strict(inner) for field, inner in each.items()}
        elif name in ("items", "additionalProperties") and isinstance(each, dict):
            made[name] = _strict(each)
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def _set_defaults(value: object, *, schema: Resource) -> None:
    """Adds the schema's defaults, as the API server does before it validates a resource."""
    if isinstance(value, list):
        for each in value:
            _set_defaults(each, schema=schema.get("items", {}))
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
        for name, each in value.items():
            _set_defaults(each, schema=_schema_of(name, schema=schema))


def _broken_rules(value: object, *, schema: Resource, path: str) -> Iterator[str]:
    """Yields the messages of broken CEL rules; skips rules that compare with an earlier version."""
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"]:
            environment = celpy.Environment()
            program = environment.program(environment.compile(rule["rule"]))
            if not program.evaluate({"self": celpy.json_to_cel(value)}):
                yield f"{path}: {rule['message']}"
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _broken_rules(each, schema=schema.get("items", {}), path=f"{path}[{number}]")
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _broken_rules(
                each, schema=_schema_of(name, schema=schema), path=f"{path}.{name}"
            )


def _schema_of(name: str, *, schema: Resource) -> Resource:
    others = schema.get("additionalProperties")
    found = schema.get("properties", {}).get(name, others if isinstance(others, dict) else {})
    return found if isinstance(found, dict) else {}
