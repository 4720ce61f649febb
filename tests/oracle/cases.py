"""All cases, and the explanations of differences."""

import cases_fusion_bench
import cases_mergekit
from case_schema import Case, Difference

CASES: dict[str, Case] = cases_fusion_bench.CASES | cases_mergekit.CASES

KERNELS = "kernels are averaged, like everything but 2-D tensors; here they are matrices"
TIED = "two entries tie for the last place; a sort keeps one of them, this project keeps both"

DIFFERENCES: dict[str, Difference] = {
    "fusion_bench average, counters": Difference(
        kind="another convention",
        why="counters of batches are averaged; here the maximum is taken",
    ),
    "fusion_bench task_arithmetic, statistics": Difference(
        kind="the peer refuses",
        why="task vectors of counters are integers, but scaled ones are not",
        message="Dtype mismatch",
        shown_by=("fusion_bench task_arithmetic",),
    ),
    "fusion_bench ties, exact density": Difference(
        kind="the peer's error",
        why="entries from the (entries - k)-th smallest magnitude up are kept, which are k + 1",
        shown_by=("fusion_bench ties, sum", "fusion_bench ties, mean"),
    ),
    "fusion_bench ties, statistics": Difference(
        kind="the peer's error",
        why="running statistics are trimmed, elected and summed like weights, so variances can "
        "become negative; here they follow the policy",
    ),
    "fusion_bench dare_ties, statistics": Difference(
        kind="the peer's error",
        why="the base is subtracted only from parameters, so the experts' statistics are merged "
        "as task vectors and added to the base's",
    ),
    "fusion_bench weighted_average, statistics": Difference(
        kind="another convention",
        why="running statistics are weighted; here they follow their policy, the plain mean",
    ),
    "fusion_bench model_stock, mean of cosines": Difference(
        kind="another convention",
        why="angles in degrees are averaged; by default this project averages cosines",
        shown_by=("fusion_bench model_stock", "fusion_bench model_stock, two experts"),
    ),
    "fusion_bench tsv_m, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench tsv_m",),
    ),
    "fusion_bench iso_c, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench iso_c",),
    ),
    "fusion_bench iso_cts, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench iso_cts",),
    ),
    "fusion_bench wudi, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench wudi",),
    ),
    "fusion_bench emr": Difference(
        kind="the peer's error",
        why="the scales are ratios of sums of the tensors' means, so a bias counts as much as a "
        "kernel; in the paper the sums are over all entries",
        shown_by=("fusion_bench emr, one tensor",),
    ),
    "mergekit average, statistics": Difference(
        kind="the peer refuses",
        why="counters of experts with different numbers of steps differ",
        message="differs between inputs",
        shown_by=("mergekit average",),
    ),
    "mergekit ties, fractions of entries": Difference(
        kind="another convention",
        why="density x entries is rounded down; here it is rounded to the nearest integer",
        shown_by=("mergekit ties, sum",),
    ),
    "mergekit ties, tied magnitudes": Difference(
        kind="another convention",
        why=TIED,
        shown_by=("mergekit ties, sum", "mergekit ties, mean"),
    ),
    "mergekit breadcrumbs, tied magnitudes": Difference(
        kind="another convention", why=TIED, shown_by=("mergekit breadcrumbs",)
    ),
    "mergekit ties, over the model": Difference(
        kind="another convention",
        why="each tensor is trimmed by itself; the paper and this project trim the model",
        shown_by=("mergekit ties, sum",),
    ),
    "mergekit dare": Difference(
        kind="the peer's error",
        why="kept entries are rescaled to the L1 norm before the drop; the paper divides them by "
        "the density, which keeps the expected value",
        shown_by=("mergekit dare, no rescaling", "mergekit dare, divided by the density"),
    ),
    "mergekit breadcrumbs, fractions of entries": Difference(
        kind="another convention",
        why="fractions x entries are rounded down; here they are rounded to the nearest integer",
        shown_by=("mergekit breadcrumbs",),
    ),
    "mergekit della": Difference(
        kind="the peer's error",
        why="kept entries are rescaled to the L1 norm before the drop; the paper divides each by "
        "its probability",
        shown_by=("mergekit della, divided by the chance",),
    ),
    "mergekit della, kernels": Difference(
        kind="another convention",
        why="kernels are ranked along their input channels; here along all inputs of an output",
        shown_by=("mergekit della, divided by the chance",),
    ),
    "mergekit dare_ties": Difference(
        kind="another convention",
        why="nothing is trimmed between the drop and the election",
        shown_by=("mergekit dare_ties, no trim",),
    ),
}
