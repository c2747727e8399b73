"""Speed and memory of `adco embed` beside the loop that a user of timm writes by hand.

    python benchmarks/embed.py RUN [IMAGES]

RUN is a run of `adco demo`, whose backbone is used. The images are those of CIFAR-10's training split as PNG files in
class folders. Both sides embed them to arrays in memory, in turns, each in a process of its own; starting Python and
importing is not counted. The loop by hand has timm's network, torchvision's ImageFolder, a DataLoader with one worker
per core, `torch.inference_mode` and `channels_last`.

Memory is that of `adco embed --out FILE.parquet` at its peak, for the first 10 000 images and for four links to each of
the 50 000.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adco.data.sources.registry import load_named
from folders import written_once
from measure import save, show

ROUNDS = 3


def files_of(images: int) -> Path:
    """Return a folder of so many images of CIFAR-10 as PNG files in class folders, made at the first call."""
    from PIL import Image

    def write(path: Path) -> None:
        loaded = load_named("cifar10", "train")
        assert isinstance(loaded, tuple)
        pixels, labels, classes = loaded
        for number in range(images):
            folder = path / classes[labels[number]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[number]).save(folder / f"{number:05}.png", compress_level=1)

    return written_once(f"cifar10-files-{images}", write)


def ours(run: str, folder: str) -> float:
    """Return the seconds of `adco.embed`."""
    import adco
    import adco.api  # what `adco.embed` imports at its first call

    start = time.perf_counter()
    adco.embed(run, data=folder)
    return time.perf_counter() - start


def by_hand(run: str, folder: str) -> float:
    """Return the seconds of the loop by hand, with the network and the preprocessing of the run."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    from adco import load_backbone

    backbone, info = load_backbone(Path(run) / "backbone.safetensors")
    start = time.perf_counter()
    size = info.image_size
    transform = v2.Compose(
        [
            v2.Resize(round(size * 256 / 224), antialias=True),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(info.mean, info.std),
        ]
    )
    loader = DataLoader(ImageFolder(folder, transform), batch_size=256, num_workers=os.cpu_count() or 1)
    backbone = backbone.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.cat([backbone(images.to(memory_format=torch.channels_last)) for images, _ in loader])
    return time.perf_counter() - start


def in_a_process(side: str, run: str, folder: Path) -> float:
    """Return the seconds of one side, measured in a process of its own."""
    command = [sys.executable, __file__, side, run, str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak_megabytes(run: str, folder: Path) -> float:
    """Return the peak memory of `adco embed` with a file, in MB."""
    with tempfile.TemporaryDirectory() as aside:
        code = (
            "import resource, sys; from adco.cli.main import run; code = run(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
        )
        flags = ["embed", run, f"--data={folder}", f"--out={aside}/e.parquet"]
        done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def four_links(folder: Path, aside: Path) -> Path:
    """Return a folder with four hard links to each file of a folder."""
    for path in folder.rglob("*.png"):
        for number in range(4):
            link = aside / path.parent.name / f"{number}-{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(path)
    return aside


def main() -> None:
    if sys.argv[1] in ("ours", "by_hand"):
        print({"ours": ours, "by_hand": by_hand}[sys.argv[1]](*sys.argv[2:]))
        return
    run, images = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50_000
    folder = files_of(images)
    seconds: dict[str, list[float]] = {"ours": [], "by_hand": []}
    for _ in range(ROUNDS):
        for side, times in seconds.items():
            times.append(in_a_process(side, run, folder))
    ratio = statistics.median(hand / own for own, hand in zip(seconds["ours"], seconds["by_hand"], strict=True))
    few = files_of(10_000)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        memory = {10_000: peak_megabytes(run, few), 4 * images: peak_megabytes(run, four_links(folder, Path(aside)))}
    rows = [[side, f"{images / statistics.median(times):.0f}"] for side, times in seconds.items()]
    show(f"embedding {images} images; by hand / ours {ratio:.2f}", ["", "images/s"], rows)
    show("adco embed, peak memory", ["images", "MB"], [[str(n), f"{mb:.0f}"] for n, mb in memory.items()])
    found: dict[str, Any] = {"images": images, "seconds": seconds, "by_hand_over_ours": ratio, "megabytes": memory}
    save("embed", json.loads(json.dumps(found)))


if __name__ == "__main__":
    main()
