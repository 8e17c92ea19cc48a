"""Atomic files: a reader sees the old file or the whole new one, never a part."""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NO_ROOM = ("No space left", "os error 28", "PytorchStreamWriter failed", "unexpected pos")


def is_disk_full(error: Exception) -> bool:
    """Return whether an error, of the system or of a library, says that there is no room."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or any(sign in str(error) for sign in NO_ROOM)


def reason_of(error: Exception) -> str | None:
    """Return what an error of ours or of the system tells the user; None for any other."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    # Texts of our own name the function that they are from, and say what to do.
    if not str(error).startswith("["):
        return None
    return " ".join([str(error), *getattr(error, "__notes__", [])])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.touch()
    permissions = temporary.stat().st_mode
    try:
        yield temporary
        # safetensors makes files that only their owner may read, whatever the umask says.
        temporary.chmod(permissions)
        temporary.replace(path)
    except OSError as error:
        if error.strerror and error.filename is None:  # writing to an open file names none
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file or folder inside the block; yields whether it was to be had.

    The lock is the kernel's: it goes with the process that holds it, however that ends.
    """
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"], described: dict[str, Any]) -> None:
    """Write a safetensors file with a JSON description in its header, atomically."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"bertft": json.dumps(described)})


def load_tensors(path: Path, kind: str) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Read a file that `save_tensors` wrote with `described["format"] == kind`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"[load] path must be a file, got {str(path)!r}; check the name.")
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get("bertft", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"[load] path must be a whole safetensors file, got {str(path)!r} ({error}); "
            "write it again."
        ) from error
    if described.get("format") != kind:
        raise ValueError(
            f"[load] path must hold {kind}, got {described.get('format')!r} in {str(path)!r}; "
            "pass a file that bertft saved."
        )
    return tensors, described
