"""The export formats by name. A new format is a file in `adco.exporting` and a line in `FORMATS`."""

from pkgutil import resolve_name

from adco.errors import InputError
from adco.exporting.format import Format

# name → the format's class, or where it is
FORMATS: dict[str, str | type[Format]] = {
    "timm": "adco.exporting.timm_folder:TimmFolder",
    "hf": "adco.exporting.timm_folder:TransformersFolder",
    "torchvision": "adco.exporting.torchvision_weights:TorchvisionWeights",
    "onnx": "adco.exporting.onnx_file:OnnxFile",
    "torch": "adco.exporting.torch_program:TorchProgram",
}


def format_of(name: str) -> Format:
    """Return an export format.

    Raises:
        InputError: if there is no such format.
    """
    if not name:
        raise InputError(f"to is missing: give one of {', '.join(FORMATS)}")
    if name not in FORMATS:
        raise InputError(f"to {name!r} must be one of {', '.join(FORMATS)}")
    found = FORMATS[name]
    kind: type[Format] = resolve_name(found) if isinstance(found, str) else found
    return kind()
