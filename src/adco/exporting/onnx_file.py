"""`onnx`: one file for ONNX Runtime and the many programs that read ONNX."""

from pathlib import Path

import torch
from torch.export import Dim

from adco.errors import InputError
from adco.exporting.format import Format
from adco.exporting.network import Network

LARGEST = 2**31  # bytes; protobuf, and so an ONNX file, cannot be larger


class OnnxFile(Format):
    """An .onnx file with the input `images` and the output `features` or `logits`, for any number of images.

    Its metadata says how to prepare the images.
    """

    SUFFIX = ".onnx"
    OPTIONS = frozenset({"normalize", "half"})
    PACKAGES = ("onnx", "onnxscript", "onnxruntime")
    INSTALL = "pip install 'adco[onnx]'"
    TAKES_ARRAYS = True

    def check(self, network: Network) -> None:
        size = sum(weights.numel() for weights in network.backbone.parameters()) * (2 if network.half else 4)
        if size >= LARGEST:
            raise InputError(
                f"to onnx: {network.info.name} has {size / 1e9:.1f} GB, and a file holds 2.1: use --to torch"
            )

    def write(self, network: Network, path: Path) -> None:
        program = torch.onnx.export(
            network.program(),
            (network.images(2),),
            dynamo=True,
            dynamic_shapes=({0: Dim("N")},),
            input_names=["images"],
            output_names=[network.output],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(network.preprocessing())
        program.save(path, external_data=False)

    def line(self, network: Network, path: Path) -> str:
        model = f"onnxruntime.InferenceSession({str(path)!r})"
        return f'import onnxruntime; model = {model}; {network.output} = model.run(None, {{"images": images}})[0]'
