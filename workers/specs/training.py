"""The specifications of bases and experts, and the jobs and runs that make them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

from workers.specs.ids import VERSIONS, content_id

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "linear"]
HeadMode = Literal["trained", "frozen", "probe_first"]
Averaging = Literal["none", "ema", "swa"]
Augmentation = Literal["none", "flip", "crop_flip"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """The optimizer and its constants; the learning rate is a hyperparameter of its own."""

    name: OptimizerName
    momentum: float
    """SGD's momentum, or Adam's first decay rate."""
    weight_decay: float
    nesterov: bool = False
    """Whether SGD looks ahead along its momentum; False for the others."""
    sam_rho: float = 0.0
    """Radius of sharpness-aware minimization around the optimizer; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """How a task's classifier comes to be."""

    mode: HeadMode = "trained"
    """`trained` from fresh weights with the backbone; `frozen` as the linear probe of the base's
    features; `probe_first`, trained on from that probe."""
    l2: float = 0.0
    """The probe's penalty: see `workers.sampling.linear_probe`; 0 where there is no probe."""


@dataclass(frozen=True, kw_only=True)
class AveragingSpec:
    """Which mean over the steps' weights an expert stores in place of the last ones."""

    mode: Averaging = "none"
    ema_decay: float = 0.0
    """What each step leaves of the mean before it, for `ema`; 0 otherwise."""
    swa_start: float = 0.0
    """Fraction of the steps after which the mean begins, for `swa`; 0 otherwise."""


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """Supervised training of a base on several tasks at once, under one head over all classes."""

    tasks: tuple[str, ...]
    """Ordered by name: the order of their classes in the joint head."""
    data_ids: tuple[str, ...]
    """The images of each of `tasks`."""
    optimizer: OptimizerSpec
    schedule: Schedule
    lr: float
    """Peak learning rate."""
    batch_size: int
    """Images of all tasks mixed, each as often as any other."""
    steps: int
    """Optimizer steps taken, 1 or more."""
    seed: int
    """Seeds the joint head and the order of the images."""
    data_ratio: ClassVar[float] = 1.0
    freeze_batch_norm: ClassVar[bool] = False
    warmup_steps: ClassVar[int] = 0
    augment: ClassVar[Augmentation] = "none"
    trains_head: ClassVar[bool] = True
    average_weights: ClassVar[AveragingSpec] = AveragingSpec()
    linearised: ClassVar[bool] = False

    @property
    def depends_on_total(self) -> bool:
        """Whether a step depends on how many there are, so that step counts share no run."""
        return self.schedule != "constant"


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """The pretrained backbone that experts start from."""

    model: str
    """A timm model name."""
    weights: str
    """`sha256:` and the digest of a checkpoint, `timm` for timm's hub, `none` for random ones."""
    seed: int
    """Seeds the initial weights where `weights` is `none`; 0 otherwise."""
    pretrain: PretrainSpec | None = None
    """What is done to these weights before any expert starts from them; None for nothing."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = asdict(self)
        inputs = spec["pretrain"].pop("data_ids") if self.pretrain else ()
        return content_id("base", version=VERSIONS["base"], spec=spec, inputs=inputs)

    @property
    def initial(self) -> "BaseSpec":
        """The base that the pretraining starts from; itself where there is none."""
        return replace(self, pretrain=None)


@dataclass(frozen=True, kw_only=True)
class BaseJob:
    """A base without pretraining to commit, and where its checkpoint lies."""

    spec: BaseSpec
    path: str | None
    """A checkpoint's file or `s3://` URL; None for the packaged one, timm's hub or random weights.
    """


@dataclass(frozen=True, kw_only=True)
class PretrainRun:
    """One pretraining run, which Ray Tune schedules as a trial: a base at each snapshot."""

    longest: BaseSpec
    """The base with the most steps."""
    snapshots: tuple[int, ...]
    """Step counts at which a base is committed, ascending; the last is that of `longest`."""

    @property
    def pretrain(self) -> PretrainSpec:
        """How the longest base is trained."""
        assert self.longest.pretrain is not None
        return self.longest.pretrain

    @cached_property
    def id(self) -> str:
        """The id of the longest base, whose making makes the others."""
        return self.longest.id

    @property
    def num_steps(self) -> int:
        """Optimizer steps that the run takes."""
        return self.pretrain.steps

    @cached_property
    def bases(self) -> tuple[BaseSpec, ...]:
        """The bases that the run commits, by ascending step count."""
        return tuple(
            replace(self.longest, pretrain=replace(self.pretrain, steps=steps))
            for steps in self.snapshots
        )

    def without(self, committed: Iterable[str]) -> "PretrainRun | None":
        """Returns the run that is left when some bases exist; None when all do."""
        gone = set(committed)
        left = [
            steps
            for base, steps in zip(self.bases, self.snapshots, strict=True)
            if base.id not in gone
        ]
        if not left:
            return None
        longest = replace(self.longest, pretrain=replace(self.pretrain, steps=left[-1]))
        return PretrainRun(longest=longest, snapshots=tuple(left))


@dataclass(frozen=True, kw_only=True)
class ExpertSpec:
    """One snapshot of one fine-tuning run."""

    task: str
    base_id: str
    data_id: str
    optimizer: OptimizerSpec
    schedule: Schedule
    """What follows the warmup."""
    lr: float
    """Peak learning rate."""
    batch_size: int
    data_ratio: float
    """Fraction of the training images, in (0, 1]."""
    steps: int
    """Optimizer steps taken."""
    seed: int
    freeze_batch_norm: bool
    """Keeps BatchNorm's statistics at the base's while fine-tuning."""
    warmup_steps: int = 0
    """Steps over which the learning rate grows linearly to its peak."""
    head: HeadSpec = HeadSpec()
    average_weights: AveragingSpec = AveragingSpec()
    augment: Augmentation = "none"
    linearised: bool = False
    """Whether the backbone is its first-order expansion at the base (`workers.models.tangent`)."""
    head_id: str | None = None
    """The zero-shot head that is used as it is; None for one that `head` says how to make."""

    @property
    def depends_on_total(self) -> bool:
        """Whether a step depends on how many there will be: then step counts share no run."""
        return self.schedule != "constant" or self.average_weights.mode == "swa"

    @property
    def trains_head(self) -> bool:
        """Whether the classifier is trained with the backbone."""
        return self.head.mode != "frozen" and self.head_id is None

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = {key: value for key, value in asdict(self).items() if not key.endswith("_id")}
        inputs = (self.base_id, self.data_id, *([self.head_id] if self.head_id else ()))
        return content_id("expert", version=VERSIONS["expert"], spec=spec, inputs=inputs)


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One fine-tuning run that Ray Tune schedules: it commits an expert at each snapshot."""

    longest: ExpertSpec
    """The expert with the most steps."""
    snapshots: tuple[int, ...]
    """Step counts at which an expert is committed, ascending; the last is `longest.steps`."""

    @cached_property
    def id(self) -> str:
        """The id of the longest expert, whose making makes the others."""
        return self.longest.id

    @property
    def num_steps(self) -> int:
        """Optimizer steps that the run takes."""
        return self.longest.steps

    @cached_property
    def experts(self) -> tuple[ExpertSpec, ...]:
        """The experts that the run commits, by ascending step count."""
        return tuple(replace(self.longest, steps=steps) for steps in self.snapshots)

    def without(self, committed: Iterable[str]) -> "TrialSpec | None":
        """Returns the trial that is left when some experts exist; None when all do."""
        gone = set(committed)
        left = [expert for expert in self.experts if expert.id not in gone]
        if not left:
            return None
        return TrialSpec(longest=left[-1], snapshots=tuple(expert.steps for expert in left))


Run = TrialSpec | PretrainRun
"""What Ray Tune schedules: it takes steps and commits at each snapshot."""
