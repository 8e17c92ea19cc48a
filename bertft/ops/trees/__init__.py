"""Dependency trees, one sentence at a time on NumPy arrays, by kernels that numba compiles.

`decoding` finds the best tree for a table of arc scores, `paths` what is measured along a given
tree, `structure` how well points or norms tell of it. Kernels are compiled at the first call and
kept on disk, and hold neither the GIL nor state. Loading this loads numba.
"""

from bertft.ops.trees.decoding import decode
from bertft.ops.trees.paths import depths, distances
from bertft.ops.trees.structure import (
    DEPTH_COUNTS,
    DISTANCE_COUNTS,
    score_depths,
    score_distances,
    spanning_trees,
    spearman,
    squared_distances,
)

__all__ = [
    "DEPTH_COUNTS",
    "DISTANCE_COUNTS",
    "decode",
    "depths",
    "distances",
    "score_depths",
    "score_distances",
    "spanning_trees",
    "spearman",
    "squared_distances",
]
