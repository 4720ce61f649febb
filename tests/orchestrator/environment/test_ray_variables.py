import os
from pathlib import Path

import pytest

from orchestrator.environment.problems import VariableError
from orchestrator.environment.ray_variables import (
    auth_mode,
    check_ray_variables,
    has_token,
    max_resources,
    ray_address,
)


@pytest.mark.parametrize("text", [None, "", "local", " local "])
def test_ray_is_a_runs_own_without_an_address(text: str | None) -> None:
    """An empty variable says nothing, as for Ray's own commands."""
    assert ray_address({} if text is None else {"RAY_ADDRESS": text}) is None


@pytest.mark.parametrize(
    "text", ["auto", "10.0.0.1:6379", "head:6379", "[::1]:6379", "ray-head.default.svc:6379"]
)
def test_address_of_a_head_is_taken(text: str) -> None:
    """A host with a port, or the word for a Ray on this machine."""
    assert ray_address({"RAY_ADDRESS": f"{text}\n"}) == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("head", "not the address of a Ray head"),
        ("head:", "not the address of a Ray head"),
        ("head:ray", "not the address of a Ray head"),
        ("head:0", "not the address of a Ray head"),
        ("head:99999", "not the address of a Ray head"),
        (":6379", "not the address of a Ray head"),
        ("::1:6379", "not the address of a Ray head"),
        ("head:6379/", "not the address of a Ray head"),
        ("redis://head:6379", "not the address of a Ray head"),
        ("a b:6379", "not the address of a Ray head"),
        ("http://127.0.0.1:8265", "the address of a dashboard, which `mergesweep submit"),
        ("https://head", "the address of a dashboard, which `mergesweep submit"),
        ("ray://head:10001", "an address of Ray Client"),
    ],
)
def test_another_address_is_refused(text: str, fault: str) -> None:
    """The message has the value, an example of a right one, and the way without the variable."""
    with pytest.raises(VariableError) as caught:
        ray_address({"RAY_ADDRESS": text})
    message = str(caught.value)
    assert message.startswith(f"RAY_ADDRESS is {text!r}, ")
    assert fault in message
    assert "10.0.0.1:6379" in message
    assert "`unset RAY_ADDRESS`" in message


def test_size_of_a_growing_cluster_is_read() -> None:
    """Names are Ray's, and custom resources are allowed."""
    assert max_resources({}) == max_resources({"MERGESWEEP_MAX_RESOURCES": " "}) == {}
    text = '{"CPU": 160, "GPU": 2.5, "spot": 0}'
    assert max_resources({"MERGESWEEP_MAX_RESOURCES": text}) == {"CPU": 160, "GPU": 2.5, "spot": 0}


@pytest.mark.parametrize(
    "text",
    [
        *("x", "160", "[160]", "null", "{'CPU': 160}", '{"CPU": 160', "[" * 9999),
        *('{"CPU": "160"}', '{"CPU": true}', '{"CPU": -1}', '{"CPU": NaN}', '{"CPU": 1e999}'),
    ],
)
def test_other_sizes_are_refused(text: str) -> None:
    """Everything but an object of numbers."""
    with pytest.raises(VariableError, match=r"^MERGESWEEP_MAX_RESOURCES is .* not a JSON object"):
        max_resources({"MERGESWEEP_MAX_RESOURCES": text})


def test_misspelt_resource_is_refused() -> None:
    """Ray's names are case-sensitive, and an unknown one would be ignored silently."""
    with pytest.raises(VariableError, match="cpu must be written CPU"):
        max_resources({"MERGESWEEP_MAX_RESOURCES": '{"cpu": 160}'})


def test_mode_of_authentication_is_one_of_rays() -> None:
    """Ray ignores other words, and would then send no token."""
    assert auth_mode({}) is None
    assert auth_mode({"RAY_AUTH_MODE": "Token"}) == "token"
    with pytest.raises(VariableError, match="'on', which is not a mode of Ray's authentication"):
        auth_mode({"RAY_AUTH_MODE": "on"})


def test_token_is_given_by_itself_or_in_a_file() -> None:
    """An empty variable gives none."""
    assert not has_token({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""})
    assert has_token({"RAY_AUTH_TOKEN": "x"})
    assert has_token({"RAY_AUTH_TOKEN_PATH": "/x"})


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """A line each."""
    (tmp_path / "empty").touch()
    with pytest.raises(VariableError) as caught:
        check_ray_variables(
            {
                "RAY_ADDRESS": "head",
                "MERGESWEEP_MAX_RESOURCES": "x",
                "RAY_AUTH_MODE": "on",
                "RAY_AUTH_TOKEN_PATH": str(tmp_path / "empty"),
            }
        )
    names = [line.split()[0] for line in str(caught.value).splitlines()]
    assert names == [
        "RAY_ADDRESS",
        "MERGESWEEP_MAX_RESOURCES",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
    ]


def test_setting_that_ray_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would end with a segmentation fault and no message; other settings are not blamed."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_ray_variables({**os.environ, "RAY_health_check_period_ms": "2000"})
    bad = {"RAY_health_check_period_ms": "x", "RAY_num_heartbeats_timeout": "5"}
    with pytest.raises(VariableError, match=r"^RAY_health_check_period_ms is 'x', .*`unset RAY_he"):
        check_ray_variables({**os.environ, **bad})


def test_credentials_in_an_address_are_not_shown() -> None:
    """Messages end in logs."""
    with pytest.raises(VariableError) as caught:
        ray_address({"RAY_ADDRESS": "redis://user:secret@head:6379"})
    assert "secret" not in str(caught.value)


def test_this_environment_is_usable() -> None:
    """The tests' own environment has no problem, so that a problem in a test is the test's."""
    usable = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    check_ray_variables(usable)
    with pytest.raises(VariableError):
        check_ray_variables({**usable, "RAY_ADDRESS": "head"})


def test_node_id_that_ray_cannot_read_is_refused() -> None:
    """Ray would wait for ever; an id as its tests give it passes."""
    name = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
    with pytest.raises(VariableError, match=f"{name} is 'x', .*`unset {name}`"):
        check_ray_variables({name: "x"})
    check_ray_variables({name: "f" * 51 + "0" * 5})
