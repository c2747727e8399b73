"""One self-contained HTML file from sections."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader

from adco.errors import InputError
from adco.reporting.material import Section


def require_bokeh() -> None:
    """Raise an InputError if the library that draws the map is not installed."""
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise InputError("a report needs bokeh: pip install 'adco[report]'") from error


def page(title: str, summary: str, sections: Sequence[Section], scripts: Sequence[str] = ()) -> str:
    """Return the page.

    Args:
        title: its heading.
        summary: the first sentence.
        sections: its parts, in order.
        scripts: JavaScript libraries that sections need, as text.
    """
    environment = Environment(
        loader=PackageLoader("adco.reporting", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    rendered: list[dict[str, Any]] = [
        {
            "title": section.title,
            "text": section.text,
            "body": environment.get_template(section.template).render(section.values),
        }
        for section in sections
    ]
    style = (files("adco.reporting") / "templates" / "style.css").read_text()
    return environment.get_template("page.html").render(
        title=title, summary=summary, sections=rendered, style=style, scripts=scripts
    )
