"""`torch`: a program of torch.export, which needs torch alone."""

import io
from pathlib import Path

import torch
from torch.export import Dim

from adco.exporting.format import Format
from adco.exporting.network import Network
from adco.files import write_bytes


class TorchProgram(Format):
    """A .pt2 file: the traced program and its weights, for any number of images.

    Extra files in it say how to prepare the images.
    """

    SUFFIX = ".pt2"
    OPTIONS = frozenset({"normalize"})

    def write(self, network: Network, path: Path) -> None:
        program = torch.export.export(network.program(), (network.images(2),), dynamic_shapes=({0: Dim("N")},))
        content = io.BytesIO()  # to a file, torch would hide why it cannot be written
        torch.export.save(program, content, extra_files=dict(network.preprocessing()))
        write_bytes(path, content.getvalue())

    def line(self, network: Network, path: Path) -> str:
        return f"import torch; model = torch.export.load({str(path)!r}).module(); {network.output} = model(images)"
