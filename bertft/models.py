"""A transformers model as a whole: the encoder in it, and how to freeze, cut and redraw its layers.

Owns what wraps an encoder (heads, adapters, compilers, parallel runs). Where its layers are is for
`blocks`.
"""

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bertft.blocks import Blocks, find_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PassEnded(Exception):  # noqa: N818 (no error: whoever raises it from a hook suppresses it)
    """Ends a forward pass whose further layers are not needed."""


def encoder_of(model: Any) -> "PreTrainedModel":
    """Return the encoder inside a model with any head, or the model itself.

    Of an encoder-decoder (T5) it is the encoder. What `torch.compile`, data parallel runs and peft
    wrap counts as what it wraps: adapters that change weights (LoRA) are in the encoder and count.

    Raises:
        TypeError: no `PreTrainedModel` inside.
        ValueError: an adapter that feeds the model virtual tokens (prompt or prefix tuning).
    """
    from transformers import PreTrainedModel

    whole = model if isinstance(model, PreTrainedModel) else _unwrapped(model)
    if not isinstance(whole, PreTrainedModel):
        raise TypeError(
            f"[compare] model must be a name, a path or a PreTrainedModel, got "
            f"{type(whole).__name__}; pass the transformers model itself."
        )
    encoder: Any = whole.base_model
    if encoder.config.is_encoder_decoder:
        encoder = encoder.get_encoder()
    assert isinstance(encoder, PreTrainedModel)
    return encoder


def positions(encoder: "PreTrainedModel") -> int | None:
    """Return the most tokens that the encoder takes, or None where it sets no bound."""
    limit = getattr(encoder.config, "max_position_embeddings", None)
    if not limit or limit < 0:
        return None
    # RoBERTa and its kin count positions from the one after padding.
    tables = [module for module in encoder.modules() if isinstance(module, nn.Embedding)]
    words = encoder.get_input_embeddings()
    offsets = [
        table.padding_idx + 1
        for table in tables
        if table is not words and table.num_embeddings == limit and table.padding_idx is not None
    ]
    return int(limit) - max(offsets, default=0)


def freeze(model: "PreTrainedModel", k: int, *, layers: str | None = None) -> None:
    """Keep the embeddings and blocks 1..k as they are in training: they get no gradient.

    `k = 0` freezes nothing, and `k = L` the whole encoder up to its last layer; a pooler and a head
    always train. After training, layers 0..k equal the pretrained model's exactly.

    Args:
        model: with any head, changed in place.
        k: number of blocks, 0..L.
        layers: path of the blocks' module list, where they are not found by themselves.

    Raises:
        ValueError: `k` is out of range, or those blocks share weights with the others (ALBERT).

    Reference: Merchant et al. 2020, partial freezing.
    """
    encoder = encoder_of(model)
    blocks = find_blocks(encoder, layers)
    _require_depth("freeze", k, 0, blocks)
    if k == 0:
        return
    moving = _parameters(encoder, blocks.after[k])
    if not {p for block in blocks.calls[k:] for p in block.parameters()} <= moving:
        raise ValueError(
            f"[freeze] blocks must have weights of their own, got k = {k} for "
            f"{type(encoder).__name__}, whose upper blocks use the same ones; freeze 0 or "
            f"{blocks.depth} blocks."
        )
    for parameter in encoder.parameters():
        if parameter not in moving:
            parameter.requires_grad_(False)


def truncate(model: "PreTrainedModel", k: int, *, layers: str | None = None) -> None:
    """Cut off all blocks above k, so that a head stands on layer k.

    A final norm stays, so layers 0..k - 1 equal the whole model's exactly, and layer k too where
    there is no such norm. The configuration follows, so the model saves and loads as any other;
    in `truncated_from` it keeps the depth that there was.

    Args:
        model: with any head, changed in place.
        k: number of blocks, 1..L.
        layers: path of the blocks' module list, where they are not found by themselves.

    Raises:
        ValueError: `k` is out of range, or the architecture cannot be cut there.

    Reference: Merchant et al. 2020, layer truncation.
    """
    encoder = encoder_of(model)
    blocks = find_blocks(encoder, layers)
    _require_depth("truncate", k, 1, blocks)
    layer_types = list(getattr(encoder.config, "layer_types", None) or ())
    lists = [
        module
        for module in encoder.modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and tuple(module) == blocks.calls
    ]
    whole = original_depth(encoder, blocks)
    _set_depth(model, k, layer_types[:k])
    for module in lists:
        del module[k:]
    try:
        left = find_blocks(encoder, layers).calls
    except ValueError:
        left = ()
    if left != blocks.calls[:k]:
        _set_depth(model, blocks.depth, layer_types)
        for module in lists:
            module.extend(blocks.calls[k:])
        raise ValueError(
            f"[truncate] k must be a place where the blocks can be cut, got {k} for a "
            f"{type(encoder).__name__} that then runs other blocks or not at all; pass another k."
        )
    if k < whole:
        for config in (encoder.config, model.config):
            config.truncated_from = whole


def original_depth(encoder: "PreTrainedModel", blocks: Blocks) -> int:
    """Return the number of blocks that an encoder had before it was truncated, if it was."""
    return int(getattr(encoder.config, "truncated_from", None) or blocks.depth)


def randomize(
    model: "PreTrainedModel", seed: int, *, embeddings: bool = True, layers: str | None = None
) -> None:
    """Redraw every weight by the model's own initializer, a control for what training gave it.

    The caller's random state is as before.

    Args:
        model: with any head, changed in place.
        seed: of the draw.
        embeddings: also redraw what runs before block 1 (word, position and type embeddings).
        layers: path of the blocks' module list, where they are not found by themselves.

    Raises:
        ValueError: weights that the model's configuration does not give it (an adapter's).

    Reference: Merchant et al. 2020, the randomly initialized encoder.
    """
    kept = set() if embeddings else _embedding_parameters(encoder_of(model), layers)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        fresh = type(model)(copy.deepcopy(model.config))
    drawn = dict(fresh.named_parameters())
    if foreign := [name for name, _ in model.named_parameters() if name not in drawn]:
        raise ValueError(
            f"[randomize] model must have the weights that its configuration gives it, got "
            f"{foreign[0]!r} as well; merge the adapter first (merge_and_unload)."
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter not in kept:
                parameter.copy_(drawn[name])


def _embedding_parameters(encoder: "PreTrainedModel", layers: str | None) -> set[nn.Parameter]:
    """What belongs to no module that runs only once layer 0 is there."""
    return set(encoder.parameters()) - _parameters(encoder, find_blocks(encoder, layers).after[0])


def _parameters(encoder: nn.Module, names: Collection[str]) -> set[nn.Parameter]:
    """The parameters of modules, by their names."""
    return {p for name in names for p in encoder.get_submodule(name).parameters()}


def _unwrapped(model: Any) -> Any:
    """What is inside of the wrappers of compilers, parallel runs and peft."""
    from accelerate.utils import extract_model_from_parallel

    if not isinstance(model, nn.Module):
        return model
    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    if not hasattr(inner, "get_base_model"):
        return inner
    if (config := inner.active_peft_config).is_prompt_learning:
        raise ValueError(
            f"[compare] adapter must change weights, as LoRA does, got {config.peft_type.value}, "
            "which feeds the model virtual tokens; such a model has other rows, so pass another."
        )
    return inner.get_base_model()


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
