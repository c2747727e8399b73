"""Import Lightning in less time."""

from unittest.mock import patch


def import_lightning() -> None:
    """Import Lightning without SciPy and Matplotlib, which take two of seven seconds.

    Lightning imports torchmetrics for two names. torchmetrics imports both packages, where they are installed, for
    signals and plots, which no command needs. While it is imported, it is told that they are not installed. This is for
    the command alone: in a user's own program, torchmetrics must find them.
    """
    from lightning_utilities.core import imports  # type: ignore[import-untyped, unused-ignore]

    class WithoutThem(imports.RequirementCache):  # type: ignore[misc, unused-ignore]
        def __bool__(self) -> bool:
            return self.requirement not in ("scipy", "matplotlib") and super().__bool__()

    def available(name: str) -> bool:
        return name != "scipy" and real(name)

    real = imports.package_available
    with patch.multiple(imports, RequirementCache=WithoutThem, package_available=available):
        import torchmetrics  # noqa: F401
    import lightning  # noqa: F401
