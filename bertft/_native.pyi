from collections.abc import Sequence
from typing import Literal

class View:
    """Memory as the core sees it; the caller keeps it alive. Strides count elements."""

    def __init__(
        self, address: int, dtype: str, shape: Sequence[int], strides: Sequence[int]
    ) -> None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def strides(self) -> list[int]: ...

def isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def set_isa(name: str) -> None: ...
def pool_rows(x: View, starts: View, stops: View, out: View, threads: int) -> bool: ...
def accumulate(
    rows: Sequence[View],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[
        tuple[str, Sequence[View], Sequence[View], Sequence[View], Sequence[Sequence[View]]]
    ],
    norms: View,
    distances: View,
    threads: int,
) -> tuple[Literal["not finite", "zero", "constant"], int, int] | None: ...
def eigh(
    matrices: Sequence[View],
    values: Sequence[View],
    vectors: Sequence[View],
    threads: int,
    dsyevd: int,
) -> int: ...
def svd(
    matrices: Sequence[View],
    values: Sequence[View],
    left: Sequence[View],
    right: Sequence[View],
    threads: int,
    dgesdd: int,
) -> int: ...
def sum_pairs(
    x: View,
    x_offsets: View,
    x_scale: float,
    y: View,
    y_offsets: View,
    y_scale: float,
    threads: int,
) -> tuple[float, float, float, float, float]: ...
def condense(rows: View, offsets: View, scale: float, condensed: View, threads: int) -> None: ...
def rank_correlation(x: View, y: View, kind: str, threads: int) -> float: ...
def multiply(a: View, b: View, out: View, threads: int) -> None: ...
def softmax_gradient(
    logits: View, offsets: View, targets: View, losses: View, threads: int
) -> bool: ...
def sigmoid_gradient(
    logits: View, offsets: View, targets: View, losses: View, threads: int
) -> bool: ...
def linear_gradient(
    x: View,
    weights: View,
    biases: View | None,
    targets: View,
    scales: View,
    losses: View,
    of_weights: View,
    of_biases: View | None,
    threads: int,
) -> bool: ...
def distance_gradient(
    projected: View, offsets: View, gold: View, losses: View, threads: int
) -> bool: ...
def depth_gradient(
    projected: View, offsets: View, gold: View, losses: View, threads: int
) -> bool: ...
def attend_spans(
    x: View, weight: View, starts: View, stops: View, out: View, logsums: View, threads: int
) -> None: ...
def attend_spans_gradient(
    x: View,
    weight: View,
    starts: View,
    stops: View,
    out: View,
    logsums: View,
    gradient: View,
    of_x: View,
    of_weight: View,
    threads: int,
) -> None: ...
def tanh_norm(
    x: View,
    bias: View,
    gain: View,
    shift: View,
    epsilon: float,
    kept: View | None,
    scale: float,
    out: View,
    threads: int,
) -> None: ...
def tanh_norm_gradient(
    hidden: View,
    bias: View,
    gain: View,
    shift: View,
    epsilon: float,
    kept: View | None,
    scale: float,
    gradient: View,
    of_bias: View,
    of_gain: View,
    of_shift: View,
    threads: int,
) -> None: ...
def edge_gradient(
    projections: Sequence[Sequence[View]],
    head: Sequence[View],
    spans: Sequence[Sequence[View]],
    targets: View,
    scales: View,
    kept: View | None,
    scale: float,
    epsilon: float,
    losses: View,
    of_projections: Sequence[Sequence[View]],
    of_head: Sequence[View],
    of_x: Sequence[View] | None,
    threads: int,
) -> bool: ...
def adam(
    weights: Sequence[View],
    gradients: Sequence[View],
    first: Sequence[View],
    second: Sequence[View],
    largest: Sequence[View] | None,
    rates: View,
    decays: View,
    step: int,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    clip: float | None,
    threads: int,
) -> None: ...
