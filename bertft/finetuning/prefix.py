"""The frozen prefix of a model, computed once: its output for every training example.

With the lower k blocks frozen, what block k returns for an example does not change, so training
needs it once and not once an epoch. Dropout inside the prefix is then off. Owns where the states
are kept (in memory, or as memory-mapped shards) and how a model is made to start from them.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bertft.blocks import Blocks, find_blocks
from bertft.files import load_tensors, save_tensors
from bertft.finetuning.tasks import Features, Tokens, autocast, by_length, pad_inputs
from bertft.models import PassEnded, encoder_of
from bertft.traces import first_tensor, inference, input_tensor, last_hidden_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
SHARD_BYTES = 256 * 2**20
FORMAT = "bertft prefix states"


class Prefix:
    """Blocks 1..k of a model, replaced by what they once returned.

    Args:
        model: with any head.
        k: number of frozen blocks, at least 1.
        dtype: of the states that are kept. float32 is exact; bfloat16 takes half the room and
            rounds the states once, which products under autocast do too, but residual sums do not.
    """

    def __init__(self, model: "PreTrainedModel", k: int, dtype: str) -> None:
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._encoder = encoder_of(model)
        blocks = find_blocks(self._encoder)
        self._calls = blocks.calls[:k]
        self._next = blocks.calls[k] if k < blocks.depth else None
        self._entry = blocks.entry
        self._further = blocks.further
        self._width = _width(blocks, k)
        self._states: list[Tensor] = []

    def is_exact(self) -> bool:
        """Whether the model returns the same once it starts from states, on a short trial.

        T5's blocks hand on a position bias as well, and XLM's add what came in outside of the
        module that receives it.
        """
        if any(isinstance(value, Tensor) for value in self._further or ()):
            return False
        ids = torch.tensor([[1, 2, 1, 2], [2, 1, 1, 2]], device=self._encoder.device)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with inference(self._encoder):
            whole = last_hidden_state(self._encoder, *batch.values())
            with self.standing_in(self._returned(batch)):
                found = last_hidden_state(self._encoder, *batch.values())
        return torch.allclose(found, whole, rtol=1e-4, atol=1e-5)

    def compute(
        self,
        rows: Sequence[Features],
        tokens: Tokens,
        folder: Path | None,
        advance: Callable[[int], None],
    ) -> None:
        """Run the prefix over all rows, and keep its states in memory or as shards in a folder.

        Args:
            rows: inputs of the training examples.
            tokens: padding, batch size and the dtype that the prefix runs in.
            folder: for the shards; None for memory.
            advance: told the number of inputs done.
        """
        self._states = [torch.empty(0)] * len(rows)
        device = self._encoder.device
        shard: dict[int, Tensor] = {}
        size = number = 0
        for batch in by_length(rows, tokens.recipe.batch_size):
            padded = pad_inputs([rows[i] for i in batch], tokens.pad_id)
            with inference(self._encoder), autocast(device, tokens.recipe.dtype):
                hidden = self._returned({key: value.to(device) for key, value in padded.items()})
            for line, i in zip(hidden, batch, strict=True):
                shard[i] = line[: len(rows[i]["input_ids"])].to("cpu", self._dtype, copy=True)
                size += shard[i].nbytes
            if folder is not None and size >= SHARD_BYTES:
                self._write(shard, folder / f"{number:05}.safetensors")
                shard, size, number = {}, 0, number + 1
            advance(len(batch))
        if folder is not None and shard:
            self._write(shard, folder / f"{number:05}.safetensors")
        else:
            self._keep(shard)

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """Return the states of some rows, `(batch, length, d)`, padded with zeros on the right."""
        states = [self._states[i] for i in numbers]
        # float32, as between the blocks of a model under autocast.
        out = torch.zeros(len(states), max(map(len, states)), self._width)
        for line, row in zip(out, states, strict=True):
            line[: len(row)] = row
        return out

    @contextmanager
    def standing_in(self, states: Tensor) -> Iterator[None]:
        """Make the model start at block k + 1, from the given states of its batch."""
        value: Any = states if self._further is None else (states, *self._further)
        returned = dict.fromkeys(self._calls, value)
        if self._entry is not None:
            returned[self._entry] = states

        def replaced(module: nn.Module, args: Any, kwargs: Any) -> Any:
            handles.pop().remove()  # a module that several layers share is called again
            received = input_tensor(args, kwargs)
            swapped = (states if arg is received else arg for arg in args)
            return tuple(swapped), {
                name: states if arg is received else arg for name, arg in kwargs.items()
            }

        for module, value in returned.items():
            # An attribute of the module hides the method of its class.
            module.forward = lambda *args, value=value, **kwargs: value
        handles = []
        if self._next is not None:
            # Between blocks k and k + 1 there may be more (DeBERTa's convolution).
            handles.append(self._next.register_forward_pre_hook(replaced, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in returned:
                del module.forward

    def _returned(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What block k + 1 receives of a batch, or the last block returns; no other block runs."""
        found: list[Tensor] = []

        def stop(hidden: Tensor | None) -> None:
            assert hidden is not None
            found.append(hidden)
            raise PassEnded

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            stop(input_tensor(args, kwargs))

        calls = 0

        def after(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal calls
            calls += 1
            # A module that several layers share fires for each of them.
            if calls == self._calls.count(module):
                stop(first_tensor(output))

        handle = (
            self._next.register_forward_pre_hook(before, with_kwargs=True)
            if self._next is not None
            else self._calls[-1].register_forward_hook(after)
        )
        try:
            with suppress(PassEnded):
                self._encoder(**batch)
        finally:
            handle.remove()
        return found[0]

    def _write(self, shard: Mapping[int, Tensor], path: Path) -> None:
        save_tensors(path, {"states": torch.cat(list(shard.values()))}, {"format": FORMAT})
        # The file is mapped: its pages come and go with the system's cache.
        mapped = load_tensors(path, FORMAT)[0]["states"]
        self._keep(dict(zip(shard, torch.split(mapped, [*map(len, shard.values())]), strict=True)))

    def _keep(self, shard: Mapping[int, Tensor]) -> None:
        for i, states in shard.items():
            self._states[i] = states


def states_nbytes(rows: Sequence[Features], blocks: Blocks, k: int, dtype: str) -> int:
    """Return the bytes that the states of all rows take after block k."""
    itemsize: int = getattr(torch, dtype).itemsize
    return sum(len(row["input_ids"]) for row in rows) * _width(blocks, k) * itemsize


def _width(blocks: Blocks, k: int) -> int:
    # Layer L may be narrower than what the last block returns.
    return blocks.widths[min(k, blocks.depth - 1)]


def place_for(nbytes: int, folder: Path, memory_gib: float, disk_gib: float) -> Path | None:
    """Return where states of a size go: None for memory, else the folder, which need not be there.

    Raises:
        ValueError: they fit neither budget.
        OSError: the disk has less room than they take.
    """
    if nbytes <= memory_gib * GIB:
        return None
    if nbytes > disk_gib * GIB:
        raise ValueError(
            f"[finetune] prefix cache must fit {memory_gib:g} GiB of memory or {disk_gib:g} GiB of "
            f"disk, got {nbytes / GIB:.2f} GiB; raise cache_disk_gib (--cache-disk "
            f"{math.ceil(nbytes / GIB)}), or run frozen blocks in every step (--no-prefix-cache)."
        )
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if nbytes > free:
        raise OSError(
            f"[finetune] disk must have room for the prefix cache, got {free / GIB:.2f} GiB in "
            f"{os.fspath(folder)!r} for {nbytes / GIB:.2f} GiB; pass another out, or go without "
            "(--no-prefix-cache)."
        )
    return folder
