"""Runs the benchmarks of `make bench` and prints one table."""

import os
import platform

import plan_size
import trial_overhead


def main() -> None:
    """Prints figures of docs/benchmarks.md."""
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")  # noqa: T201 its output
    print("| what | measured | bound |")  # noqa: T201 as above
    print("| --- | ---: | ---: |")  # noqa: T201 as above
    num_trials = 2000
    lines = [*plan_size.rows(), *trial_overhead.rows(trial_overhead.measure(num_trials))]
    lines += trial_overhead.bare_rows(num_trials)
    for line in lines:
        print("| " + " | ".join(line) + " |")  # noqa: T201 as above


if __name__ == "__main__":
    main()
