"""Where the layers of a transformers model come from, read off what a short run of it does.

A layer is an entry of the model's own `hidden_states`, and a block is the module that receives it:
a member of a module list, told by the tensor and not by a name. Owns the trace of that run and the
places inside a block (`SITES`) that are read beside the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from bertft.traces import TEXTS, TOKENS, Call, Trace, same, trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Site = Literal["output", "attention", "mlp"]
SITES: tuple[Site, ...] = get_args(Site)


class Layer(NamedTuple):
    """A place where a model is read: layer 0..L, or a sublayer of block 1..L.

    `output` is entry `number` of `hidden_states`. `attention` and `mlp` are what the last
    projection of the block's self-attention and of its feed-forward network returns, before
    dropout, residual sum and norm.
    """

    number: int
    site: Site = "output"

    def __str__(self) -> str:
        return f"{self.number}" if self.site == "output" else f"{self.number} ({self.site})"


@dataclass(frozen=True)
class Blocks:
    """Where the layers of an encoder come from.

    Layer l < L is what block l + 1 receives, and layer L the model's `last_hidden_state`, after the
    final norm where there is one.

    Attributes:
        calls: the module of each block's call in order; one that fires for several is repeated.
        widths: columns of layers 0..L.
        entry: the module that returns layer 0 and does nothing else, where there is one.
        further: what a block returns beside its hidden states, and None where these come bare.
        sublayers: for "attention" and "mlp" the module of each block that returns it; empty where
            blocks have no such module.
        after: names of the modules that run only once layer l is there, for each of 0..L; what lies
            between two blocks (DeBERTa's convolution) comes before the layer that the upper one
            receives.
        has_final_norm: whether a module (a norm, a projection) lies between block L and layer L.
    """

    calls: tuple[nn.Module, ...]
    widths: tuple[int, ...]
    entry: nn.Module | None
    further: tuple[Any, ...] | None
    sublayers: Mapping[Site, tuple[nn.Module, ...]]
    after: tuple[frozenset[str], ...]
    has_final_norm: bool

    @property
    def depth(self) -> int:
        """Number of the last layer, L."""
        return len(self.calls)

    @property
    def late(self) -> frozenset[str]:
        """Names of the modules that run only once the last layer is there: poolers."""
        return self.after[-1]

    def layers(self, site: Site = "output") -> list[Layer]:
        """Return the layers that a site has: 0..L, or 1..L inside of blocks."""
        return [Layer(number, site) for number in range(site != "output", self.depth + 1)]

    def width(self, layer: Layer) -> int:
        """Return the columns of a layer; what a sublayer returns is added to what came in."""
        return self.widths[layer.number - (layer.site != "output")]


def find_blocks(encoder: "PreTrainedModel", layers: str | None = None) -> Blocks:
    """Find the layers of an encoder from one run on two texts of three tokens.

    Args:
        encoder: a model without a head.
        layers: path of the module list whose members are the blocks, for an architecture that
            cannot be read by itself; layer l is then what the call of member l + 1 receives.

    Raises:
        ValueError: `hidden_states` that no members of module lists receive, or no such path.
    """
    run = trace(encoder)
    blocks = _receivers(encoder, run)
    if layers:
        members = _members_at(encoder, layers, run)
        if blocks and [call.start for call in members] != [call.start for call in blocks]:
            raise ValueError(
                f"[find_blocks] layers must be the path of the blocks that receive hidden_states, "
                f"got {layers!r}, whose members do not; a {type(encoder).__name__} is read without "
                "a path, leave it out."
            )
        blocks = members
    if not blocks:
        raise ValueError(
            f"[find_blocks] layers must be what a list of blocks receives, got a "
            f"{type(encoder).__name__} where no such list receives its hidden_states; "
            f"{_remedy(run)}"
        )
    received = [call.received for call in blocks]
    states = [state for state in received if state is not None]
    if not all(map(_is_hidden, blocks)):
        raise ValueError(
            f"[find_blocks] blocks must receive hidden states (batch, length, d), got "
            f"{[tuple(state.shape) for state in states]} for {TEXTS} texts of {TOKENS} tokens in a "
            f"{type(encoder).__name__}; {_remedy(run)}"
        )
    last_made = [call.stop for call in run.calls if same(call.returned, run.last)]
    late = run.only_after(max(last_made)) if last_made else frozenset()
    return Blocks(
        calls=tuple(call.module for call in blocks),
        widths=(*(state.shape[-1] for state in states), run.last.shape[-1]),
        entry=_entry(states[0], run),
        further=blocks[0].further,
        sublayers=_sublayers(blocks, run),
        after=(*(run.only_after(block.start) for block in blocks), late),
        has_final_norm=bool(run.only_after(blocks[-1].stop) - late),
    )


def _receivers(encoder: nn.Module, run: Trace) -> list[Call]:
    """The call of each block, which receives an entry of `hidden_states`; none if one lacks it.

    A list inside a block (T5's sublayers, ALBERT's groups) may have a member that receives it too:
    the outermost kind of module that receives all of them is that of the blocks.
    """
    members = {
        module
        for parent in encoder.modules()
        if isinstance(parent, (nn.ModuleList, nn.Sequential))
        for module in parent
    }
    inner = [call for call in run.calls if call.module in members]
    found = [[call for call in inner if same(call.received, s)] for s in run.states[:-1]]
    if not found or not all(found) or not same(run.states[-1], run.last):
        return []
    for kind in [type(call.module) for call in found[0]]:
        alike = [[call for call in calls if type(call.module) is kind] for calls in found]
        if all(alike):
            return [calls[0] for calls in alike]
    return [calls[0] for calls in found]


def _members_at(encoder: "PreTrainedModel", path: str, run: Trace) -> list[Call]:
    """The calls of the members of a list, given by its path in the encoder or in a whole model."""
    within = path.removeprefix(f"{encoder.base_model_prefix}.")
    lists = {name: module for module, name in run.names.items()}
    chosen = lists.get(path, lists.get(within))
    members = set(chosen.children()) if chosen is not None else set()
    calls = [call for call in run.calls if call.module in members]
    if not calls:
        raise ValueError(
            f"[find_blocks] layers must be the path of a module list in a "
            f"{type(encoder).__name__}, got {path!r}; {_remedy(run)}"
        )
    return calls


def _remedy(run: Trace) -> str:
    """Paths of lists whose members receive hidden states, the outermost first."""
    counts = {
        name: len(calls)
        for module, name in run.names.items()
        if name and (calls := _calls_of(module, run)) and all(map(_is_hidden, calls))
    }
    paths = [
        name
        for name in sorted(counts, key=lambda name: (name.count("."), -counts[name]))
        if counts[name] > 1
    ]
    if not paths:
        return (
            "pass an encoder with a list of blocks of one kind, whose first argument is "
            "(batch, length, d)."
        )
    others = f" or another of {', '.join(paths[1:4])}" if paths[1:] else ""
    return (
        f"pass the path of the list, layers={paths[0]!r} (bertft compare --layers {paths[0]})"
        f"{others}; probe, finetune and ablate take only models that are read without."
    )


def _calls_of(module: nn.Module, run: Trace) -> list[Call]:
    """The calls of a module's members, where these are of one kind."""
    members = set(module.children())
    if len({type(member) for member in members}) != 1:
        return []
    return [call for call in run.calls if call.module in members]


def _is_hidden(call: Call) -> bool:
    """Whether a call receives hidden states `(batch, length, d)`."""
    received = call.received
    return received is not None and received.dim() == 3 and received.shape[:2] == (TEXTS, TOKENS)


def _entry(layer_0: Tensor, run: Trace) -> nn.Module | None:
    """The module that returns layer 0, unless it is called for something else as well (T5)."""
    makers = [call.module for call in run.calls if same(call.returned, layer_0)]
    # Calls are in the order of their beginning: the outermost one is first.
    called = [call.module for call in run.calls]
    return next((module for module in makers if called.count(module) == 1), None)


def _sublayers(blocks: list[Call], run: Trace) -> dict[Site, tuple[nn.Module, ...]]:
    """The modules that return what attention and feed-forward add, by their path in every block.

    Attention is where positions mix: the first projection of block 1 whose result at the last
    position depends on the first token, which what the block receives there does not. The
    feed-forward network ends in the block's last projection.
    """
    first = blocks[0]
    if any(parameter.dim() > 2 for parameter in first.module.parameters()):
        return {}  # stacked experts, which one projection does not return
    projections = [
        call
        for call in run.calls
        if first.start < call.start < first.stop and _is_projection(call.module)
    ]
    outer = [call for call in projections if not any(_is_within(call, o) for o in projections)]
    mixing = [call for call in outer if _mixes(call.returned)]
    if not mixing or mixing[0] is outer[-1] or _mixes(first.received):
        return {}
    assert first.received is not None
    wanted: dict[Site, Call] = {"attention": mixing[0], "mlp": outer[-1]}
    prefix = f"{run.names[first.module]}."
    found: dict[Site, tuple[nn.Module, ...]] = {}
    for site, call in wanted.items():
        path = run.names[call.module].removeprefix(prefix)
        times = sum(other.module is call.module for other in outer)
        if times > 1 or call.returned is None or call.returned.numel() != first.received.numel():
            return {}
        inside = [dict(block.module.named_modules()).get(path) for block in blocks]
        found[site] = tuple(module for module in inside if module is not None)
        if len(found[site]) < len(blocks):
            return {}
    return found


def _is_projection(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    is_matrix = isinstance(weight, Tensor) and weight.dim() == 2
    return is_matrix and not isinstance(module, nn.Embedding)


def _is_within(call: Call, other: Call) -> bool:
    return other.start < call.start < other.stop


def _mixes(hidden: Tensor | None) -> bool:
    """Whether the last position differs between two texts that differ in the first one only."""
    # By texts and tokens, or by both at once (MPNet); DeBERTa projects relative positions too.
    of_tokens = ((TEXTS, TOKENS), (TEXTS * TOKENS,))
    if hidden is None or tuple(hidden.shape[:-1]) not in of_tokens:
        return False
    one, other = hidden.reshape(TEXTS, TOKENS, -1)[:, -1].double()
    # Rounding, of bfloat16 too, stays far below; another token's share does not.
    return float((one - other).norm()) > 0.01 * float(one.norm())
