"""Dependency trees, one sentence at a time on NumPy arrays, by kernels that numba compiles.

`decoding` finds the best tree for a table of arc scores, `paths` what is measured along a given
tree, `spanning` the shortest tree through points, `scores` how well points tell of a tree, in part
by `ranks`. Kernels are compiled at the first call and
kept on disk, and hold neither the GIL nor state. Loading this loads numba.
"""

from bertft.ops.trees.decoding import decode
from bertft.ops.trees.paths import depths, distances
from bertft.ops.trees.ranks import spearman
from bertft.ops.trees.scores import score_depths, score_distances, squared_distances
from bertft.ops.trees.spanning import spanning_trees

__all__ = [
    "decode",
    "depths",
    "distances",
    "score_depths",
    "score_distances",
    "spanning_trees",
    "spearman",
    "squared_distances",
]
