"""`adco embed`: the embeddings of images, in a file."""

from collections.abc import Sequence

from adco.cli.arguments import run_and_settings
from adco.cli.imports import import_lightning


def embed(arguments: Sequence[str]) -> int:
    """Run `adco embed`."""
    from adco.config.commands import EmbedSettings

    purpose = "Embed images with a frozen backbone, and write their paths, labels and embeddings to a file."
    run, settings = run_and_settings(EmbedSettings, "embed", purpose, arguments)
    import_lightning()
    from adco.embeddings.embed import embed_to_file
    from adco.launcher import is_first_rank

    out = embed_to_file(run, settings)
    if is_first_rank():
        print(out)
    return 0
