"""`timm` and `hf`: a folder that timm and transformers load, in the layout that they have on the Hugging Face hub."""

import inspect
from pathlib import Path
from typing import Any

from safetensors.torch import save
from timm.models import get_pretrained_cfg

from adco.exporting.classifier import with_classifier
from adco.exporting.format import Format
from adco.exporting.network import Network
from adco.files import write_bytes, write_json, write_text
from adco.models import stem
from adco.models.sizes import has_fixed_size

# timm cannot express the CIFAR stem by arguments, so this code is added to a copy of models/stem.py. It gives the
# network a name that timm does not know without it: nobody can load the weights into a network with another stem.
REGISTER = '''

import timm
from timm.models import load_pretrained, register_model


def {name}(pretrained=False, pretrained_cfg=None, **arguments):
    """Create timm's {base} with the CIFAR stem; arguments as for `timm.create_model`."""
    model = timm.create_model("{base}", pretrained_cfg=pretrained_cfg, **arguments)
    use_cifar_stem(model)
    if pretrained:
        load_pretrained(model, pretrained_cfg, num_classes=model.num_classes, in_chans=arguments.get("in_chans", 3))
    return model


if not timm.is_model("{name}"):  # by another folder
    register_model({name})
'''
NOTE = "# Written by adco (MIT licence): {name}, for timm. It needs timm and torch alone.\n"
FOR_TRANSFORMERS = '''\
"""With trust_remote_code=True, transformers' AutoModel and AutoModelForImageClassification use these classes."""

from transformers import TimmWrapperForImageClassification, TimmWrapperModel

from .load import {name}  # noqa: F401 (which registers it)


class CifarStem(TimmWrapperModel):
    """{name}, in transformers."""


class CifarStemClassifier(TimmWrapperForImageClassification):
    """{name} with a classifier, in transformers."""
'''


class TimmFolder(Format):
    """A folder with config.json and model.safetensors and, for a CIFAR stem, the code that builds the network."""

    SUFFIX = "-timm"

    def write(self, network: Network, path: Path) -> None:
        model = with_classifier(network) if network.head else network.backbone
        weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
        write_bytes(path / "model.safetensors", save(weights, {"format": "pt"}))
        write_json(path / "config.json", _config(network))
        if network.has_cifar_stem:
            name = _name(network)
            code = REGISTER.format(name=name, base=network.architecture)
            write_text(path / "load.py", NOTE.format(name=name) + inspect.getsource(stem) + code)
            write_text(path / "for_transformers.py", FOR_TRANSFORMERS.format(name=name))

    def line(self, network: Network, path: Path) -> str:
        first = (
            f"import runpy, timm; runpy.run_path({str(path / 'load.py')!r})"
            if network.has_cifar_stem
            else "import timm"
        )
        model = f"timm.create_model({f'local-dir:{path}'!r}, pretrained=True).eval()"
        return f"{first}; model = {model}; {network.output} = model(images)"


class TransformersFolder(TimmFolder):
    """The same folder, loaded by transformers as its TimmWrapper: by AutoModel or AutoModelForImageClassification."""

    SUFFIX = "-hf"
    PACKAGES = ("transformers",)
    INSTALL = "pip install transformers, or use --to timm, which writes the same folder"

    def line(self, network: Network, path: Path) -> str:
        trust = ", trust_remote_code=True" if network.has_cifar_stem else ""
        loader, output = (
            ("AutoModelForImageClassification", "logits") if network.head else ("AutoModel", "pooler_output")
        )
        model = f"{loader}.from_pretrained({str(path)!r}{trust})"
        return f"from transformers import {loader}; model = {model}; {network.output} = model(images).{output}"


def _name(network: Network) -> str:
    return network.architecture + ("_cifar_stem" if network.has_cifar_stem else "")


def _config(network: Network) -> dict[str, Any]:
    """Return the content of config.json.

    timm's own `save_for_hf` would repeat what timm says of its own weights, such as their licence, and adds arguments
    that transformers does not accept.
    """
    usual = get_pretrained_cfg(network.architecture)
    images = {
        "input_size": [len(network.info.mean), network.image_size, network.image_size],
        "fixed_input_size": has_fixed_size(network.architecture) and not network.arguments.get("dynamic_img_size"),
        "interpolation": "bilinear",
        "crop_pct": 0.875,  # 224 / 256
        "crop_mode": "center",
        "mean": list(network.info.mean),
        "std": list(network.info.std),
    }
    layers = {name: getattr(usual, name, None) for name in ("first_conv", "classifier")}
    loaders = {"AutoModel": "CifarStem", "AutoModelForImageClassification": "CifarStemClassifier"}
    code = {"auto_map": {loader: f"for_transformers.{name}" for loader, name in loaders.items()}}
    return {
        "architecture": _name(network),
        "num_classes": len(network.classes),
        **({"label_names": list(network.classes)} if network.head else {}),
        "model_args": network.arguments,
        **(code if network.has_cifar_stem else {}),
        "pretrained_cfg": {**images, **layers, "num_classes": len(network.classes)},
    }
