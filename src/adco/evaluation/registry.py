"""The evaluations by name. A new evaluation is a file in `adco.evaluation` and a line in `EVALUATIONS`."""

from pkgutil import resolve_name

from adco.errors import InputError
from adco.evaluation.evaluation import Evaluation

# name → the evaluation's class, or where it is
EVALUATIONS: dict[str, str | type[Evaluation]] = {
    "knn": "adco.evaluation.knn:KNN",
    "linear": "adco.evaluation.linear:Linear",
    "linear_sgd": "adco.evaluation.linear_sgd:LinearSGD",
}


def evaluation_of(name: str) -> type[Evaluation]:
    """Return the class of an evaluation.

    Raises:
        InputError: if there is no such evaluation.
    """
    if not isinstance(name, str) or name not in EVALUATIONS:
        raise InputError(f"evaluation {name!r} must be one of {', '.join(EVALUATIONS)}")
    found = EVALUATIONS[name]
    evaluation: type[Evaluation] = resolve_name(found) if isinstance(found, str) else found
    return evaluation
