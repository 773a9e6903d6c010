"""An exercise about what a step costs: the operations of an update."""

from psn_tutorial.teaching.exercises.grading import Exercise


def _update_operations(weights, tokens, frozen, recompute):
    """Operations of an update's linear layers: so many weights, so many tokens, a multiplication and an addition each
    counting 1. It is a forward pass, then a backward pass to the layers' inputs and to the weights (not to those that
    are frozen); with recompute the forward pass is made a second time before the backward pass."""
    products = ["forward", "backward to the inputs"]
    products += [] if frozen else ["backward to the weights"]
    products += ["forward again"] if recompute else []
    return float(sum(weights * tokens + weights * tokens for _ in products))


UPDATE_OPERATIONS = Exercise(
    _update_operations,
    [(w, t, f, r) for f in (False, True) for r in (False, True) for w, t in ((10, 1), (10, 3), (7, 5))],
    {
        "an addition goes with every multiplication: 2 for each weight and token": lambda w, t, f, r: (
            w * t * (3 - f + r)
        ),
        "this is the forward pass alone": lambda w, t, f, r: 2 * w * t,
        "the backward pass costs two products, to the inputs and to the weights": lambda w, t, f, r: (
            2 * w * t * (2 + r)
        ),
        "frozen weights need no gradient": lambda w, t, f, r: 2 * w * t * (3 + r),
        "through frozen weights the gradient still flows to the inputs": lambda w, t, f, r: 2 * w * t * (3 - 2 * f + r),
        "recompute makes the forward pass a second time": lambda w, t, f, r: 2 * w * t * (3 - f),
        "every token is multiplied with every weight": lambda w, t, f, r: 2 * w * (3 - f + r),
    },
)

EXERCISES = {"update_operations": UPDATE_OPERATIONS}
