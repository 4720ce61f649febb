"""The specification of a merge: one method on one group of experts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from math import prod
from typing import Any, Literal

from merge.catalogue import CARDS, SCALE_ONE_VECTOR, MethodCard, parse_params
from merge.errors import ParameterErrors
from merge.parameters.method_params import MethodParams
from workers.specs.data import EvaluateOn
from workers.specs.expert import ExpertSpec
from workers.specs.ids import VERSIONS, canonical_json, content_id_of_text
from workers.specs.own_method import OwnMethodSpec
from workers.specs.snapshots import STEPS, Snapshots
from workers.specs.tuning import TuningSpec

Joint = Literal["none", "plain", "calibrated"]
"""Scores under the heads of a whole group: none, with plain logits, or with calibrated ones too."""


@dataclass(frozen=True, kw_only=True)
class SurgerySpec:
    """Adapters that move a merged model's features towards each expert's own."""

    rank: int
    """Width of an adapter between its two maps."""
    steps: int
    """Steps of Adam per task."""
    lr: float
    batch_size: int
    """Images per step."""


@dataclass(frozen=True, kw_only=True)
class MergeSpec:
    """One method with its parameters on one group of experts: merge, then evaluate."""

    method: str
    params: Mapping[str, Any]
    """All parameters of the method, by name; None for one that is tuned."""
    batch_norm: str
    """Policy for running statistics: see `merge.catalogue.BatchNormPolicy`."""
    recalibration_images: int
    """Unlabelled training images per task for `recalibrate`; 0 for every other policy."""
    seed: int
    """Seeds surgery and methods that draw random numbers; 0 if nothing is drawn."""
    base_id: str
    experts: tuple[ExpertSpec, ...]
    """The group, ordered by task name: the order in which experts are summed."""
    held_out: tuple[ExpertSpec, ...]
    """Experts outside the group whose heads and tasks the merge is also evaluated on."""
    pool: tuple[ExpertSpec, ...] = ()
    """Further experts that are merged after the group's; they add no task to be evaluated on."""
    surgery: SurgerySpec | None = None
    """Surgery on the merged model's features for each task of the group; None for none."""
    tuning: TuningSpec | None = None
    """The parameters that the merge job chooses on validation images; None for none."""
    snapshots: Snapshots | None = None
    """The snapshots among which the merge job chooses each task's steps on validation images; None
    to merge `experts` as they are. With snapshots, `experts` are those with the most steps."""
    own_method: OwnMethodSpec | None = None
    """The method, if a user wrote it; None for one of the catalogue."""
    keeps_weights: bool = False
    """Whether the merged weights are part of the artifact."""
    evaluate_on: EvaluateOn = "test"
    """The images that the result is evaluated on; also those of surgery and of methods that learn
    from unlabelled images. Candidates of a search are evaluated on validation images."""
    joint: Joint = "none"
    """The scores under the heads of the whole group that the merge has besides; `none` for merges
    with modules per task."""

    @property
    def card(self) -> MethodCard:
        """The method's card."""
        return CARDS[self.method] if self.own_method is None else self.own_method.card

    def parsed_params(self) -> MethodParams:
        """Returns the parameters as the method's own class.

        Raises:
            ParameterErrors: A value is not allowed, or is tuned and not known yet.
        """
        return parse_params(self.method, self.params, card=self.card)

    @property
    def merged(self) -> tuple[ExpertSpec, ...]:
        """The experts that are merged, in the order in which they are summed."""
        return (*self.experts, *self.pool)

    @property
    def members(self) -> tuple[ExpertSpec, ...]:
        """All experts that the merge job reads, held-out ones and snapshots too."""
        members = (*self.merged, *self.held_out)
        if self.snapshots is None:
            return members
        return tuple(dict.fromkeys((*members, *chain(*self.snapshots.experts))))

    @property
    def linearised(self) -> bool:
        """Returns whether the experts are linearised, and therefore the merged model."""
        (linearised,) = {expert.hyperparameters.linearised for expert in self.members}
        return linearised

    def at(self, point: Mapping[str, float]) -> "MergeSpec":
        """Returns the merge whose tuned parameters, and whose experts' steps, have these values."""
        params = {name: value for name, value in point.items() if not name.startswith(STEPS)}
        experts = self.experts
        if self.snapshots is not None and len(params) < len(point):
            experts = self.snapshots.at(point)
        params = {**self.params, **params}
        return replace(self, params=params, experts=experts, tuning=None, snapshots=None)

    @property
    def chooses(self) -> bool:
        """Returns whether parameters or steps are chosen on validation images."""
        return self.tuning is not None or self.snapshots is not None

    @property
    def shares_choice(self) -> bool:
        """Returns whether its parameters are chosen by the scores of other merges."""
        return self.tuning is not None and self.tuning.over is not None

    @property
    def first_tried(self) -> "MergeSpec":
        """The merge at the first values that are tried; this merge itself if nothing is chosen."""
        if not self.chooses:
            return self
        return self.at({} if self.tuning is None else self.tuning.points()[0])

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec: dict[str, Any] = {**self._own_fields(), "num_experts": len(self.experts)}
        if self.surgery is not None:  # ids of merges without surgery are older than surgery
            spec["surgery"] = asdict(self.surgery)
        if self.tuning is not None:  # and older than tuning
            spec["tuning"] = self.tuning.to_json()
        if self.snapshots is not None:  # and older than snapshots
            spec["snapshots"] = {"rule": self.snapshots.rule, "counts": self.snapshots.counts}
        if self.own_method is not None:
            spec["own_method"] = self.own_method.source
        if self.keeps_weights:
            spec["keep"] = "merged"
        spec |= self._evaluated_on()
        if self.joint != "none":
            spec["joint"] = self.joint
        if self.pool:  # and older than pools
            spec["num_pool"] = len(self.pool)
        members = (expert.id for expert in self.members)
        return content_id_of_text(
            "merge",
            version=VERSIONS["merge"],
            spec=_canonical_with_revision(json.dumps(spec)),
            inputs=(self.base_id, *members),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores.

        Experts are named by id. Their own manifests hold their specifications, so that merges of 20
        experts do not repeat them.
        """
        optional = {
            name: each.to_json()
            for name, each in (("tuning", self.tuning), ("own_method", self.own_method))
            if each is not None
        }
        kept = {"keeps_weights": True} if self.keeps_weights else {}
        pool = {"pool": [expert.id for expert in self.pool]} if self.pool else {}
        joint = {} if self.joint == "none" else {"joint": self.joint}
        snapshots = {} if self.snapshots is None else {"snapshots": self._snapshots_to_json()}
        return {
            **self._own_fields(),
            **optional,
            **kept,
            **self._evaluated_on(),
            **pool,
            **joint,
            **snapshots,
            "base_id": self.base_id,
            "surgery": None if self.surgery is None else asdict(self.surgery),
            "experts": {expert.task: expert.id for expert in self.experts},
            "held_out": {expert.task: expert.id for expert in self.held_out},
        }

    @staticmethod
    def from_json(
        values: Mapping[str, Any],
        *,
        experts: tuple[ExpertSpec, ...],
        held_out: tuple[ExpertSpec, ...],
        pool: tuple[ExpertSpec, ...] = (),
        snapshots: Snapshots | None = None,
    ) -> "MergeSpec":
        """Returns a merge from its values and from the specifications of its experts.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        surgery = None if values["surgery"] is None else SurgerySpec(**values["surgery"])
        tuning = TuningSpec.from_json(values["tuning"]) if "tuning" in values else None
        own = OwnMethodSpec.from_json(values["own_method"]) if "own_method" in values else None
        members = {"experts": experts, "held_out": held_out, "pool": pool}
        optional = {"surgery": surgery, "tuning": tuning, "own_method": own, "snapshots": snapshots}
        return MergeSpec(**{**values, **members, **optional})

    def _snapshots_to_json(self) -> dict[str, Any]:
        assert self.snapshots is not None
        ids = [[expert.id for expert in experts] for experts in self.snapshots.experts]
        return {"rule": self.snapshots.rule, "experts": ids}

    def _evaluated_on(self) -> dict[str, Any]:
        """Returns the field, left out for test images, so that ids stay as they were."""
        return {} if self.evaluate_on == "test" else {"evaluate_on": self.evaluate_on}

    def _own_fields(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "params": dict(self.params),
            "batch_norm": self.batch_norm,
            "recalibration_images": self.recalibration_images,
            "seed": self.seed,
        }


def num_merges_tried(spec: MergeSpec) -> int:
    """Returns the merges that a choice makes: one for all scalings where the method allows it."""
    if not spec.chooses or spec.shares_choice:
        return 0
    values = {} if spec.tuning is None else spec.tuning.values
    sizes = {name: len(each) for name, each in values.items()}
    if spec.method in SCALE_ONE_VECTOR:
        sizes.pop("scaling", None)
    num_combinations = 1 if spec.snapshots is None else spec.snapshots.num_combinations
    return num_combinations * prod(sizes.values())


def num_validation_passes(spec: MergeSpec) -> int:
    """Returns the passes over the group's validation images that a choice takes; 0 without one."""
    if not spec.chooses or spec.shares_choice:
        return 0
    num_points = 1 if spec.tuning is None else len(spec.tuning.points())
    if spec.snapshots is None:
        return num_points
    return spec.snapshots.num_own_passes + spec.snapshots.num_combinations * num_points


@lru_cache(maxsize=256)  # a study's methods at its group sizes: most merges share theirs
def _canonical_with_revision(spec: str) -> str:
    """Returns the canonical JSON of a merge's own fields and of its revision.

    Raises:
        UnhashableSpecError: A value has no exact form in JSON.
    """
    fields = json.loads(spec)
    points = TuningSpec.from_json(fields["tuning"]).points() if "tuning" in fields else [{}]
    tried = [{**fields["params"], **point} for point in points]
    revision = max(_revision(fields["method"], params=params) for params in tried)
    if revision > 1:  # ids of merges whose results never changed are older than revisions
        fields["revision"] = revision
    return canonical_json(fields)


def _revision(method: str, *, params: Mapping[str, Any]) -> int:
    """Returns the version of the results of a method with these parameters.

    Merges of old stores may have parameters that are refused today; they keep their ids. Methods of
    users have the digest or version of their code in place of a revision.
    """
    try:
        return parse_params(method, params).revision
    except ParameterErrors:
        return 1
