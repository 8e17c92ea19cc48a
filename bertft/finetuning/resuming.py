"""Checkpoints of a run: which are whole, whose they are, and what a full disk leaves of them."""

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bertft.files import is_disk_full, write_text

DESCRIPTION = "run.json"


def open_checkpoints(folder: Path, described: Mapping[str, Any], *, resume: bool) -> Path | None:
    """Return the last whole checkpoint to resume from, or None to start at the beginning.

    Removes checkpoints that were cut short. A new run clears the folder and leaves its description.

    Raises:
        ValueError: the checkpoints are of a run with another description, or of nobody knows which.
    """
    description = folder / DESCRIPTION
    if not resume or not (description.is_file() or any(folder.glob("checkpoint-*"))):
        shutil.rmtree(folder, ignore_errors=True)
        write_text(description, json.dumps(described, indent=2))
        return None
    if not description.is_file():
        raise ValueError(
            f"[finetune] checkpoints must have their {DESCRIPTION}, got none in {str(folder)!r}; "
            "restore it, or remove the checkpoints to start anew (--overwrite)."
        )
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"[finetune] {DESCRIPTION} must be JSON, got {error} in {str(folder)!r}; start anew "
            "(--overwrite)."
        ) from error
    require_same(found, described, folder)
    drop_partial(folder)
    return last_checkpoint(folder)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the most steps, None where there is none."""
    steps = {int(path.name.split("-")[1]): path for path in folder.glob("checkpoint-*")}
    return steps[max(steps)] if steps else None


def require_same(found: Mapping[str, Any], described: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a run that is described otherwise.

    Raises:
        ValueError: names the first setting that differs, with both values.
    """
    for key, value in json.loads(json.dumps(described)).items():
        before = found.get(key)
        if before == value:
            continue
        if isinstance(value, list) and isinstance(before, list):
            before, value = (
                [x for x in a if x not in b] for a, b in ((before, value), (value, before))
            )
        raise ValueError(
            f"[finetune] checkpoint must be of the same run, got {key} {json.dumps(before)} in "
            f"{str(folder)!r} where this run has {json.dumps(value)}; pass the same settings, "
            "another out, or start anew (--overwrite)."
        )


def drop_partial(folder: Path) -> None:
    """Remove checkpoints of which a file is missing or cut short."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not _is_whole(checkpoint):
            shutil.rmtree(checkpoint)


def _is_whole(checkpoint: Path) -> bool:
    """Whether what the Trainer writes last is there, and the large files have their ends."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", framework="pt"):
            return zipfile.is_zipfile(checkpoint / "optimizer.pt")
    except (OSError, ValueError, SafetensorError):
        return False


@contextmanager
def telling_full_disks(folder: Path) -> Iterator[None]:
    """Turn what libraries raise on a full disk into one error, and drop what was cut short."""
    try:
        yield
    except Exception as error:  # tokenizers raises no narrower one
        if not is_disk_full(error):
            raise
        drop_partial(folder)
        kept = last_checkpoint(folder)
        raise OSError(
            f"[finetune] disk must have room for checkpoints and the model, got a full one at "
            f"{str(folder.parent)!r}; free some, and resume (--resume; ablate does by itself) from "
            f"{kept.name if kept else 'the beginning'}."
        ) from error
