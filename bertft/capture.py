"""Hidden states as a forward pass makes them, handed on layer by layer and let go.

Owns the hooks on a model, the blocks of rows that products run on, and whether rows are finite.
Nothing here keeps a hidden state longer than its layer's hook, nor more rows than one block for
each side.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bertft import ops
from bertft.blocks import Blocks, Layer, Site
from bertft.devices import SideStream, handed_over
from bertft.models import PassEnded
from bertft.rows import Batch
from bertft.traces import first_tensor, input_tensor, last_hidden_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Receive = Callable[[Layer, Tensor], None]


def capture(
    encoder: "PreTrainedModel",
    blocks: Blocks,
    ids: Tensor,
    mask: Tensor,
    receive: Receive,
    wanted: Collection[Layer] | None = None,
    *,
    types: Tensor | None = None,
) -> None:
    """Run an encoder on a batch and hand layers on as they appear.

    `receive(layer, hidden)` is called during the run, once for each layer and in the order in which
    they come; `hidden` is `(batch, length, d)` and, of an output, the same as that entry of
    `hidden_states`. The run ends after the last one that is wanted.

    Args:
        encoder: in eval mode.
        blocks: where its layers come from (`find_blocks`).
        ids: `(batch, length)` token ids.
        mask: `(batch, length)`, 1 for tokens and 0 for padding.
        receive: takes a layer and its hidden states.
        wanted: layers to hand on; by default the outputs 0..L.
        types: `(batch, length)` token types; None where all are 0.

    Raises:
        RuntimeError: a layer whose hook did not fire.
    """
    missing = set(blocks.layers() if wanted is None else wanted)
    begun = 0

    def hand_on(layer: Layer, hidden: Tensor | None) -> None:
        if layer in missing and hidden is not None:
            missing.remove(layer)
            receive(layer, hidden.view(*ids.shape, -1))
            if not missing:
                raise PassEnded

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal begun
        if begun < blocks.depth and module is blocks.calls[begun]:
            hand_on(Layer(begun), input_tensor(args, kwargs))
            begun += 1

    with ExitStack() as hooks, suppress(PassEnded):
        for module in dict.fromkeys(blocks.calls):
            hooks.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
        for site in {layer.site for layer in missing} & blocks.sublayers.keys():

            def after(module: nn.Module, args: Any, output: Any, site: Site = site) -> None:
                hand_on(Layer(begun, site), first_tensor(output))

            for module in dict.fromkeys(blocks.sublayers[site]):
                hooks.enter_context(module.register_forward_hook(after))
        device = encoder.device
        inputs = (ids, mask) if types is None else (ids, mask, types)
        last = last_hidden_state(encoder, *(handed_over(tensor, device) for tensor in inputs))
        if begun == blocks.depth:
            hand_on(Layer(begun), last)
    if missing:
        number, site = min(missing)
        absent = f"block {begun + 1}" if begun < blocks.depth else f"{site} of block {number}"
        raise RuntimeError(
            f"[capture] {absent} of {type(encoder).__name__} must fire once in a pass, got none; "
            "the model skips it (LayerDrop?), or modules were replaced after it was read."
        )


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
        self._opened = self._numbers[:0]
        self._runs: list[tuple[Tensor, Tensor]] = []

    def open(self, *views: Batch) -> None:
        """Make room for the rows of a batch, which several tokenizers may have at other places."""
        self._opened = views[0].numbers
        if self._filled + len(self._opened) > self._capacity:
            self.flush()
        self._runs = [
            (handed_over(batch.starts, self._device), handed_over(batch.stops, self._device))
            for batch in views
        ]

    def receive(self, side: str, hidden: Tensor, view: int = 0) -> Tensor:
        """Pool a layer `(batch, length, d)` into this batch's rows of a side.

        Args:
            side: name of the side.
            hidden: the layer, at the positions of one of the views that `open` was given.
            view: its number.

        Returns whether all of them are finite, one bool on the device of the rows. Rows of a model
        on another device are copied to that of the rows here, and only here.
        """
        out = self._blocks[0][side][self._filled : self._filled + len(self._opened)]
        flat = hidden.detach().reshape(-1, hidden.shape[-1]).to(self._device)
        starts, stops = self._runs[view]
        return ops.pool_rows(flat, starts, stops, out, backend=self._backend)

    def close(self) -> None:
        """Count the batch's rows as there, on every side."""
        filled = self._filled + len(self._opened)
        self._numbers[self._filled : filled] = self._opened
        self._filled, self._opened = filled, self._opened[:0]

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
        self.rejoin()

    def rejoin(self) -> None:
        """Let the main stream wait, after which what rows were added to may be read or freed."""
        self._beside.main_waits_for(self._beside.done())


class FiniteRows:
    """Raises for the first layer that is not finite: at once on the CPU, a batch later on a GPU.

    What a GPU found is fetched when a batch ends and read when the next one does, so that neither
    waits for the other.
    """

    def __init__(self, refuse: Callable[[str, Layer, int], ValueError]) -> None:
        self._refuse = refuse
        self._layers: list[tuple[str, Layer, int]] = []
        self._found: list[Tensor] = []
        self._fetched: tuple[list[tuple[str, Layer, int]], Tensor, torch.cuda.Event] | None = None

    def expect(self, finite: Tensor, role: str, layer: Layer, batch: int) -> None:
        """Note whether the rows of a layer are finite."""
        if finite.is_cuda:
            self._layers.append((role, layer, batch))
            self._found.append(finite)
        elif not finite:
            raise self._refuse(role, layer, batch)

    def end_batch(self) -> None:
        """Read what was fetched before, and fetch what was noted since."""
        self._read()
        if self._found:
            found = torch.stack(self._found)
            fetched = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            fetched.copy_(found, non_blocking=True)
            event = torch.cuda.current_stream(found.device).record_event()
            self._fetched = self._layers, fetched, event
            self._layers, self._found = [], []

    def end(self) -> None:
        """Read everything."""
        self.end_batch()
        self._read()

    def _read(self) -> None:
        if self._fetched is not None:
            (layers, found, event), self._fetched = self._fetched, None
            event.synchronize()
            if not found.all():
                raise self._refuse(*layers[int((~found).nonzero()[0])])
