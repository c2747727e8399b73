"""Images and their nearest neighbours."""

import numpy as np

from adco.data.draws import permutation
from adco.report.material import Material, Section, thumbnail

QUERIES, NEIGHBORS = 8, 9


def similar(material: Material) -> Section:
    """Return the section."""
    directions = material.embeddings.directions
    queries = permutation(0, length=len(directions))[:QUERIES]
    cosines = directions[queries] @ directions.T  # [queries, n]
    cosines[np.arange(len(queries)), queries] = -np.inf
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBORS]
    names = material.class_names

    def image(place: int, caption: str, query: bool) -> dict[str, object]:
        index = material.shown[place]
        uri = thumbnail(material.source, index)
        return {"uri": uri, "path": material.where(index), "caption": caption, "query": query}

    rows = []
    for number, query in enumerate(queries):
        first = image(query, names[query] if names else "", True)
        others = [image(place, f"{cosines[number, place]:.2f}", False) for place in nearest[number]]
        rows.append({"title": "", "images": [first, *others]})
    text = (
        f"{len(queries)} images at random, and to the right of each its nearest neighbours among the images on the "
        "map. The numbers are cosine similarities."
    )
    return Section("Nearest neighbours", text, "rows.html", {"rows": rows})
