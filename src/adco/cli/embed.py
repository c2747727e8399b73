"""`adco embed`: the embeddings of images, in a file."""

from collections.abc import Sequence
from pathlib import Path

from adco.cli.imports import import_lightning


def embed(arguments: Sequence[str]) -> int:
    """Run `adco embed`."""
    from adco.config.commands import EmbedSettings
    from adco.config.load import Parser

    purpose = "Embed images with a frozen backbone, and write their paths, labels and embeddings to a file."
    parser = Parser([EmbedSettings], "adco embed", purpose, "[RUN]")
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="run directory, checkpoint or backbone.safetensors; by default the newest run",
    )
    flags = parser.read_flags(arguments)
    (settings,) = parser.construct(flags)
    import_lightning()
    from adco.embeddings.embed import embed_to_file
    from adco.launcher import is_first_rank

    out = embed_to_file(Path(flags.run) if flags.run else None, settings)
    if is_first_rank():
        print(out)
    return 0
