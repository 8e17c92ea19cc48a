"""The layers of a transformers model: where they are, and how to read them and leave no trace.

Owns everything that knows transformers' models. Layers are found by what a short run of the model
does, not by names: the blocks are the longest chain of calls, among members of module lists, in
which each call receives what the one before it returned.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Blocks:
    """Where the layers of an encoder come from.

    Layer 0 is what the first call receives, layer l < L what call l returns, and layer L the
    model's `last_hidden_state`, after the final norm where there is one.

    Attributes:
        calls: the module of each call in order; one that fires for several layers is repeated.
        widths: columns of layers 0..L.
        late: names of modules that run only once the last layer is there (poolers).
    """

    calls: tuple[nn.Module, ...]
    widths: tuple[int, ...]
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

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
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
    calls = _longest_chain([call for call in trace if call[0] in members])
    if not calls:
        raise ValueError(
            f"[find_blocks] model must pass hidden states through a list of blocks, got "
            f"{type(encoder).__name__} without one; pass an encoder whose blocks are in a "
            "ModuleList."
        )
    modules = tuple(module for module, _, _ in calls)
    widths = (_width(calls[0][1]), *(_width(returned) for _, _, returned in calls[:-1]))
    return Blocks(modules, (*widths, _width(last)), _late_modules(trace, last, names))


def last_hidden_state(encoder: "PreTrainedModel", tokens: Tensor, mask: Tensor) -> Tensor:
    """Run an encoder on token ids and return its last layer, `(batch, length, d)`."""
    output = encoder(input_ids=tokens, attention_mask=mask, return_dict=True)
    hidden: Tensor = output.last_hidden_state
    return hidden


def _longest_chain(trace: list[Call]) -> list[Call]:
    """The longest run of calls in which each receives what the one before it returned.

    A list inside a list (ALBERT's groups) gives two chains over the same tensors; the calls that
    finish first are the inner ones, and they are the layers.
    """
    best: list[Call] = []
    chains: dict[int, list[Call]] = {}
    for call in trace:
        _, received, returned = call
        if received is None or returned is None or received is returned:
            continue
        chain = [*chains.get(id(received), []), call]
        if len(chain) > len(chains.get(id(returned), [])):
            chains[id(returned)] = chain
        if len(chain) > len(best):
            best = chain
    return best


def _late_modules(
    trace: list[Call],
    last: Tensor,
    names: dict[nn.Module, str],
) -> frozenset[str]:
    makers = [
        i
        for i, (_, _, returned) in enumerate(trace)
        if returned is not None and returned.data_ptr() == last.data_ptr()
    ]
    if not makers:
        return frozenset()
    early = {names[module] for module, _, _ in trace[: makers[-1] + 1]}
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
