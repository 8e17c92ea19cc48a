"""Features: rows of layers captured once and kept for probes, in memory or in shards on disk.

Owns how features are found again: the index of a folder, its shards behind memory maps, and their
checksums. Capturing and writing them is for `recording`.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

INDEX, FORMAT, VERSION = "features.json", "bertft features", 1
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
        out = torch.empty(len(index), self.shape[1], dtype=self.dtype)
        home = torch.bucketize(index, self._ends, right=True)
        first = 0
        for number, (part, end) in enumerate(zip(self._parts, self._ends.tolist(), strict=True)):
            here = (home == number).nonzero()[:, 0]
            if len(here):
                out[here] = part.index_select(0, index[here] - first)
            first = end
        return out


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
        shards: Sequence["Shard"],
    ) -> None:
        self.offsets = offsets
        self.widths = dict(widths)
        self.dtype = dtype
        self._shards = list(shards)

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
        """`(n,)` int64, the number of each row's text."""
        return torch.arange(len(self.offsets) - 1).repeat_interleave(self.offsets.diff())

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
        parts = [shard.tensor(self._named(side, layer)) for shard in self._shards]
        return parts[0] if len(parts) == 1 else Mapped(parts)

    def read(self, side: str, layer: int) -> Tensor:
        """Return a copy of a layer's rows `(n, d)` in memory, in the dtype that they are kept in.

        Raises:
            KeyError: a layer that was not captured.
            ValueError: a shard that is truncated or altered.
        """
        name = self._named(side, layer)
        out = torch.empty(self.n, self.widths[side, layer], dtype=self.dtype)
        first = 0
        for shard in self._shards:
            shard.read(name, out[first : first + shard.n])
            first += shard.n
        return out

    def prefetch(self, side: str, layer: int) -> None:
        """Ask the system to read a layer ahead while something else goes on."""
        for shard in self._shards:
            shard.prefetch(self._named(side, layer))

    def _named(self, side: str, layer: int) -> str:
        if (side, layer) not in self.widths:
            raise KeyError(
                f"[features] layer must be one that was captured, got {layer} of {side!r}; there "
                f"are {sorted(self.widths)}."
            )
        return f"{side}.{layer}"


@dataclass
class Shard:
    """Some consecutive rows: in memory, or in a file that is mapped when it is first needed.

    Attributes:
        n: number of rows.
        tensors: the rows of each layer by name, once they are mapped.
        path: of the file; None for memory.
        crc32: checksum of the file.
        nbytes: its size.
    """

    n: int
    tensors: dict[str, Tensor] | None
    path: Path | None = None
    crc32: int = 0
    nbytes: int = 0
    _checked: bool = False

    def tensor(self, name: str) -> Tensor:
        """Return the rows of a layer, mapped."""
        if self.tensors is None:
            from safetensors import safe_open

            self._check()
            with safe_open(self.path, framework="pt") as file:
                self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return self.tensors[name]

    def read(self, name: str, out: Tensor) -> None:
        """Copy the rows of a layer, at the speed at which the file can be read."""
        if self.path is None:
            out.copy_(self.tensor(name))
            return
        self._check()
        start, _ = self._place(name)
        buffer = memoryview(out.view(torch.uint8).flatten().numpy().data)
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            file.readinto(buffer)

    def prefetch(self, name: str) -> None:
        """Ask the system to read a layer ahead."""
        if self.path is not None:
            self._check()
            start, length = self._place(name)
            with self.path.open("rb") as file:
                os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)

    def _place(self, name: str) -> tuple[int, int]:
        """Where a tensor's bytes are in a safetensors file, and how many."""
        assert self.path is not None
        with self.path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            first, last = json.loads(file.read(size))[name]["data_offsets"]
        return 8 + size + first, last - first

    def _check(self) -> None:
        """Compare the file with its size and its checksum, once."""
        if self._checked:
            return
        assert self.path is not None
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size != self.nbytes:
            raise ValueError(
                f"[features] shard {str(self.path)!r} must have {self.nbytes} bytes, got {size}; "
                "delete it and capture into the folder again."
            )
        found = checksum(self.path)
        if found != self.crc32:
            raise ValueError(
                f"[features] shard {str(self.path)!r} must have the checksum {self.crc32:08x}, got "
                f"{found:08x}: it was altered; delete it and capture into the folder again."
            )
        self._checked = True


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 22):
            value = zlib.crc32(chunk, value)
    return value


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a folder with features, whole or not.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a damaged index, or one of another format.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"[features] folder must hold features, got {str(folder)!r} without {INDEX}; capture "
            "into it first."
        )
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = index["format"] == FORMAT and index["version"] == VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"[features] {INDEX} must be a whole index, got {str(path)!r} ({error}); delete the "
            "folder."
        ) from error
    if not known:
        raise ValueError(
            f"[features] {INDEX} must be of format {FORMAT!r} {VERSION}, got {str(path)!r}; "
            "capture into another folder."
        )
    return index


def restored(folder: Path, index: Mapping[str, Any]) -> Features:
    """Return the features that an index tells of."""
    widths = {
        (side, int(layer)): width
        for side, model in index["models"].items()
        for layer, width in model["layers"].items()
    }
    shards = [
        Shard(
            shard["rows"][1] - shard["rows"][0],
            None,
            folder / shard["file"],
            shard["crc32"],
            shard["bytes"],
        )
        for shard in index["shards"]
    ]
    return Features(torch.tensor(index["offsets"]), widths, DTYPES[index["dtype"]], shards)
