"""Images and their nearest neighbours."""

import torch

from adco.data.draws import permutation
from adco.evaluation.nearest import nearest
from adco.reporting.material import Material, Section

QUERIES, NEIGHBORS = 8, 9


def similar(material: Material) -> Section:
    """Return the section."""
    directions = torch.from_numpy(material.embeddings.directions)
    queries = torch.from_numpy(permutation(0, length=len(directions))[:QUERIES])
    k = min(NEIGHBORS, len(directions) - 1)
    cosines, places = nearest(directions[queries], directions, k, queries)
    names = material.class_names
    rows = []
    for query, of_query, found in zip(queries.tolist(), cosines.tolist(), places.tolist(), strict=True):
        first = material.image(query, names[query] if names else "") | {"query": True}
        others = [material.image(place, f"{cosine:.2f}") for place, cosine in zip(found, of_query, strict=True)]
        rows.append({"title": "", "images": [first, *others]})
    text = (
        f"{len(queries)} images at random, and to the right of each its nearest neighbours among the images on the "
        "map. The numbers are cosine similarities."
    )
    return Section("Nearest neighbours", text, "rows.html", {"rows": rows})
