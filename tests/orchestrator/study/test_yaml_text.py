import pytest
import yaml

from orchestrator.study.problems import shown
from orchestrator.study.yaml_text import dump_yaml, load_yaml, yaml_fault


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0100", "octal in YAML 1.1 and decimal in YAML 1.2"),
        ("-0_17", "octal"),
        ("00", "octal"),
        ("1:30", "base 60 in YAML 1.1 and text in YAML 1.2"),
        ("+1:30.5", "base 60"),
    ],
)
def test_numbers_that_two_versions_of_yaml_read_differently_are_refused(
    number: str, words: str
) -> None:
    """Nobody who writes `steps: 0100` means 64, and nobody who writes `1:30` means 90."""
    with pytest.raises(yaml.YAMLError) as caught:
        load_yaml(f"seed: 1\nsteps: {number}\n")
    fault = yaml_fault(caught.value)
    assert fault.startswith("line 2, column 8: ")
    assert number in fault
    assert words in fault


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("0.10", 0.1),
        ("00.5", 0.5),
        ("100", 100),
        ("1_000", 1000),
        ("'0100'", "0100"),
        ("'1:30'", "1:30"),
        ("018", "018"),
        ("0x10", 16),
        ("2001:db8::1", "2001:db8::1"),
        ("head:6379", "head:6379"),
    ],
)
def test_other_numbers_and_texts_stay_as_they_are(written: str, value: object) -> None:
    """Zeros alone, quotes, and colons in addresses are no mistakes."""
    assert load_yaml(f"a: {written}") == {"a": value}


def test_merge_key_may_replace_a_field_of_a_mapping_that_stands_deeper() -> None:
    """The deeper mapping is read later, when its merged fields are among its own already."""
    text = """
low: {here: &b {<<: {lr: 1, steps: 2}, lr: 3}}
top: {<<: *b, steps: 4}
"""
    assert load_yaml(text)["top"] == {"lr": 3, "steps": 4}
    assert load_yaml(text)["low"]["here"] == {"lr": 3, "steps": 2}


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "{a: &m {x: 1}, b: {<<: *m, x: 2, x: 3}}"])
def test_field_that_is_written_twice_is_refused_beside_merge_keys_too(text: str) -> None:
    """The last one would win silently."""
    with pytest.raises(yaml.YAMLError, match="occurs twice"):
        load_yaml(text)


@pytest.mark.parametrize(
    "text", ["1e3", "0100", "1:30", "no", "null", "2024-01-01", "1.0", ".5e-3", "-1E+5", "", "a: b"]
)
def test_written_texts_are_read_as_the_same_texts(text: str) -> None:
    """PyYAML alone writes `1e3` without quotes, and YAML 1.2 reads a number."""
    values = {text: [text, 1e-05, 1e20, 3, True, None]}
    assert load_yaml(dump_yaml(values)) == values
    assert load_yaml(dump_yaml(values, default_flow_style=None, width=100)) == values


def test_date_is_shown_as_the_file_has_it() -> None:
    """A study that is named after a day has a date for a name."""
    assert shown(load_yaml("name: 2024-01-01")["name"]) == "2024-01-01"
