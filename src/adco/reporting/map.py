"""A map of the images: similar ones are near each other. Pointing at one shows it.

Shapes: n images, F feature width.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adco.reporting.material import Material, Section, thumbnail

COMPONENTS = 50  # principal components that t-SNE starts from, as scikit-learn advises for wide data
PALETTE = (  # Tableau's twenty colours, the strong ones first
    "#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
    "#aec7e8", "#ff9896", "#98df8a", "#ffbb78", "#c5b0d5", "#9edae5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d",
)  # fmt: skip
TOOLS = "pan,wheel_zoom,box_zoom,reset"
SIDE, QUALITY = 48, 55  # of the pictures shown, px and WebP quality: 2 000 of them take about 1 MB


def image_map(material: Material) -> Section:
    """Return the section."""
    from bokeh.embed import components

    script, div = components(map_figure(material, positions(material.embeddings.directions)))
    shown, all_images = len(material.shown), len(material.source)
    which = f"all {shown:,} images" if shown == all_images else f"{shown:,} of {all_images:,} images"
    text = (
        f"A map of {which}, by t-SNE of their embeddings: images that the backbone finds similar are near each other. "
        "Point at an image with the mouse to see it; drag to move, turn the wheel to zoom."
    )
    return Section("Map of the images", text, "map.html", {"plot": div + script})


def positions(directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return places on the map [n, 2], by t-SNE (van der Maaten & Hinton 2008) of unit-norm embeddings [n, F]."""
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    reduced = PCA(min(COMPONENTS, *directions.shape), random_state=0).fit_transform(directions)
    perplexity = min(30.0, (len(directions) - 1) / 3)
    places: NDArray[np.float32] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return places


def map_figure(material: Material, places: NDArray[np.float32]) -> Any:
    """Return the plot; with few classes, each has a colour and an entry in the legend that hides it."""
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure

    names = material.class_names
    classes = sorted({*names} - {""}) if names else []
    groups: list[str | None] = [*classes] if 0 < len(classes) <= len(PALETTE) else [None]
    plot: Any = figure(sizing_mode="stretch_width", height=560, tools=TOOLS, active_scroll="wheel_zoom")
    plot.toolbar.logo = None
    plot.grid.visible = plot.axis.visible = False
    plot.outline_line_color = None
    labels = np.array(names if names else [""] * len(places))
    for colour, group in zip(PALETTE, groups, strict=False):
        members = np.arange(len(places)) if group is None else np.flatnonzero(labels == group)
        data = {
            "x": places[members, 0],
            "y": places[members, 1],
            "picture": [thumbnail(material.source, material.shown[i], SIDE, QUALITY) for i in members],
            "label": labels[members].tolist(),
        }
        legend: dict[str, Any] = {} if group is None else {"legend_label": group}
        plot.scatter("x", "y", source=ColumnDataSource(data), size=6, alpha=0.75, color=colour, **legend)
    if groups != [None]:
        plot.legend.update(click_policy="hide", label_text_font_size="11px", spacing=0, ncols=5)
        plot.add_layout(plot.legend[0], "below")
    tooltip = '<div><img src="@picture{safe}" width="88"><br>@label</div>'
    plot.add_tools(HoverTool(tooltips=tooltip, attachment="vertical"))
    return plot
