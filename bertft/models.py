"""The layers of a transformers model: where they are; how to read, freeze and cut them.

Owns everything that knows transformers' models. Layers are found by what a short run of the model
does, not by names: the blocks are the longest chain of calls, among members of module lists, in
which each call receives what the one before it returned.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PassEnded(Exception):  # noqa: N818 (no error: whoever raises it from a hook suppresses it)
    """Ends a forward pass whose further layers are not needed."""


@dataclass(frozen=True)
class Blocks:
    """Where the layers of an encoder come from.

    Layer 0 is what the first call receives, layer l < L what call l returns, and layer L the
    model's `last_hidden_state`, after the final norm where there is one.

    Attributes:
        calls: the module of each call in order; one that fires for several layers is repeated.
        widths: columns of layers 0..L.
        entry: the module that returns layer 0, where one does.
        above: names of modules that run only once the last block has (final norms, poolers).
        late: names of modules that run only once the last layer is there (poolers).
    """

    calls: tuple[nn.Module, ...]
    widths: tuple[int, ...]
    entry: nn.Module | None
    above: frozenset[str]
    late: frozenset[str]

    @property
    def depth(self) -> int:
        """Number of the last layer, L."""
        return len(self.calls)


Call = tuple[nn.Module, Tensor | None, Tensor | None]
"""A module call of a trace: the module, the tensor it received, the tensor it returned."""


def first_tensor(value: Any) -> Tensor | None:
    """Return the tensor that a module call passes on: itself, or the first of a tuple."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    return None


def input_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the tensor that a module call receives: the first argument that is one."""
    return next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)


def encoder_of(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return the encoder inside a model with any head, or the model itself.

    Raises:
        TypeError: not a `PreTrainedModel`.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"[compare] model must be a name, a path or a PreTrainedModel, got "
            f"{type(model).__name__}; pass the transformers model itself."
        )
    encoder = model.base_model
    assert isinstance(encoder, PreTrainedModel)
    return encoder


def positions(encoder: "PreTrainedModel") -> int | None:
    """Return the most tokens that the encoder takes, or None where it sets no bound."""
    limit = getattr(encoder.config, "max_position_embeddings", None)
    return int(limit) if limit and limit > 0 else None


@contextmanager
def inference(*models: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Put models in eval mode (on a device) and give every module its own mode back at the end."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    homes = [(model, _device_of(model)) for model in models]
    try:
        for model in models:
            model.eval()
            if device is not None:
                model.to(device)
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for model, home in homes:
            if device is not None and home is not None:
                model.to(home)


def find_blocks(encoder: "PreTrainedModel") -> Blocks:
    """Find the layers of an encoder from one run on two tokens.

    Raises:
        ValueError: no chain of module calls, or one that disagrees with the configuration.
    """
    names = {module: name for name, module in encoder.named_modules()}
    members = {
        module
        for parent in encoder.modules()
        if isinstance(parent, nn.ModuleList)
        for module in parent
    }
    trace: list[Call] = []
    makers: dict[int, nn.Module] = {}

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            makers[id(output)] = module
        trace.append((module, input_tensor(args, kwargs), first_tensor(output)))

    handles = [
        module.register_forward_hook(record, with_kwargs=True)
        for module in encoder.modules()
        if module is not encoder
    ]
    try:
        with inference(encoder):
            tokens = torch.zeros(1, 2, dtype=torch.long, device=encoder.device)
            last = last_hidden_state(encoder, tokens, torch.ones_like(tokens))
    finally:
        for handle in handles:
            handle.remove()
    calls, last_block = _longest_chain(
        [(i, call) for i, call in enumerate(trace) if call[0] in members]
    )
    if not calls:
        raise ValueError(
            f"[find_blocks] model must pass hidden states through a list of blocks, got "
            f"{type(encoder).__name__} without one; pass an encoder whose blocks are in a "
            "ModuleList."
        )
    modules = tuple(module for module, _, _ in calls)
    widths = (_width(calls[0][1]), *(_width(returned) for _, _, returned in calls[:-1]))
    last_made = [
        i
        for i, (_, _, returned) in enumerate(trace)
        if returned is not None and returned.data_ptr() == last.data_ptr()
    ]
    return Blocks(
        modules,
        (*widths, _width(last)),
        entry=makers.get(id(calls[0][1])),
        above=_run_after(last_block, trace, names),
        late=_run_after(last_made[-1], trace, names) if last_made else frozenset(),
    )


def freeze(model: "PreTrainedModel", k: int) -> None:
    """Keep the embeddings and blocks 1..k as they are in training: they get no gradient.

    `k = 0` freezes nothing, and `k = L` the whole encoder up to its last layer; a pooler and a head
    always train. After training, layers 0..k equal the pretrained model's exactly.

    Args:
        model: with any head, changed in place.
        k: number of blocks, 0..L.

    Raises:
        ValueError: `k` is out of range, or those blocks share weights with the others (ALBERT).

    Reference: Merchant et al. 2020, partial freezing.
    """
    encoder = encoder_of(model)
    blocks = find_blocks(encoder)
    _require_depth("freeze", k, 0, blocks)
    if k == 0:
        return
    above = blocks.above if k < blocks.depth else blocks.late
    moving = {p for block in blocks.calls[k:] for p in block.parameters()}
    moving |= {p for name in above for p in encoder.get_submodule(name).parameters()}
    frozen = [p for block in blocks.calls[:k] for p in block.parameters()]
    if any(parameter in moving for parameter in frozen):
        raise ValueError(
            f"[freeze] blocks must have weights of their own, got k = {k} for "
            f"{type(encoder).__name__}, whose upper blocks use the same ones; freeze 0 or "
            f"{blocks.depth} blocks."
        )
    for parameter in encoder.parameters():
        if parameter not in moving:
            parameter.requires_grad_(False)


def truncate(model: "PreTrainedModel", k: int) -> None:
    """Cut off all blocks above k, so that a head stands on layer k.

    A final norm stays, so layers 0..k - 1 equal the whole model's exactly, and layer k too where
    there is no such norm. The configuration follows, so the model saves and loads as any other;
    in `truncated_from` it keeps the depth that there was.

    Args:
        model: with any head, changed in place.
        k: number of blocks, 1..L.

    Raises:
        ValueError: `k` is out of range, or the architecture cannot be cut there.

    Reference: Merchant et al. 2020, layer truncation.
    """
    encoder = encoder_of(model)
    blocks = find_blocks(encoder)
    _require_depth("truncate", k, 1, blocks)
    layer_types = list(getattr(encoder.config, "layer_types", None) or ())
    lists = [
        module
        for module in encoder.modules()
        if isinstance(module, nn.ModuleList) and tuple(module) == blocks.calls
    ]
    whole = original_depth(encoder, blocks)
    _set_depth(model, k, layer_types[:k])
    for module in lists:
        del module[k:]
    if find_blocks(encoder).calls != blocks.calls[:k]:
        _set_depth(model, blocks.depth, layer_types)
        for module in lists:
            module.extend(blocks.calls[k:])
        raise ValueError(
            f"[truncate] k must be a place where the blocks can be cut, got {k} for "
            f"{type(encoder).__name__}, which then runs other blocks; pass another k."
        )
    if k < whole:
        for config in (encoder.config, model.config):
            config.truncated_from = whole


def original_depth(encoder: "PreTrainedModel", blocks: Blocks) -> int:
    """Return the number of blocks that an encoder had before it was truncated, if it was."""
    return int(getattr(encoder.config, "truncated_from", None) or blocks.depth)


def randomize(model: "PreTrainedModel", seed: int, *, embeddings: bool = True) -> None:
    """Redraw every weight by the model's own initializer, a control for what training gave it.

    The caller's random state is as before.

    Args:
        model: with any head, changed in place.
        seed: of the draw.
        embeddings: also redraw what runs before block 1 (word, position and type embeddings).

    Reference: Merchant et al. 2020, the randomly initialized encoder.
    """
    kept = set() if embeddings else {id(p) for p in _embedding_parameters(encoder_of(model))}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        fresh = type(model)(copy.deepcopy(model.config))
    drawn = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) not in kept:
                parameter.copy_(drawn[name])


def _embedding_parameters(encoder: "PreTrainedModel") -> list[nn.Parameter]:
    """What belongs neither to a block nor to a module that runs after the blocks."""
    blocks = find_blocks(encoder)
    upper = [*blocks.calls, *(encoder.get_submodule(name) for name in blocks.above)]
    others = {p for module in upper for p in module.parameters()}
    return [p for p in encoder.parameters() if p not in others]


def _set_depth(model: "PreTrainedModel", depth: int, layer_types: list[str]) -> None:
    for config in (encoder_of(model).config, model.config):
        config.num_hidden_layers = depth
        # Where kinds of attention are listed, transformers wants one for each block.
        if layer_types:
            config.layer_types = layer_types


def _require_depth(function: str, k: int, least: int, blocks: Blocks) -> None:
    if not least <= k <= blocks.depth:
        raise ValueError(
            f"[{function}] k must be in {least}..{blocks.depth} for a model of {blocks.depth} "
            f"blocks, got {k}; pass one of these."
        )


def last_hidden_state(encoder: "PreTrainedModel", tokens: Tensor, mask: Tensor) -> Tensor:
    """Run an encoder on token ids and return its last layer, `(batch, length, d)`."""
    output = encoder(input_ids=tokens, attention_mask=mask, return_dict=True)
    hidden: Tensor = output.last_hidden_state
    return hidden


def _longest_chain(trace: list[tuple[int, Call]]) -> tuple[list[Call], int]:
    """The longest run of calls in which each receives what the one before it returned.

    With the place of its last call in the trace. A list inside a list (ALBERT's groups) gives two
    chains over the same tensors; the calls that finish first are the inner ones, and they are the
    layers.
    """
    best: list[Call] = []
    last = -1
    chains: dict[int, list[Call]] = {}
    for place, call in trace:
        _, received, returned = call
        if received is None or returned is None or received is returned:
            continue
        chain = [*chains.get(id(received), []), call]
        if len(chain) > len(chains.get(id(returned), [])):
            chains[id(returned)] = chain
        if len(chain) > len(best):
            best, last = chain, place
    return best, last


def _run_after(place: int, trace: list[Call], names: dict[nn.Module, str]) -> frozenset[str]:
    """Names of the modules that only run after a place in the trace."""
    early = {names[module] for module, _, _ in trace[: place + 1]}
    after = {names[module] for module, _, _ in trace} - early
    # A module that holds an early one has only finished late.
    return frozenset(
        name for name in after if not any(inner.startswith(f"{name}.") for inner in early)
    )


def _width(tensor: Tensor | None) -> int:
    assert tensor is not None
    return tensor.shape[-1]


def _device_of(model: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in model.parameters()), None)
