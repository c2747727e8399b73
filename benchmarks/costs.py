"""Time per epoch of AdCo relative to MoCo v2 and BYOL: one network and batch, each method with its published heads.

    python benchmarks/costs.py

ResNet-18, CIFAR-10 at 32 px, batch size 256, K = 65 536 and 8 192. The methods take their steps in turns; making the
views and the optimizer steps are included. Ratios are medians over rounds. The paper's ratios are for ResNet-50 at
224 px on GPUs: 2.26 / 2.12 for plain AdCo over plain MoCo v2, 3.50 / 4.10 and 3.45 / 4.10 for symmetric AdCo over BYOL.
"""

import sys
from typing import Any

from adco.comparison.plan import Row
from adco.comparison.timing import relative_time, time_rows
from adco.config.registry import settings_of
from measure import save, show

# 1000 epochs make it a long run, which gets the published optimizers and heads by default.
ALL: dict[str, Any] = {"data": "cifar10", "backbone": "resnet18", "image_size": 32, "batch_size": 256, "epochs": 1000}
ROWS: dict[str, dict[str, Any]] = {
    "MoCo v2": {"method": "moco", "queue": 65_536},
    "AdCo": {"method": "adco", "adversaries": 65_536},
    "BYOL": {"method": "byol"},
    "AdCo symmetric, K 65 536": {"method": "adco", "adversaries": 65_536, "symmetric": True},
    "AdCo symmetric, K 8 192": {"method": "adco", "adversaries": 8_192, "symmetric": True},
    "the same, no split-BN": {"method": "adco", "adversaries": 8_192, "symmetric": True, "split_groups": 1},
}
PAPER = [
    ("AdCo", "MoCo v2", 2.26 / 2.12),
    ("AdCo symmetric, K 65 536", "BYOL", 3.50 / 4.10),
    ("AdCo symmetric, K 8 192", "BYOL", 3.45 / 4.10),
    ("the same, no split-BN", "BYOL", 3.45 / 4.10),
]


def main() -> None:
    rows = [Row(name, settings_of(values["method"])(**ALL | values)) for name, values in ROWS.items()]
    found = time_rows(rows, lambda words: print(words, file=sys.stderr), steps=1)
    seconds = {name: found[name]["seconds_per_image"] for name in ROWS}
    ratios = {f"{one} / {other}": (relative_time(seconds[one], seconds[other]), paper) for one, other, paper in PAPER}
    show(
        "Time per epoch, ResNet-18, 32 px, batch 256",
        ["ratio", "measured", "the paper's"],
        [[name, f"{ratio:.3f}", f"{paper:.3f}"] for name, (ratio, paper) in ratios.items()],
    )
    save("costs", {"rows": found, "ratios": {name: ratio for name, (ratio, _) in ratios.items()}})


if __name__ == "__main__":
    main()
