"""The models of a comparison, opened and checked against each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bertft.checkpoints import DTYPES, Checkpoint, load_tokenizer
from bertft.models import original_depth
from bertft.planning import PRETRAINED, Options, role_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Model = str | Path | PreTrainedModel | PeftModel


def open_sides(
    pretrained: "Model",
    finetuned: "Sequence[Model]",
    dtype: str | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    options: Options,
    layers: str | None,
) -> dict[str, Checkpoint]:
    """Open the base and the models tuned from it under their roles.

    Args:
        pretrained: the base.
        finetuned: one model or more.
        dtype: of models by name.
        tokenizer: for all of them; by default each one's own.
        options: of the comparison.
        layers: path of the blocks' module list, where they are not found by themselves.

    Raises:
        FileNotFoundError: no such model.
        ValueError: no fine-tuned model, two of one name, or models that are not comparable.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(
            f"[compare] dtype must be one of {', '.join(DTYPES)}, got {dtype!r}; pass its name."
        )
    if not finetuned:
        raise ValueError(
            "[compare] finetuned must be at least one model, got none; pass its folder or name."
        )
    wanted = DTYPES[dtype] if dtype is not None else None
    own = tokenizer or _borrowed(pretrained, finetuned[0])
    sides = {PRETRAINED: Checkpoint.open(pretrained, wanted, own, layers)}
    for number, model in enumerate(finetuned):
        own = tokenizer or _borrowed(model, pretrained)
        sides[role_of(number)] = Checkpoint.open(model, wanted, own, layers)
    base, *tuned = sides.values()
    names = [side.name for side in tuned]
    if len(set(names)) < len(names):
        raise ValueError(
            f"[compare] finetuned must be models of different names, got {names}; pass each once, "
            "or give a model in memory another name_or_path."
        )
    for side in tuned:
        _require_comparable(base, side, options)
    return sides


def notes_on_truncation(sides: Mapping[str, Checkpoint]) -> list[str]:
    """Tell which layers truncated models have in common with the base."""
    base, *tuned = sides.values()
    return [note for side in tuned for note in _note_on_truncation(base, side)]


def _require_comparable(a: Checkpoint, b: Checkpoint, options: Options) -> None:
    if a.encoder is b.encoder and a.name != b.name:
        raise ValueError(
            f"[compare] models must be two, got {a.name!r} and {b.name!r} with one encoder, which "
            "an adapter changes in place; pass the base by its name or path."
        )
    depths = {original_depth(side.encoder, side.blocks) for side in (a, b)}
    if options.pairs == "same" and options.layers is None and len(depths) > 1:
        raise ValueError(
            f"[compare] models must have the same depth, got {a.blocks.depth} layers in {a.name!r} "
            f"and {b.blocks.depth} in {b.name!r}; pass pairs='all' (--pairs all), or "
            "layers that both have."
        )
    if len({side.encoder.dtype == torch.float64 for side in (a, b)}) > 1:
        raise ValueError(
            f"[compare] models must both be float64 or neither, got {a.encoder.dtype} and "
            f"{b.encoder.dtype}; convert one."
        )


def _note_on_truncation(a: Checkpoint, b: Checkpoint) -> list[str]:
    """Which layers a truncated model has in common with the other one."""
    cut, whole = sorted((a, b), key=lambda side: side.blocks.depth)
    k = cut.blocks.depth
    depths = {original_depth(side.encoder, side.blocks) for side in (a, b)}
    if k == whole.blocks.depth or len(depths) > 1:
        return []
    note = (
        f"layers 0 to {k} are compared: {cut.name!r} was cut off above block {k}, and "
        f"{whole.name!r} has {whole.blocks.depth} blocks."
    )
    if cut.blocks.has_final_norm:
        note += f" Layer {k} of the former is behind its final norm, that of the latter is not."
    return [note]


def _borrowed(model: "Model", other: "Model") -> "PreTrainedTokenizerBase | None":
    """The other model's tokenizer, for a model in memory that was loaded from nowhere."""

    def home(of: "Model") -> str:
        return str(of) if isinstance(of, (str, Path)) else str(getattr(of, "name_or_path", ""))

    return load_tokenizer(home(other)) if not home(model) and home(other) else None
