"""Files of others, and damaged ones: nothing executes, memory stays bounded, and one line says which file and why."""

import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import adco
import tiny
from adco import memory, untrusted
from adco.config.load import read_recipe
from adco.config.weights import known_backbone
from adco.data.sources.open import open_source
from adco.embeddings.formats import read_embeddings
from adco.errors import InputError
from adco.models.classifier import load_classifier
from adco.models.reading import read_tensors
from adco.runs.checkpoints import read_checkpoint
from adco.runs.directory import RunDirectory
from faults.damage import EXECUTES, LAUGHS
from faults.hostile import PRETRAIN, READERS, make_files, try_damaged
from faults.rows import FULL, measured


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "made"
    folder.mkdir()
    make_files(folder)
    return folder


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 2 MB, so that a bomb of a few MB is one."""
    monkeypatch.setattr(untrusted, "total_memory", lambda: 2_000_000)


def one_line(path: Path, message: str, attempt: Callable[..., Any], *arguments: Any) -> str:
    """Return the line of the error."""
    with pytest.raises(InputError) as raised:
        attempt(*arguments)
    line = str(raised.value)
    assert str(path) in line
    assert re.search(message, line), line
    assert "\n" not in line
    return f"adco: {line}"


@pytest.mark.slow
@pytest.mark.fault("checkpoints, safetensors, YAML, JSON, npz, CSV, Parquet and tar files, damaged or edited at random")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_files_damaged_at_random(name: str, made: Path, report: Callable[..., None]) -> None:
    if not FULL:
        assert try_damaged(str(made), name, 1).total() == len(READERS[name])
        return
    number = 30
    lines, megabytes = measured(try_damaged, str(made), name, number)
    says = next((line for line in lines if line.startswith("checkpoint")), "")
    report(tried=number, says=says and f"adco: {says}", megabytes=megabytes)
    assert len(lines) > 1  # errors, not only files that can still be read


class _Executes:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.mark.fault("a pickle that executes something as checkpoint, weights or embeddings")
def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]) -> None:
    monkeypatch.chdir(tmp_path)
    run = tiny.untrained_run(tmp_path / "run", data="few")
    plain, saved = pickle.dumps(_Executes()), io.BytesIO()
    torch.save({"state_dict": {}, "x": _Executes()}, saved)
    for content in (plain, saved.getvalue()):
        run.checkpoint.write_bytes(content)
        why = r"is damaged \((torch.save did not|it holds something other than tensors).*\): delete it, and --resume"
        report(says=one_line(run.checkpoint, why, read_checkpoint, run.checkpoint))
        one_line(run.checkpoint, "cannot be read", read_tensors, run.checkpoint)
        Path("a.npz").write_bytes(content)
        one_line(Path("a.npz"), "is not a file of adco embed, or is damaged", read_embeddings, Path("a.npz"))
    np.save("a.npy", np.array([_Executes()]), allow_pickle=True)
    Path("a.npy").rename("a.npz")
    one_line(Path("a.npz"), "is not a file of adco embed, or is damaged", read_embeddings, Path("a.npz"))
    assert not Path("executed").exists()


@pytest.mark.fault("YAML that executes something")
@pytest.mark.parametrize("text", [EXECUTES, "a: !!python/name:os.system", "a: !!python/object/new:os.system [ls]"])
def test_yaml_is_not_executed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    line = one_line(path, "is not valid YAML: could not determine a constructor for the tag", read_recipe, path)
    report(says=line)
    assert not Path("executed").exists()


MERGES = "a: &a {x: 1}\nb: &b {<<: [*a, *a, *a, *a, *a, *a, *a, *a, *a]}\n" + "".join(
    f"{chr(99 + i)}: &{chr(99 + i)} {{<<: [{', '.join([f'*{chr(98 + i)}'] * 9)}]}}\n" for i in range(8)
)
BAD_YAML = {
    LAUGHS: "more than 100,000 values, with its aliases replaced",
    MERGES: "more than 100,000 values, with its aliases replaced",
    "a: &a [*a]": "more than 100,000 values, with its aliases replaced",
    "a: " + "[" * 3000 + "]" * 3000: "nested too deeply",
    "a: " + "{b: " * 3000 + "}" * 3000: "nested too deeply",
    "a: !!timestamp x": "is not valid YAML",
    "a: !!bool x": "is not valid YAML",
    "a: !!int ''": "is not valid YAML",
    "a: 2001-99-99": "is not valid YAML",
    "a: " + "9" * 5000: "is not valid YAML",
    "# " + "x" * 300_000: "it has 300,002 bytes, and at most 262,144 are read",
}


@pytest.mark.fault("YAML with aliases that explode, or that is nested 3 000 deep")
@pytest.mark.parametrize(("text", "message"), BAD_YAML.items(), ids=map(str, range(len(BAD_YAML))))
def test_yaml_that_explodes(text: str, message: str, tmp_path: Path, report: Callable[..., None]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    line = one_line(path, message, read_recipe, path)
    report(says=line)
    run = tiny.untrained_run(tmp_path / "run", data="few")
    run.config.write_text(text)
    one_line(run.config, "does not contain the settings of a run .* it is damaged or was edited$", run.read_config)


def test_aliases_and_merges_of_usual_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, z: 2024-01-02}\n")
    assert untrusted.read_yaml(path) == yaml.safe_load(path.read_text())


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


@pytest.mark.fault("JSON that is nested 100 000 deep")
def test_json_that_is_nested_deeply(tmp_path: Path, report: Callable[..., None]) -> None:
    run = tiny.untrained_run(tmp_path / "run", data="few")
    (run.path / "environment.json").write_text(DEEP)
    line = one_line(run.path / "environment.json", "nested too deeply", run.read_environment)
    report(says=line)
    (run.path / "unreadable.json").write_text("[" * 100_000)
    one_line(run.path / "unreadable.json", "nested too deeply", run.read_damaged)
    run.metrics.write_text(f"{DEEP}\n")
    one_line(run.metrics, "line 1: not a JSON object", run.records)
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("a.json")
        member.size = len(DEEP)
        tar.addfile(member, io.BytesIO(DEEP.encode()))
    one_line(path, "a.json is not the text of a label: it is nested too deeply", open_source, f"wds:{path}")


@pytest.mark.parametrize(
    "record", ['{"step": "x"}', '{"step": NaN}', '{"loss": [1]}', '{"step": 1, "loss": {}}', "[]", '{"step": 1e999}']
)
def test_a_record_that_was_edited(record: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 2.0}}\n{record}\n{{"step": 3}}\n')
    one_line(path, "line 2: not ", RunDirectory(tmp_path).records)


@pytest.mark.fault("safetensors whose header claims 2^60 bytes")
def test_safetensors_with_an_absurd_header(tmp_path: Path, report: Callable[..., None]) -> None:
    for size in (2**60, 2**64 - 1, 99_000_000):
        for name in ("backbone.safetensors", "classifier.safetensors"):
            path = tmp_path / name
            path.write_bytes(struct.pack("<Q", size) + b'{"a": 1}')
            for read in (adco.load_backbone, load_classifier, read_tensors):
                report(says=one_line(path, "is not a safetensors file: ", read, path))
            assert known_backbone(str(path)) == {}  # reading the weights tells what is wrong


ABSURD: dict[str, Any] = {
    "image_size": 10**9,
    "name": ["resnet18"],
    "mean": [0.5, float("inf"), 0.5],
    "std": 0.5,
    "arguments": {"channels": [10**9] * 4},
    "stem": {"a": 1},
    "unknown": 1,
}


@pytest.mark.parametrize("name", [*ABSURD, "missing", "list", "deep", "other network"])
def test_the_description_of_a_network_that_was_edited(name: str, tmp_path: Path) -> None:
    run = tiny.untrained_run(tmp_path / "run", data="few")
    weights = read_tensors(run.backbone)
    info = adco.load_backbone(run.backbone)[1]
    about: Any = {**vars(info), **({name: ABSURD[name]} if name in ABSURD else {})}
    about = {"missing": {}, "list": [1], "other network": {**about, "name": "resnet50"}}.get(name, about)
    save_file(weights, run.backbone, {"adco": DEEP if name == "deep" else json.dumps(about)})
    one_line(run.backbone, "does not hold a backbone: ", adco.load_backbone, run.backbone)


@pytest.mark.fault("a file of 100 kB that becomes larger than half of the memory")
def test_arrays_that_are_larger_than_the_memory(
    tmp_path: Path, little_memory: None, report: Callable[..., None]
) -> None:
    """A hundred kB of them become 100 MB."""
    np.savez_compressed(tmp_path / "e.npz", embeddings=np.zeros((25_000, 1000), np.float32))
    assert (tmp_path / "e.npz").stat().st_size < 200_000
    path = tmp_path / "e.npz"
    line = one_line(path, "its content takes 0.1 GB, more than half of the memory here$", read_embeddings, path)
    report(says=line)


def test_an_array_that_claims_a_size(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**58, 3)})
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("embeddings.npy", header.getvalue())
    one_line(tmp_path / "e.npz", "is not a file of adco embed", read_embeddings, tmp_path / "e.npz")


def test_a_parquet_file_that_is_larger_than_the_memory(tmp_path: Path, little_memory: None) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows, width = 20_000, 50
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * width, np.float32)), width)
    paths = pa.array(["a"] * rows)
    pq.write_table(pa.table({"path": paths, "label": paths, "embedding": values}), tmp_path / "e.parquet")
    assert (tmp_path / "e.parquet").stat().st_size < 20_000
    one_line(tmp_path / "e.parquet", "half of the memory here$", read_embeddings, tmp_path / "e.parquet")


def test_a_checkpoint_with_compressed_parts(tmp_path: Path) -> None:
    path, packed = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(10_000_000)}}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert packed.stat().st_size < 100_000
    for read in (read_checkpoint, read_tensors):
        one_line(packed, "compressed parts, which torch.save does not write", read, packed)


@pytest.mark.slow
def test_a_checkpoint_of_lists_that_explode(tmp_path: Path) -> None:
    content: Any = [torch.zeros(1)]
    for _ in range(60):
        content = [content, content]
    torch.save(content, tmp_path / "a.pth")
    one_line(tmp_path / "a.pth", "more than 1,000,000 parts", read_tensors, tmp_path / "a.pth")


@pytest.mark.slow
@pytest.mark.usefixtures("no_curves")
def test_a_checkpoint_of_another_method_or_optimizer(made: Path, tmp_path: Path) -> None:
    of_adco = (made / "run" / "checkpoints" / "last.ckpt").read_bytes()
    moco = {**PRETRAIN, "method": "moco", "queue": 32}
    del moco["adversaries"]
    cases = {"The shape of ": moco, "It is of another optimizer": {**PRETRAIN, "optimizer": "sgd"}}
    for number, (message, settings) in enumerate(cases.items()):
        run = RunDirectory(adco.pretrain(**settings, out=tmp_path / str(number)))
        run.write_unfinished()
        run.checkpoint.write_bytes(of_adco)
        one_line(run.checkpoint, f"was config.yaml edited.* {message}", partial(adco.pretrain, resume=run.path))
    (made / "plain.ckpt").write_bytes(b"")
    torch.save({"a": torch.zeros(1)}, made / "plain.ckpt")
    one_line(made / "plain.ckpt", "not that of a run: it has no state_dict", read_checkpoint, made / "plain.ckpt")


def test_a_tar_file_that_never_ends(tmp_path: Path) -> None:
    """A negative size leads back to the same header; a sparse file claims any number of bytes."""
    path = tmp_path / "shard.tar"
    for size in (-512, -1024, -(10**6)):
        member = tarfile.TarInfo("a.png")
        member.size = 0
        header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = b"\xff" + (256**11 + size).to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        path.write_bytes(bytes(header) * 2 + bytes(1024))
        one_line(path, "is not an uncompressed tar file|impossible size|at least two", open_source, f"wds:{path}")


def test_patterns_of_shards_that_explode(tmp_path: Path) -> None:
    for pattern in ("{0..999999999999}.tar", "{a,b}" * 60 + ".tar", "{0..9999}{0..9999}.tar"):
        with pytest.raises(InputError, match=r"stands for more than 100,000 shards: give fewer$"):
            open_source(f"wds:{tmp_path}/{pattern}")


@pytest.mark.parametrize("scheme", ["list", "wds"])
def test_a_device_or_pipe_is_no_list(scheme: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        one_line(path, "regular file|no file", open_source, f"{scheme}:{path}")


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "unreadable.json", "metrics.jsonl"])
def test_a_folder_in_the_place_of_a_file(name: str, tmp_path: Path) -> None:
    run = tiny.untrained_run(tmp_path / "run", data="few")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).mkdir()
    if name == "config.yaml":
        with pytest.raises(InputError, match=r"is not a run directory: it has no config\.yaml"):
            RunDirectory.open(run.path)
    assert run.read_environment() == {}
    assert run.records() == []
    assert run.read_damaged() == []


def test_data_of_a_recipe_does_not_lead_out_of_the_run(tmp_path: Path) -> None:
    """Names in files become no paths that are written: those of results and rows are made of letters alone."""
    from adco.comparison.plan import read_plan
    from adco.data.sources.address import short_name

    assert "/" not in short_name("../../../etc/passwd")
    path = tmp_path / "compare.yaml"
    path.write_text("shared: {data: few}\nrows: {../../x: {}, /etc/y: {}}")
    folders = [row.run_directory(tmp_path, 0) for row in read_plan(path).rows]
    assert [folder.parent for folder in folders] == [tmp_path] * 2


def test_what_cannot_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"hidden": 10**8, "dim": 10**8, "adversaries": 10**9}.items():
        with pytest.raises(InputError, match=rf"^training needs [\d.]+ GB for weights and optimizer.*--{name}"):
            adco.pretrain(**{**PRETRAIN, name: value}, out=tmp_path / "run")
    monkeypatch.setattr(Path, "read_text", lambda self: "123456789" if "memory.max" in str(self) else "max")
    memory.total_memory.cache_clear()
    assert memory.total_memory() == 123456789
    memory.total_memory.cache_clear()
    assert not (tmp_path / "run").exists()
