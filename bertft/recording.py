"""One pass of several encoders over texts, its rows kept as features in memory or on disk.

Rows stand in the order of the corpus, text by text, whatever the batches and shards. Owns the pass,
the layout of shards and how a pass that was cut short goes on; reading them is for `features`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertft import ops
from bertft.blocks import Layer
from bertft.capture import Receive, capture
from bertft.checkpoints import Checkpoint
from bertft.features import DTYPES, Features, Key, restored
from bertft.files import is_disk_full, locked, save_tensors
from bertft.progress import Display
from bertft.rows import Batch, Encoded, Rows, groups_by_length, lengths_of, pad
from bertft.shards import FORMAT, INDEX, Shard, checksum, require_whole, write_index
from bertft.stores import contents, matching, planned
from bertft.traces import inference

GIB = 2**30
SHARD_BYTES = 256 * 2**20


def feature_bytes(
    sides: Mapping[str, Checkpoint],
    rows: Rows,
    layers: Mapping[str, Sequence[int]] | None,
    dtype: str,
) -> int:
    """Return the bytes that features take."""
    return rows.n * sum(_widths(sides, layers).values()) * _dtype(dtype).itemsize


def record(
    sides: Mapping[str, Checkpoint],
    rows: Rows,
    *,
    layers: Mapping[str, Sequence[int]] | None = None,
    folder: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    batch_size: int = 32,
    memory_gib: float = 2.0,
    shard_bytes: int = SHARD_BYTES,
    display: Display | None = None,
) -> Features:
    """Run encoders over texts once and keep the rows of their layers.

    A folder that holds these features already, or part of them, is used: the pass goes on with
    the first shard that is missing.

    Args:
        sides: encoders by name, with the same tokens.
        rows: encoded texts with the runs of positions whose means are the rows; see `rows`.
        layers: which layers of each side; all of them by default.
        folder: for the shards; None for memory.
        dtype: "float32", "bfloat16" or "float16", of the rows that are kept.
        batch_size: most texts at a time.
        memory_gib: most that features in memory may take.
        shard_bytes: about as much as a shard holds.
        display: for the bar.

    Raises:
        ValueError: no rows, features that need more than `memory_gib`, an activation that is not
            finite or out of the dtype's range, a folder with features of other models, data,
            layers or dtype, or a shard that is truncated or altered.
        OSError: a disk that is full; shards that are done stay.
    """
    widths, kept = _widths(sides, layers), _dtype(dtype)
    if min(rows.n, batch_size, shard_bytes) < 1:
        raise ValueError(
            f"[features] rows, batch_size and shard_bytes must be at least one, got {rows.n}, "
            f"{batch_size} and {shard_bytes}; pass more."
        )
    need = feature_bytes(sides, rows, layers, dtype)
    if folder is None and need > memory_gib * GIB:
        raise ValueError(
            f"[features] features must fit in memory_gib, {memory_gib}, got {need / GIB:.2f} GiB; "
            "pass a folder, fewer layers, float16 or more memory."
        )
    display = display or Display(False)
    offsets = torch.from_numpy(np.cumsum([0, *(len(text.starts) for text in rows.texts)]))
    a_pass = _Pass(sides, widths, kept, batch_size)
    with inference(*(side.encoder for side in sides.values())):
        if folder is not None:
            return _to_disk(Path(folder), a_pass, rows, offsets, shard_bytes, display)
        with display.bar("features", rows.n, "rows") as bar:
            tensors = a_pass.run(rows.texts, bar.advance)
        return Features(offsets, widths, kept, [Shard(rows.n, tensors)])


def require_store(
    folder: str | os.PathLike[str],
    sides: Mapping[str, Checkpoint],
    rows: Rows,
    *,
    layers: Mapping[str, Sequence[int]] | None = None,
    dtype: str = "float32",
) -> None:
    """Refuse a folder that `record` would refuse or could not read, before any pass.

    Raises:
        ValueError: features of other models, data, layers or dtype, or a shard that is truncated or
            altered.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        return
    found, _ = matching(folder, contents(sides, _widths(sides, layers), _dtype(dtype), rows))
    for shard in found["shards"]:
        if shard["crc32"] is not None:
            require_whole(folder / shard["file"], shard["bytes"], shard["crc32"])


class _Pass:
    """Encoders, and which of their layers are kept as what."""

    def __init__(
        self,
        sides: Mapping[str, Checkpoint],
        widths: Mapping[Key, int],
        dtype: torch.dtype,
        batch_size: int,
    ) -> None:
        self.sides, self.widths, self.dtype = sides, widths, dtype
        self._batch_size = batch_size

    @property
    def row_bytes(self) -> int:
        return sum(self.widths.values()) * self.dtype.itemsize

    def run(self, texts: Sequence[Encoded], advance: Callable[[int], None]) -> dict[str, Tensor]:
        """The rows of all layers over texts, by name of side and layer."""
        n = sum(len(text.starts) for text in texts)
        # Tensors of inference mode could not be used for training.
        with torch.inference_mode(False):
            out = {
                f"{side}.{layer}": torch.empty(n, width, dtype=self.dtype)
                for (side, layer), width in self.widths.items()
            }
        ends = np.cumsum([len(text.starts) for text in texts]).tolist()
        firsts = [0, *ends[:-1]]
        with_rows = [number for number, text in enumerate(texts) if len(text.starts)]
        lengths = lengths_of([[texts[number] for number in with_rows]])
        counts = [len(texts[number].starts) for number in with_rows]
        pad_id = next(iter(self.sides.values())).pad_id
        wanted: dict[str, list[Layer]] = {side: [] for side in self.sides}
        for side, layer in self.widths:
            wanted[side].append(Layer(layer))
        for number, group in enumerate(groups_by_length(lengths, counts, self._batch_size, n)):
            own = [with_rows[place] for place in group]
            batch = pad([texts[text] for text in own], pad_id)
            place = torch.cat([torch.arange(firsts[text], ends[text]) for text in own])
            for side, checkpoint in self.sides.items():
                receive = self._receiver(side, batch, place, out)
                try:
                    capture(
                        checkpoint.encoder,
                        checkpoint.blocks,
                        batch.ids,
                        batch.mask,
                        receive,
                        wanted[side],
                    )
                except ValueError as error:
                    error.add_note(f"(batch {number} of {len(texts)} texts; {checkpoint.name!r})")
                    raise
            advance(len(place))
        return out

    def _receiver(
        self, side: str, batch: Batch, place: Tensor, out: Mapping[str, Tensor]
    ) -> Receive:
        def receive(layer: Layer, hidden: Tensor) -> None:
            # Rows of a model on another device are copied to the CPU here, and only here.
            flat = hidden.detach().reshape(-1, hidden.shape[-1]).to("cpu")
            wide = torch.float64 if flat.dtype == torch.float64 else torch.float32
            pooled = torch.empty(len(place), flat.shape[1], dtype=wide)
            finite = bool(ops.pool_rows(flat, batch.starts, batch.stops, pooled))
            kept = self._kept(pooled, finite, side, layer.number)
            out[f"{side}.{layer.number}"].index_copy_(0, place, kept)

        return receive

    def _kept(self, pooled: Tensor, finite: bool, side: str, layer: int) -> Tensor:
        kept = pooled.to(self.dtype)
        if not finite:
            raise ValueError(
                f"[features] activations must be finite, got NaN or infinity in layer {layer} of "
                f"{side!r}; check its weights, or use float32."
            )
        if kept.dtype != pooled.dtype and not bool(kept.isfinite().all()):
            name = str(kept.dtype).removeprefix("torch.")
            remedy = "check its weights" if name == "float32" else "use bfloat16 or float32"
            raise ValueError(
                f"[features] activations must be in the range of {name}, got "
                f"{float(pooled.abs().max()):.3g} in layer {layer} of {side!r}; {remedy}."
            )
        return kept


# What a run that was killed leaves: our own halves, and those that safetensors makes beside them.
HALVES = (".*.safetensors.*", f".{INDEX}.*", ".tmp??????")


def _to_disk(
    folder: Path, a_pass: _Pass, rows: Rows, offsets: Tensor, shard_bytes: int, display: Display
) -> Features:
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True), _room(folder):
        index, stored = _index(folder, a_pass, rows, offsets, shard_bytes)
        for half in [half for pattern in HALVES for half in folder.glob(pattern)]:
            half.unlink()  # nobody else writes here now
        with display.bar("features", rows.n, "rows") as bar:
            for shard in index["shards"]:
                (first, last), (start, stop) = shard["texts"], shard["rows"]
                if shard["crc32"] is not None:
                    bar.advance(stop - start)
                    continue
                path = folder / shard["file"]
                tensors = a_pass.run(rows.texts[first:last], bar.advance)
                named = {f"{stored[s]}.{n}": tensors[f"{s}.{n}"] for s, n in a_pass.widths}
                save_tensors(path, named, {"format": FORMAT})
                shard |= {"crc32": checksum(path), "bytes": path.stat().st_size}
                write_index(folder, index)
    return restored(folder, index, stored)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Say what can be done about a full disk."""
    try:
        yield
    except Exception as error:  # safetensors has one of its own for what the system says
        if is_disk_full(error):
            raise OSError(
                f"[features] disk must have room for another shard, got none in {str(folder)!r}; "
                "free some and capture into the folder again, which goes on from there."
            ) from error
        raise


def _index(
    folder: Path, a_pass: _Pass, rows: Rows, offsets: Tensor, shard_bytes: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """The index of a folder, new or with the same features, and its name for each side."""
    wanted = contents(a_pass.sides, a_pass.widths, a_pass.dtype, rows)
    if (folder / INDEX).is_file():
        index, stored = matching(folder, wanted)
    else:
        index = planned(wanted, offsets, shard_bytes // a_pass.row_bytes)
        stored = {side: side for side in a_pass.sides}
    if any(shard["crc32"] is None for shard in index["shards"]):
        write_index(folder, index)
    return index, stored


def _widths(
    sides: Mapping[str, Checkpoint], layers: Mapping[str, Sequence[int]] | None
) -> dict[Key, int]:
    every = {side: range(checkpoint.blocks.depth + 1) for side, checkpoint in sides.items()}
    chosen = every if layers is None else layers
    if not sides or chosen.keys() != every.keys():
        raise ValueError(
            f"[features] layers must be given for each of one or more sides, got {list(chosen)} "
            f"for the sides {list(sides)}; pass layers=None for all."
        )
    for side, own in chosen.items():
        if not own or not set(own) <= set(every[side]):
            raise ValueError(
                f"[features] layers of {side!r} must be some of 0..{every[side][-1]}, got "
                f"{list(own)}; leave others out."
            )
    return {
        (side, layer): checkpoint.blocks.widths[layer]
        for side, checkpoint in sides.items()
        for layer in chosen[side]
    }


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(
            f"[features] dtype must be one of {', '.join(DTYPES)}, got {name!r}; pass its name."
        )
    return DTYPES[name]
