"""Features: rows of layers captured once and kept for probes, in memory or in shards on disk.

Owns how rows are read, whatever shards they lie in. The files are for `shards`, capturing and
writing for `recording`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bertft.shards import Shard, read_index

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Key = tuple[str, int]
Layer: TypeAlias = "Tensor | Mapped"


class Mapped:
    """A matrix `(n, d)` whose rows lie in several mapped shards."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self._parts = list(parts)
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.shape = torch.Size([int(self._ends[-1]), parts[0].shape[1]])
        self.dtype, self.device = parts[0].dtype, parts[0].device

    def __len__(self) -> int:
        return int(self.shape[0])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return some rows, as a tensor does; only they are read."""
        assert dim == 0
        out = _empty(len(index), self.shape[1], self.dtype)
        self.gather(index, out)
        return out

    def gather(self, index: Tensor, out: Tensor) -> None:
        """Write some rows in the dtype of `out`; only they are read."""
        if len(index) and not (int(index.min()) >= 0 and int(index.max()) < len(self)):
            raise IndexError(
                f"[features] index must be in 0..{len(self) - 1}, got {int(index.min())} to "
                f"{int(index.max())}; check which texts were captured."
            )
        index = index.to(torch.int64).contiguous()
        rising = bool((index[1:] > index[:-1]).all())
        places: list[Any]
        if rising:  # those of a shard stand together
            stops = [0, *torch.searchsorted(index, self._ends).tolist()]
            places = [slice(*pair) for pair in pairwise(stops)]
        else:
            homes = torch.bucketize(index, self._ends, right=True)
            places = [(homes == number).nonzero()[:, 0] for number in range(len(self._parts))]
        first = 0
        for part, end, here in zip(self._parts, self._ends.tolist(), places, strict=True):
            own = index[here] - first
            if rising and len(own) and int(own[-1] - own[0]) == len(own) - 1:
                out[here].copy_(part[own[0] : own[-1] + 1])
            elif rising and part.dtype == out.dtype:
                torch.index_select(part, 0, own, out=out[here])
            else:
                out[here] = part.index_select(0, own).to(out.dtype)
            first = end


class Features:
    """Captured rows `(n, d)` of layers of one or several encoders.

    Attributes:
        offsets: `(texts + 1,)` int64; the rows of text i are offsets[i]..offsets[i + 1] - 1.
        widths: number of columns for each (side, layer).
        dtype: of the rows as they are kept.
    """

    def __init__(
        self,
        offsets: Tensor,
        widths: Mapping[Key, int],
        dtype: torch.dtype,
        shards: Sequence[Shard],
        stored: Mapping[str, str] | None = None,
    ) -> None:
        self.offsets, self.widths, self.dtype = offsets, dict(widths), dtype
        self._shards = list(shards)
        # The names of sides in the shards, where these are others.
        self._stored = dict(stored or {})

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Features":
        """Open the features that `record` left in a folder.

        Raises:
            FileNotFoundError: there are none.
            ValueError: the pass that wrote them did not end, or an index of another format.
        """
        index = read_index(Path(folder))
        if any(shard["crc32"] is None for shard in index["shards"]):
            raise ValueError(
                f"[features] folder must hold all shards, got {str(folder)!r} from a pass that was "
                "cut short; capture into it again, which goes on where it stopped."
            )
        return restored(Path(folder), index)

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.offsets[-1])

    @property
    def text(self) -> Tensor:
        """`(n,)` int32, the number of each row's text."""
        return torch.arange(len(self.offsets) - 1, dtype=torch.int32).repeat_interleave(
            self.offsets.diff()
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.n * sum(self.widths.values()) * self.dtype.itemsize

    def rows(self, side: str, layer: int) -> Layer:
        """Return the rows `(n, d)` of a layer without reading them; see `read` for a copy.

        Raises:
            KeyError: a layer that was not captured.
            ValueError: a shard that is truncated or altered.
        """
        name = self._name(self._key(side, layer))
        parts = [shard.tensor(name) for shard in self._shards]
        return parts[0] if len(parts) == 1 else Mapped(parts)

    def read(self, side: str, layer: int) -> Tensor:
        """Return a copy of a layer's rows `(n, d)` in memory, in the dtype that they are kept in.

        Raises:
            KeyError: a layer that was not captured.
            ValueError: a shard that is truncated or altered.
        """
        out = _empty(self.n, self.widths[self._key(side, layer)], self.dtype)
        self._copy((side, layer), 0, out)
        return out

    def gather(self, side: str, layer: int, index: Tensor, out: Tensor) -> None:
        """Write some rows `(m, d)` of a layer to `out` in float32; only they are read.

        `index` is `(m,)` int64, in any order.

        Raises:
            KeyError: a layer that was not captured.
            IndexError: a row that there is not.
            ValueError: `out` has another shape or dtype, or a shard is truncated or altered.
        """
        shape = (len(index), self.widths[self._key(side, layer)])
        if tuple(out.shape) != shape or out.dtype != torch.float32:
            raise ValueError(
                f"[features] out must be float32 of shape {shape}, got {out.dtype} "
                f"{tuple(out.shape)}; allocate it so."
            )
        Mapped([shard.tensor(self._name((side, layer))) for shard in self._shards]).gather(
            index, out
        )

    def prefetched(self, keys: Iterable[Key]) -> Iterator[Tensor]:
        """Yield the rows `(n, d)` of several layers in float32, each read while one is in use.

        Two matrices are in memory, and used in turn: a matrix is overwritten once the next one
        has been taken. Rows that are in memory as float32 are yielded as they are.

        Raises:
            KeyError: a layer that was not captured.
            ValueError: a shard that is truncated or altered.
        """
        return self._ahead([(self._key(*key), 0, self.n) for key in keys])

    def blocks(self, side: str, layer: int, size: int) -> Iterator[Tensor]:
        """Yield a layer in order, up to `size` rows at a time; see `prefetched` for the rest."""
        key = self._key(side, layer)
        starts = range(0, self.n, size)
        return self._ahead([(key, first, min(first + size, self.n)) for first in starts])

    def _ahead(self, parts: Sequence[tuple[Key, int, int]]) -> Iterator[Tensor]:
        """Float32 rows of parts of layers, read by a thread one part ahead."""
        if self.dtype == torch.float32 and all(shard.path is None for shard in self._shards):
            yield from (self._shards[0].tensor(self._name(key))[a:b] for key, a, b in parts)
            return
        most = max((self.widths[key] * (last - first) for key, first, last in parts), default=0)
        rooms = [_empty(1, most, torch.float32)[0] for _ in range(2)]

        def read(number: int) -> Tensor:
            key, first, last = parts[number]
            width = self.widths[key]
            out = rooms[number % 2][: (last - first) * width].view(-1, width)
            self._copy(key, first, out)
            return out

        with ThreadPoolExecutor(1) as thread:
            waiting = [thread.submit(read, 0)] if parts else []
            for number in range(len(parts)):
                rows = waiting.pop().result()
                if number + 1 < len(parts):
                    waiting.append(thread.submit(read, number + 1))
                yield rows

    def _copy(self, key: Key, first: int, out: Tensor) -> None:
        """Copy rows of a layer from `first` on."""
        start = 0
        for shard in self._shards:
            low, high = max(first, start), min(first + len(out), start + shard.n)
            if low < high:
                own = shard.tensor(self._name(key))[low - start : high - start]
                out[low - first : high - first].copy_(own)
            start += shard.n

    def _name(self, key: Key) -> str:
        side, layer = key
        return f"{self._stored.get(side, side)}.{layer}"

    def _key(self, side: str, layer: int) -> Key:
        if (side, layer) not in self.widths:
            raise KeyError(
                f"[features] layer must be one that was captured, got {layer} of {side!r}; there "
                f"are {sorted(self.widths)}."
            )
        return side, layer


def _empty(n: int, width: int, dtype: torch.dtype) -> Tensor:
    """Memory for a thread of its own to write: not in inference mode, whoever asks.

    NumPy asks for huge pages where torch does not, which makes first writes three times as fast.
    """
    # One element more: NumPy's empty arrays cannot be viewed as another type.
    raw = np.empty((n * width + 1) * dtype.itemsize, np.uint8)
    with torch.inference_mode(False):
        return torch.from_numpy(raw).view(dtype)[:-1].view(n, width)


def restored(
    folder: Path, index: Mapping[str, Any], stored: Mapping[str, str] | None = None
) -> Features:
    """Return the features that an index tells of.

    Args:
        folder: of the index and the shards.
        index: what `read_index` returns.
        stored: for each side, the index's name for it; by default all of them under these names.
    """
    names = {side: side for side in index["models"]} if stored is None else stored
    widths = {
        (side, int(layer)): width
        for side, name in names.items()
        for layer, width in index["models"][name]["layers"].items()
    }
    shards = [
        Shard(stop - start, None, folder / shard["file"], shard["crc32"], shard["bytes"])
        for shard in index["shards"]
        for start, stop in [shard["rows"]]
    ]
    return Features(torch.tensor(index["offsets"]), widths, DTYPES[index["dtype"]], shards, names)
