"""Time and memory of a balance over 10 M made-up rows and six facets: cells, solution, and the whole numbers of one epoch.

    python tests/benchmarks/balance_scale.py [--rows 10000000] [--dictionary] [--infeasible]

The columns are as a manifest read by pyarrow gives them: plain text, or with --dictionary as dictionaries. Text tags are skewed,
one tag carries any of 8 labels, one is a number with edges, two are joined. Peak memory is that of the process, with the rows.
"""

import argparse
import resource
import time

import numpy as np
import pyarrow as pa

from training.balance import plan_balance
from training.balancing.cells import group_cells, make_facet
from training.balancing.targets import BalanceConfig
from training.sampler import make_sampler
from training.settings import TrainError

TEXT_TAGS = {"motion_camera": 8, "content_scene": 17, "content_subject": 13, "naturalness_source_class": 7}
LABELS = ["gray", "red", "green", "blue", "brown", "orange", "white", "black"]


def make_rows(num_rows: int, as_dictionary: bool, seed: int = 0) -> pa.Table:
    """Rows whose text tags follow Zipf's law and whose scene leans on their source class."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {}
    for name, num_values in TEXT_TAGS.items():
        weights = 1 / np.arange(1, num_values + 1) ** 1.3
        codes = rng.choice(num_values, num_rows, p=weights / weights.sum()).astype(np.int8)
        columns[name] = pa.DictionaryArray.from_arrays(codes, [f"{name[:7]}_value_{i}" for i in range(num_values)])
    columns["motion_mean"] = pa.array(rng.lognormal(0, 1, num_rows).astype(np.float32), mask=rng.random(num_rows) < 0.02)
    carried = np.zeros(num_rows, np.uint8)
    for i in range(len(LABELS)):
        carried |= (rng.random(num_rows, np.float32) < 0.4 / (1 + i)).astype(np.uint8) << i
    names = [", ".join(label for i, label in enumerate(LABELS) if mask >> i & 1) for mask in range(256)]
    columns["content_dominant_colors"] = pa.DictionaryArray.from_arrays(carried.astype(np.int16), names)
    if not as_dictionary:
        columns = {name: column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for name, column in columns.items()}
    return pa.table(columns)


def wanted(infeasible: bool) -> BalanceConfig:
    labels = {label: share for label, share in zip(LABELS, (0.4, 0.3, 0.2, 0.2, 0.15, 0.1, 0.1, 0.1), strict=True)}
    first = [f"content_value_{i}" for i in range(6)]
    return BalanceConfig(
        targets=[
            {"tag": "motion_camera", "temper": 2},
            {"tag": "content_scene", "temper": 1.5},
            {"tag": "content_subject", "shares": {**dict.fromkeys(first, 0.1), "*": 0.4}},
            {
                "tag": "naturalness_source_class",
                "shares": {"natural_value_0": 0.02 if infeasible else 0.7, "*": 0.98 if infeasible else 0.3},
            },
            {"tag": "motion_mean", "edges": [0.25, 0.5, 1, 2, 4], "shares": [0.05, 0.1, 0.25, 0.3, 0.2, 0.1]},
            {"tag": "content_dominant_colors", "separator": ", ", "label_shares": labels},
        ],
        max_repeats=1.5 if infeasible else 8,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dictionary", action="store_true")
    parser.add_argument("--infeasible", action="store_true", help="time the certificate instead")
    asked = parser.parse_args()
    rows, config = make_rows(asked.rows, asked.dictionary), wanted(asked.infeasible)
    rows_gb = rows.nbytes / 1e9
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        balance = plan_balance(rows, config)
    except TrainError as error:
        print(f"{error}\ncertificate after {time.perf_counter() - start:.1f} s, peak {_peak_gb():.2f} GB")
        return
    planned = time.perf_counter()
    sampler = make_sampler(balance, "benchmark", 0)
    counts = sampler.counts(0)
    counted = time.perf_counter()
    epoch = sampler.epoch_rows(0)
    ordered, cpu_s = time.perf_counter(), time.process_time() - cpu_start
    peak_gb = _peak_gb()
    facets = [make_facet(rows, target, np.ones(asked.rows)) for target in config.targets]
    group_cells([facet.kinds for facet in facets], [len(facet.member) for facet in facets])
    grouped = time.perf_counter() - ordered
    assert len(epoch) == asked.rows and (np.bincount(epoch, minlength=asked.rows) == counts).all()
    residual = max(abs(value.residual) for value in balance.report.values if value.residual is not None)
    print(balance.report)
    print("| rows | cells | cells, s | solve and report, s | counts, s | order, s | total, s | CPU, s | rows, GB | peak, GB | residual |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    seconds = (grouped, planned - start - grouped, counted - planned, ordered - counted, ordered - start)
    parts = " | ".join(f"{second:.1f}" for second in seconds)
    print(f"| {asked.rows} | {balance.report.num_cells} | {parts} | {cpu_s:.1f} | {rows_gb:.2f} | {peak_gb:.2f} | {residual:.0e} |")


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
