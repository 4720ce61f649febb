from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.study.problems import StudyError
from orchestrator.study.reader import absolute_store, parse_study, read_study
from orchestrator.study.schema import Study

Fields = Callable[..., dict[str, Any]]


def problems_of(text: str) -> dict[str, str]:
    """Returns fault and remedy of each problem, by field."""
    with pytest.raises(StudyError) as caught:
        parse_study(text, source="study.yaml")
    return {each.field: f"{each.fault} | {each.remedy}" for each in caught.value.problems}


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 0.0001), ("1E-4", 0.0001), ("1.5e-3", 0.0015), (".5e-3", 0.0005), ("2", 2.0)],
)
def test_numbers_are_those_of_yaml_1_2(study_fields: Fields, written: str, value: float) -> None:
    """PyYAML alone reads `1e-4` as a string; a whole number becomes a float in a float's field."""
    fields = yaml.safe_dump({key: v for key, v in study_fields().items() if key != "finetune"})
    study = parse_study(f"{fields}\nfinetune: {{defaults: {{lr: {written}}}}}", source="s")
    assert study.finetune.defaults.lr == value
    assert type(study.finetune.defaults.lr) is float


def test_word_that_only_looks_like_a_number_stays_a_word(study_fields: Fields) -> None:
    """The added pattern must not take names such as `e5` or `1e`."""
    text = yaml.safe_dump(study_fields()).replace("name: small", "name: 1e")
    assert parse_study(text, source="s").name == "1e"


def test_suite_and_list_are_short_for_tasks(make_study: Callable[..., Study]) -> None:
    """`tasks: SUITE` is the whole suite, `tasks: [...]` the names."""
    assert len(make_study(tasks="embedded8").task_names) == 8
    assert len(make_study(tasks="embedded20").task_names) == 20
    assert make_study(tasks=["mnist_m", "mnist_5k"]).task_names == ("mnist_m", "mnist_5k")
    chosen = make_study(tasks={"suite": "embedded8", "names": ["mnist_m", "mnist_5k"]})
    assert chosen.task_names == ("mnist_m", "mnist_5k")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
"""Each line stands for ten times as many values as the line before."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it contains nothing; expected a mapping of fields"),
        ("- a\n- b\n", "it contains a list; expected a mapping"),
        ("just words", "it contains only text; expected a mapping"),
        (
            "name: [1, 2",
            "it cannot be parsed as YAML; line 1, column 12: while parsing a flow sequence: ",
        ),
        ("name: a\n\tseed: 1\n", "line 2, column 1: while scanning for the next token: found "),
        ("name: a\nname: b\n", "line 2, column 1: the field 'name' occurs twice"),
        ("a: {b: 1, c: 2, b: 3}\n", "the field 'b' occurs twice"),
        ("name: !!python/name:os.system\n", "cannot be parsed as YAML"),
        (
            "name: 2001-99-99\n",
            "column 7: the value cannot be read: month must be in 1..12",
        ),
        (f"seed: {'1' * 5000}\n", "line 1, column 7: the value cannot be read: Exceeds the limit"),
        ("seed: !!int x\n", "line 1, column 7: the value cannot be read: invalid literal"),
        ('name: "a\\udc80"\n', r"line 1, column 7: the character '\udc80' is not allowed"),
        ('"a\\0": 1\n', r"line 1, column 1: the character '\x00' is not allowed"),
        ("name: &a [*a]\n", "line 1, column 7: the value contains itself by an alias"),
        ("[" * 1200, "line 1, column 101: it is nested too deeply"),
        ("? " + "[" * 99 + "]" * 99 + "\n: 1\n", "line 1, column 3: while constructing a mapping"),
        (BOMB, "it stands for more than 100,000 values"),
        ("name: a\n---\nname: b\n", "expected a single document in the stream: but found another"),
    ],
)
def test_text_that_is_no_mapping_is_one_problem(text: str, expected: str) -> None:
    """The message tells an empty file, a list, text and broken YAML apart."""
    with pytest.raises(StudyError, match=r"study\.yaml: 1 problem") as caught:
        parse_study(text, source="study.yaml")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "it cannot be read; No such file or directory"),
        (
            b"seed: 0\nname: \xff\xfe",
            "it is not UTF-8 text; line 2 has the byte 0xff; save the file as UTF-8",
        ),
        (b"#" * 2**20 + b"#", "it is too large; a study file has at most 1,048,576 bytes"),
    ],
)
def test_file_that_cannot_be_read_is_a_problem_with_its_path(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    """A missing file, a file that is not text and a huge one are named."""
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=r"study\.yaml") as caught:
        read_study(path)
    assert str(caught.value.problems[0]) == f"(file): {said}"


def test_file_that_never_ends_is_refused() -> None:
    """No more of it is read than a study file may have."""
    with pytest.raises(StudyError, match="it is too large"):
        read_study(Path("/dev/zero"))


CLIP = {"model": "vit_base_patch32_clip_224.openai", "weights": "none"}
OPENAI = {"model": "ViT-B-32", "weights": "openai"}
TASKS = ("emoji_objects", "font_letters", "mnist_5k")
LISTED = {"design": "listed", "points": [{"lr": 0.1}]}
RANDOM = {"finetune": {"axes": {"lr": [0.1, 0.2]}, "design": "random"}}


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"name": "Upper"}, "name", "'Upper'"),
        ({"name": 123}, "name", "a number, a date, true or false is text only in quotes"),
        ({"name": "../up"}, "name", "'../up'"),
        ({"name": "a\n"}, "name", "expected 1 to 63 lower-case letters, digits"),
        ({"seed": True}, "seed", "true is not allowed | expected a whole number"),
        ({"seed": -1}, "seed", "-1 is not allowed | expected 0 or more"),
        ({"seed": 2**63}, "seed", "expected less than 9223372036854775808"),
        ({"groups": {"size": 0}}, "groups.size", "expected 1 or more"),
        (
            {"groups": {"sizes": [2, 4]}},
            "groups.sizes[1]",
            "the study has 3 tasks, so a group has at most 3",
        ),
        ({"groups": {"size": 1.0}}, "groups.size", "1.0 is not allowed | expected a whole number"),
        (
            {"groups": {"size": 3}, "merge": [{"method": "average"}, {"method": "slerp"}]},
            "groups.size",
            "merge[1] (slerp) merges exactly 2 experts; expected 2",
        ),
        (
            {"groups": {"sizes": [2, 3]}, "merge": [{"method": "slerp"}]},
            "groups.sizes[1]",
            "merge[0] (slerp) merges exactly 2 experts; expected 2",
        ),
        (
            {"merge": [{"method": "weighted_average", "weights": [1, 2, 1]}]},
            "groups.size",
            "merge[0] (weighted_average) merges exactly 3 experts; expected 3",
        ),
        ({"tasks": []}, "tasks", "give a suite, a list of task names, or tasks of your own"),
        (
            {"tasks": "/data/pets"},
            "tasks",
            "'/data/pets' is not allowed | data of your own go under tasks.own, such as",
        ),
        ({"tasks": ["mnist_5k", "./pets"]}, "tasks[1]", "go under tasks.own"),
        ({"tasks": {"suite": "/data/pets"}}, "tasks.suite", "go under tasks.own"),
        ({"tasks": {"names": ["/data/pets", "mnist_5k"]}}, "tasks.names[0]", "go under tasks.own"),
        (
            {"tasks": "embedded9"},
            "tasks",
            "'embedded9' is not allowed | did you mean 'embedded8'? Known suites: embedded8, ",
        ),
        ({"tasks": ["mnist_5k", "mnist_5k"]}, "tasks", "repeated: mnist_5k"),
        (
            {"tasks": {"suite": "embedded8", "names": ["mnist_5k", "mnist"]}},
            "tasks.names[1]",
            "'mnist' is not allowed | did you mean 'mnist_m'? Known tasks: ",
        ),
        (
            {"finetune": {"axes": {"lrr": [0.1]}}},
            "finetune.axes.lrr",
            "unknown field | did you mean",
        ),
        ({"finetune": {"axes": {"lr": []}}}, "finetune.axes.lr", "at least one entry"),
        ({"finetune": {"axes": {"lr": 0.1}}}, "finetune.axes.lr", "a list, such as [0.1]"),
        ({"merge": "ties"}, "merge", "a list, such as [{method: ties}]"),
        ({"merge": {"method": "ties"}}, "merge", "a list, such as [{method: ties}]"),
        ({"merge": ["ties"]}, "merge[0]", "a mapping of fields, such as {method: ties}"),
        ({"backbone": "resnet18"}, "backbone", "such as {model: resnet18}"),
        ({"finetune": {"axes": {"lr": [1, 1.0]}}}, "finetune.axes.lr", "repeated: 1.0"),
        ({"finetune": {"axes": {"lr": [0.1, 100]}}}, "finetune.axes.lr[1]", "less than 100"),
        ({"finetune": {"axes": {"steps": [1, "2"]}}}, "finetune.axes.steps[1]", "'2' is not"),
        ({"finetune": {"axes": {"data_ratio": [0]}}}, "finetune.axes.data_ratio[0]", "than 0"),
        ({"finetune": {"axes": {"data_ratio": [1.1]}}}, "finetune.axes.data_ratio[0]", "1 or less"),
        (
            {"finetune": {"defaults": {"batch_size": 0}}},
            "finetune.defaults.batch_size",
            "1 or more",
        ),
        ({"finetune": {"design": "grid"}}, "finetune.design", "needs at least one axis"),
        ({"finetune": {"design": "random"}}, "finetune.design", "needs at least one axis"),
        ({"finetune": {"draws": 3}}, "finetune.draws", "only the random design draws"),
        ({"finetune": {"design": "listed"}}, "finetune.design", "needs finetune.points"),
        (
            {"finetune": {"points": [{"lr": 0.1}]}},
            "finetune.points",
            "the design one-factor has no listed points | set `design: listed`",
        ),
        (
            {"finetune": {**LISTED, "axes": {"lr": [0.1]}}},
            "finetune.axes",
            "the listed design has no axes",
        ),
        (
            {"finetune": {"design": "listed", "points": [{"rate": 0.1}]}},
            "finetune.points[0]",
            "rate: unknown; known hyperparameters: lr, batch_size",
        ),
        (
            {"finetune": {"design": "listed", "points": [{"lr": 0.1}, {"steps": 0}]}},
            "finetune.points[1]",
            "steps: 0 is not allowed",
        ),
        (
            {"finetune": {"design": "listed", "points": [{"lr": 0.1}, {"lr": 0.1}]}},
            "finetune.points",
            "list every value once",
        ),
        (
            {"backbone": {"axes": {"model": ["resnet18"]}, "weights": "none"}, "finetune": LISTED},
            "finetune.design",
            "listed points have one base",
        ),
        (
            {"finetune": {"optimizer": {"weight_decay": float("inf")}}},
            "finetune.optimizer.weight_decay",
            "inf is not allowed | expected a finite number",
        ),
        (
            {"finetune": {"optimizer": {"momentum": 1}}},
            "finetune.optimizer.momentum",
            "less than 1",
        ),
        ({"finetune": {"optimizer": {"name": "lion"}}}, "finetune.optimizer.name", "sgd, adam"),
        ({"finetune": None}, "finetune", "null is not allowed | expected a mapping"),
        ({"merge": []}, "merge", "at least one entry"),
        ({"merge": [{"metod": "ties"}]}, "merge[0].method", "missing | add it"),
        (
            {"merge": [{"method": "ties", "densty": 1}]},
            "merge[0].densty",
            "unknown parameter of ties | ",
        ),
        (
            {"merge": [{"method": "ties", "density": True}]},
            "merge[0].density",
            "true is not allowed | expected a number",
        ),
        ({"merge": [{"method": "average", "scaling": 1}]}, "merge[0].scaling", "no parameters"),
        (
            {"merge": [{"method": "average", "batch_norm": "none"}]},
            "merge[0].batch_norm",
            "known values: average, pooled",
        ),
        (
            {"merge": [{"method": "average", "surgery": {"rnk": 8}}]},
            "merge[0].surgery.rnk",
            "did you mean 'rank'",
        ),
        ({"merge": [{"method": "average", "surgery": {"rank": 0}}]}, "merge[0].surgery.rank", "1"),
        ({"merge": [{"method": "average", "surgery": True}]}, "merge[0].surgery", "true is not"),
        ({"merge": [{"method": "ties", "label": "it's"}]}, "merge[0].label", "without ' "),
        (
            {"merge": [{"method": "ties"}, {"method": "ties"}]},
            "merge[1]",
            "the same merge as merge[0]",
        ),
        (
            {"merge": [{"method": "ties"}, {"method": "average", "label": "ties"}]},
            "merge[1]",
            "the label 'ties' is that of merge[0] | give one of them another",
        ),
        ({"backbone": {"model": "resnet18"}}, "backbone.weights", "no Python package contains"),
        (
            {"backbone": {"model": "resnet18", "weights": "no/such.pth"}},
            "backbone.weights",
            "'no/such.pth' is not allowed | expected package, timm, none, the path",
        ),
        (
            {"backbone": {"weights": 3}},
            "backbone.weights",
            "3 is not allowed | expected one source of weights, or a mapping",
        ),
        (
            {"backbone": {"model": "resnet18", "weights": {}}},
            "backbone.weights",
            "no weights for the model 'resnet18' | add an entry for every model",
        ),
        (
            {
                "backbone": {
                    "model": "resnet18",
                    "weights": {"resnet18": "none", "resnet50": "none"},
                }
            },
            "backbone.weights.resnet50",
            "unknown model | did you mean 'resnet18'?",
        ),
        (
            {"backbone": {"axes": {"model": ["tf_efficientnet_lite0", "resnet18"]}}},
            "backbone.axes.model[1]",
            "'package' is not allowed | no Python package contains weights for 'resnet18'",
        ),
        (
            {"backbone": {"axes": {"weights": ["none", "gone.pth"]}}},
            "backbone.axes.weights[1]",
            "'gone.pth' is not allowed | expected package, timm, none, the path of an existing",
        ),
        (
            {"backbone": {"axes": {"pretrain_steps": [0, 10]}}},
            "backbone.axes.pretrain_steps",
            "[0, 10] is not allowed | add backbone.pretrain",
        ),
        (
            {"backbone": {"axes": {"steps": [1]}}},
            "backbone.axes.steps",
            "known fields: model, weights",
        ),
        (
            {"backbone": {"axes": {"model": ["resnet18"]}, "weights": "none"}, **RANDOM},
            "finetune.design",
            "experts of different bases cannot be merged",
        ),
        ({"backbone": {"pretrain": {"steps": 1}}}, "backbone.pretrain.tasks", "missing | "),
        (
            {"backbone": {"pretrain": {"tasks": [], "steps": 1}}},
            "backbone.pretrain.tasks",
            "[] is not allowed | expected the name of a suite or a list",
        ),
        (
            {"backbone": {"pretrain": {"tasks": ["mnist_9"], "steps": 1}}},
            "backbone.pretrain.tasks[0]",
            "'mnist_9' is not allowed | did you mean",
        ),
        (
            {"backbone": {"pretrain": {"tasks": "embedded9", "steps": 1}}},
            "backbone.pretrain.tasks",
            "'embedded9' is not allowed | did you mean 'embedded8'?",
        ),
        (
            {"backbone": {"pretrain": {"tasks": "embedded8", "steps": -1}}},
            "backbone.pretrain.steps",
            "-1 is not allowed | expected 0 or more",
        ),
        *(
            ({"backbone": {"weights": url}}, "backbone.weights", said)
            for url, said in (
                ("gs://bucket/x.pth", "the URL names no object in a bucket; give s3://bucket/key"),
                ("s3://bucket", "the URL names no object in a bucket"),
                (
                    "s3://bucket/x.onnx",
                    "x.onnx is not a checkpoint: its name must end in .safe",
                ),
                ("s3://bucket/x.pth#sha256=12", "'sha256=12' is not a sha256 digest"),
                ("s3://me:secret@bucket/x.pth", "has credentials in its URL"),
                ("s3://bucket/x.pth?region=a", "unknown parameter region"),
            )
        ),
        (
            {"backbone": CLIP, "finetune": {"zero_shot": {"model": "ViT-B-32", "weights": "a.pt"}}},
            "finetune.zero_shot.weights",
            "'a.pt' is not allowed | expected one of open_clip's tags, or the path",
        ),
        (
            {"finetune": {"zero_shot": {"model": "ViT-B-32", "weights": "openai"}}},
            "finetune.zero_shot",
            "the backbone 'test_resnet' is not the image tower of a CLIP model",
        ),
        *(
            ({"backbone": CLIP, "finetune": {"zero_shot": {**OPENAI, **changes}}}, field, said)
            for changes, field, said in (
                ({"templates": []}, "finetune.zero_shot.templates", "a list of texts"),
                ({"templates": ["a"]}, "finetune.zero_shot.templates", "each with one {}"),
                (
                    {"templates": {"mnist_5k": ["{}"], "emoji_objects": ["{}"]}},
                    "finetune.zero_shot.templates",
                    "no templates for the task 'font_letters' | give every task",
                ),
                (
                    {"templates": {each: ["{}"] for each in (*TASKS, "mnist_9")}},
                    "finetune.zero_shot.templates.mnist_9",
                    "unknown task | did you mean",
                ),
            )
        ),
        ({"store": ""}, "store", "expected text that is not empty"),
        ({"store": "gs://bucket/x"}, "store", "'gs://bucket/x' cannot be used"),
        ({"resources": {"trial": {"cpu": 0}}}, "resources.trial.cpu", "more than 0"),
        ({"resources": {"trail": {"cpu": 1}}}, "resources.trail", "did you mean 'trial'?"),
        ({"retries": -1}, "retries", "0 or more"),
        ({"finetune": {"defaults": {"steps": 2**31}}}, "finetune.defaults.steps", "2147483647 or"),
        (
            {"finetune": {"defaults": {"batch_size": 10**20}}},
            "finetune.defaults.batch_size",
            "expected 2147483647 or less",
        ),
        (
            {"finetune": {"axes": {"lr": [0.1]}, "design": "random", "draws": 100_001}},
            "finetune.draws",
            "expected 100000 or less",
        ),
        (
            {
                "finetune": {
                    "axes": {"seed": [*range(400)], "batch_size": [*range(1, 401)]},
                    "design": "grid",
                }
            },
            "finetune.design",
            "it has 160,000 settings, and 100,000 are the most",
        ),
        (
            {"baselines": {"multi_task": {"steps": 0}}},
            "baselines.multi_task.steps",
            "expected a whole number from 1 to 1000000, or same",
        ),
        (
            {"baselines": {"multi_task": {"steps": True}}},
            "baselines.multi_task.steps",
            "true is not allowed | expected a whole number from 1",
        ),
        (
            {"finetune": {"zero_shot": {**OPENAI, "templates": {1: ["a {}"]}}}},
            "finetune.zero_shot.templates",
            "or a mapping of tasks to such lists",
        ),
    ],
    ids=str,
)
def test_wrong_field_is_named_with_its_value_and_what_is_allowed(
    study_fields: Fields, changes: dict[str, Any], field: str, said: str
) -> None:
    """One mistake is one problem, which says how to correct it."""
    problems = problems_of(yaml.safe_dump(study_fields(**changes)))
    assert list(problems) == [field]
    assert said in problems[field]


def test_all_problems_are_told_at_once(study_fields: Fields) -> None:
    """Unknown, missing, mistyped, out-of-range and contradicting fields are reported together."""
    fields = study_fields(
        nmae="x",
        seed="0",
        tasks=["mnist_5k", "mnist_9"],
        finetune={"defaults": {"lr": -1, "steps": 0}},
        groups={"size": 3},
        merge=[{"method": "tie"}, {"method": "dare", "density": 0, "scaling": "1"}],
    )
    del fields["name"]
    assert set(problems_of(yaml.safe_dump(fields))) == {
        "nmae",
        "name",
        "seed",
        "tasks[1]",
        "finetune.defaults.lr",
        "finetune.defaults.steps",
        "groups.size",
        "merge[0].method",
        "merge[1].density",
        "merge[1].scaling",
    }


@pytest.mark.parametrize(
    ("uri", "instead"),
    [
        ("http://someone:s3cr3t@mlflow:5000", "MLFLOW_TRACKING_PASSWORD"),
        ("https://s3cr3t@mlflow.example.org/x", "MLFLOW_TRACKING_TOKEN"),
        ("http://someone:s3cr3t/with?signs@mlflow:5000", "MLFLOW_TRACKING_USERNAME"),
        ("https://mlflow.example.org/?Token=s3cr3t", "MLFLOW_TRACKING_TOKEN"),
        ("postgresql+psycopg2://mlflow:s3cr3t@db/mlflow", "PGPASSWORD"),
        ("postgresql://db/mlflow?user=mlflow&password=s3cr3t", "PGPASSWORD"),
    ],
)
def test_credentials_in_the_tracking_address_are_refused(
    study_fields: Fields, uri: str, instead: str
) -> None:
    """The file is kept in the store and in the report; the message does not repeat the secret."""
    problems = problems_of(yaml.safe_dump(study_fields(tracking=uri)))
    assert list(problems) == ["tracking"]
    assert instead in problems["tracking"]
    assert "s3cr3t" not in problems["tracking"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "https://mlflow.example.org/base?workspace=a",
        "postgresql://mlflow@db/mlflow",
        "sqlite:////home/some:one@home/mlflow.db",
        "http://[::1",
    ],
)
def test_tracking_address_without_a_secret_is_accepted(
    make_study: Callable[..., Study], uri: str
) -> None:
    """A database's user name is no secret, and a path may contain any characters."""
    assert make_study(tracking=uri).tracking == uri


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", "s3://AKIA:s3cr3t@bucket/x"),
        ("store", "https://someone:s3cr3t@host/x"),
        ("tracking", {"uri": "http://someone:s3cr3t@host"}),
    ],
)
def test_wrong_value_is_shown_without_its_password(
    study_fields: Fields, field: str, value: object
) -> None:
    """A message about an address never contains its credentials."""
    text = yaml.safe_dump(study_fields(**{field: value}))
    with pytest.raises(StudyError) as caught:
        parse_study(text, source="study.yaml")
    assert "s3cr3t" not in str(caught.value)


def test_long_value_is_cut_in_messages(study_fields: Fields) -> None:
    """A list of a thousand values does not bury the other problems."""
    axes = {"axes": {"lr": [0.1] * 1000}}
    (message,) = problems_of(yaml.safe_dump(study_fields(finetune=axes))).values()
    value, _ = message.split(" is not allowed | ")
    assert len(value) == 80
    assert value.endswith("...")


def test_checkpoint_by_path_is_accepted(make_study: Callable[..., Study], tmp_path: Path) -> None:
    """A checkpoint file gives weights to any model."""
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    study = make_study(backbone={"model": "resnet18", "weights": str(path)})
    assert study.backbone.weights == str(path)


def test_store_given_apart_takes_the_place_of_the_files(
    study_fields: Fields, tmp_path: Path
) -> None:
    """A study that is read from a moved store uses the store's present place."""
    text = yaml.safe_dump(study_fields(store="s3://gone/bucket"))
    study = parse_study(text, source="s", store=str(tmp_path / "moved"))
    assert study.store == str(tmp_path / "moved")


def test_directory_of_a_broken_study_is_not_created(study_fields: Fields, tmp_path: Path) -> None:
    """A study file with problems leaves no store behind."""
    problems_of(yaml.safe_dump(study_fields(seed=-1)))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("url", ["s3://bucket/x", "file:///tmp/x", "gs://bucket/x"])
def test_url_is_no_relative_path(url: str) -> None:
    """An unknown scheme must not become a directory called `gs:`."""
    assert absolute_store(url) == url


def test_relative_store_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run in other directories, where a relative path means something else."""
    monkeypatch.chdir(tmp_path)
    assert absolute_store("./a/../store") == str(tmp_path / "store")
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute_store("~/store") == "/home/someone/store"


def test_two_entries_for_one_merge_are_refused(study_fields: Fields) -> None:
    """Writing a default or a label does not make another merge."""
    fields = study_fields(
        merge=[{"method": "ties"}, {"method": "ties", "density": 0.2, "label": "again"}]
    )
    problems = problems_of(yaml.safe_dump(fields))
    (message,) = problems.values()
    assert list(problems) == ["merge[1]"]
    assert message.startswith("this entry is the same merge as merge[0] | leave one of them out")


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("no: 1", "(file)", "false"),
        ("resources: {1: 2}", "resources", "1"),
        ("experts: {null: a.safetensors}", "experts", "null"),
        ("experts: {1e3: a.safetensors}", "experts", "1000.0"),
    ],
)
def test_name_that_yaml_reads_as_another_value_is_named(
    study_fields: Fields, line: str, field: str, value: str
) -> None:
    """A task that is called `no` needs quotes; the problem is its name's and not a list's."""
    text = yaml.safe_dump(study_fields())
    assert problems_of(f"{text}{line}\n")[field].startswith(
        f"a name in it is {value} | expected text"
    )


@pytest.mark.parametrize("point", ["{no: 1}", "{1: 0.5, lr: 0.1}"])
def test_name_in_a_listed_point_is_text(study_fields: Fields, point: str) -> None:
    """The remedy shows how a point is written."""
    finetune = f"finetune: {{design: listed, points: [{point}]}}"
    fields = {key: value for key, value in study_fields().items() if key != "finetune"}
    problem = problems_of(f"{yaml.safe_dump(fields)}{finetune}\n")["finetune.points[0]"]
    assert "such as `{lr: 0.001}`" in problem
