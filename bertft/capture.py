"""Hidden states as a forward pass makes them, handed on layer by layer and let go.

Owns the hooks on a model and the blocks of rows that products run on. Nothing here keeps a hidden
state longer than its layer's hook, nor more rows than one block for each side.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bertft import ops
from bertft.devices import SideStream, handed_over
from bertft.models import Blocks, first_tensor, input_tensor, last_hidden_state
from bertft.rows import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Receive = Callable[[int, Tensor], None]


def capture(
    encoder: "PreTrainedModel", blocks: Blocks, ids: Tensor, mask: Tensor, receive: Receive
) -> None:
    """Run an encoder on a batch and hand every layer on as it appears.

    `receive(layer, hidden)` is called in the order of layers 0..L, during the run; `hidden` is
    `(batch, length, d)`, the same as that entry of `hidden_states`.

    Args:
        encoder: in eval mode.
        blocks: where its layers come from (`find_blocks`).
        ids: `(batch, length)` token ids.
        mask: `(batch, length)`, 1 for tokens and 0 for padding.
        receive: takes a layer's number and hidden states.

    Raises:
        RuntimeError: a layer whose hook did not fire.
    """
    fired = 0

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = input_tensor(args, kwargs)
        if fired == 0 and hidden is not None:
            receive(0, hidden)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal fired
        hidden = first_tensor(output)
        if fired < blocks.depth and module is blocks.calls[fired] and hidden is not None:
            fired += 1
            if fired < blocks.depth:
                receive(fired, hidden)

    handles = [blocks.calls[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [module.register_forward_hook(after) for module in dict.fromkeys(blocks.calls)]
    try:
        device = encoder.device
        last = last_hidden_state(encoder, handed_over(ids, device), handed_over(mask, device))
    finally:
        for handle in handles:
            handle.remove()
    if fired != blocks.depth:
        raise RuntimeError(
            f"[capture] layer {fired + 1} of {type(encoder).__name__} must fire once in a pass, "
            "got none; the model skips it (LayerDrop?), or modules were replaced after it was read."
        )
    receive(fired, last)


class RowBlock:
    """Gathers the rows of several batches for every side, so that small batches cost no more.

    On a GPU a full block is handed on beside the main stream, and the next is gathered meanwhile in
    other memory. Pooling stays on the main stream: the next layer may change what it reads.

    Args:
        widths: name and number of columns of every side.
        capacity: most rows of a block; no batch may have more.
        dtype: float64 for float64 models, else float32.
        hand_on: what a full block is given to, with the numbers of its rows (on the CPU); its
            tensors are overwritten afterwards.
        backend: of `ops`; None for that of the device.
        device: where the rows are.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        capacity: int,
        dtype: torch.dtype,
        hand_on: Callable[[Mapping[str, Tensor], Tensor], None],
        backend: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        self._beside = SideStream(self._device)
        self._blocks = [
            {
                side: torch.empty(capacity, d, dtype=dtype, device=device)
                for side, d in widths.items()
            }
            for _ in range(2 if self._device.type == "cuda" else 1)
        ]
        for rows in self._blocks:
            self._beside.keep(*rows.values())
        self._free = [self._beside.done() for _ in self._blocks]
        self._numbers = torch.empty(capacity, dtype=torch.int64)
        self._capacity = capacity
        self._hand_on = hand_on
        self._backend = backend
        self._filled = 0
        self._batch: Batch | None = None
        self._runs: tuple[Tensor, Tensor] = (self._numbers[:0], self._numbers[:0])

    def open(self, batch: Batch) -> None:
        """Make room for the rows of a batch."""
        if self._filled + len(batch.starts) > self._capacity:
            self.flush()
        self._batch = batch
        self._runs = (
            handed_over(batch.starts, self._device),
            handed_over(batch.stops, self._device),
        )

    def receive(self, side: str, hidden: Tensor) -> Tensor:
        """Pool a layer `(batch, length, d)` into this batch's rows of a side.

        Returns whether all of them are finite, one bool on the device of the rows. Rows of a model
        on another device are copied to that of the rows here, and only here.
        """
        assert self._batch is not None
        out = self._blocks[0][side][self._filled : self._filled + len(self._batch.starts)]
        flat = hidden.detach().reshape(-1, hidden.shape[-1]).to(self._device)
        starts, stops = self._runs
        return ops.pool_rows(flat, starts, stops, out, backend=self._backend)

    def close(self) -> None:
        """Count the batch's rows as there, on every side."""
        assert self._batch is not None
        filled = self._filled + len(self._batch.starts)
        self._numbers[self._filled : filled] = self._batch.numbers
        self._filled, self._batch = filled, None

    def flush(self) -> None:
        """Hand the rows on, and start over."""
        if self._filled:
            rows = {side: rows[: self._filled] for side, rows in self._blocks[0].items()}
            with self._beside.after_main():
                self._hand_on(rows, self._numbers[: self._filled])
            self._free[0] = self._beside.done()
            self._blocks.append(self._blocks.pop(0))
            self._free.append(self._free.pop(0))
            self._beside.main_waits_for(self._free[0])
        self._filled = 0

    def finish(self) -> None:
        """Hand the last rows on, and let the main stream wait for all that was done with rows."""
        self.flush()
        self._beside.main_waits_for(self._beside.done())
