"""Tidy tables and their provenance: the files of a run, written whole or not at all."""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

PROVENANCE = "provenance.json"
FILES = "files"
PACKAGES = ("bertft", "torch", "transformers", "tokenizers", "numpy")


def now() -> str:
    """Return the time as it stands in provenance: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds another run.

    Raises:
        FileExistsError: it holds one and `overwrite` is not set.
        NotADirectoryError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"[save] out must be a folder, got the file {str(folder)!r}; pass another path."
        )
    folder = folder.absolute()
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise NotADirectoryError(
            f"[save] out must be a folder that can be written, got {str(folder)!r} in "
            f"{str(parent)!r}; pass another path."
        )
    if (folder / PROVENANCE).exists() and not overwrite:
        raise FileExistsError(
            f"[save] out must not hold another run, got {str(folder)!r}; pass another folder, or "
            "overwrite (--overwrite)."
        )


def save_run(
    folder: Path,
    table: pd.DataFrame,
    provenance: Mapping[str, Any],
    write: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> None:
    """Write `results.parquet`, `results.csv`, further files and last the provenance.

    All of them are written beside the folder first and then moved in, the provenance last, so a
    folder with provenance holds a whole run. The file names the others of its run, and a run that
    takes its place removes these; whatever else is in the folder stays.

    Args:
        folder: of the run.
        table: tidy.
        provenance: as JSON types.
        write: puts further files, and no folders, into the folder that it is called with.
        overwrite: replace a run that is there already.

    Raises:
        FileExistsError: the folder holds another run and `overwrite` is not set.
        NotADirectoryError: it is a file, or cannot be written.
    """
    require_free(folder, overwrite=overwrite)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Inside the folder where there is one: its parent need not be ours to write.
    beside = folder if folder.exists() else folder.parent
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=beside) as name:
        staged = Path(name)
        table.to_parquet(staged / "results.parquet", index=False)
        table.to_csv(staged / "results.csv", index=False)
        write(staged)
        files = sorted(path.name for path in staged.iterdir())
        text = json.dumps({**provenance, FILES: files}, indent=2, ensure_ascii=False) + "\n"
        (staged / PROVENANCE).write_text(text, encoding="utf-8")
        # safetensors makes files that only their owner may read, whatever the umask says.
        permissions = (staged / PROVENANCE).stat().st_mode
        folder.mkdir(exist_ok=True)
        before = _files_of(folder)
        (folder / PROVENANCE).unlink(missing_ok=True)
        for file in before:
            (folder / file).unlink(missing_ok=True)
        for file in (*files, PROVENANCE):
            (staged / file).chmod(permissions)
            shutil.move(staged / file, folder / file)


def _files_of(folder: Path) -> list[str]:
    """Names of the files of the run in a folder, the provenance left out."""
    try:
        files = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))[FILES]
        return [name for name in files if name == Path(name).name]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def load_run(folder: str | os.PathLike[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the table and the provenance of a run.

    Raises:
        FileNotFoundError: the folder holds no (whole) run.
        ValueError: its files are damaged.
    """
    folder = Path(folder)
    if not (folder / PROVENANCE).is_file() or not (folder / "results.parquet").is_file():
        raise FileNotFoundError(
            f"[load] folder must hold a run, got {str(folder)!r} without {PROVENANCE} or "
            "results.parquet; pass the folder given as out."
        )
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / "results.parquet")
    except (ValueError, OSError) as error:
        raise ValueError(
            f"[load] files of a run must be whole, got {str(folder)!r} ({error}); run it again."
        ) from error
    if not isinstance(provenance, dict):
        raise ValueError(
            f"[load] {PROVENANCE} must hold an object, got {type(provenance).__name__} in "
            f"{str(folder)!r}; run it again."
        )
    provenance.pop(FILES, None)
    return table, provenance


def load_table(folder: Path, name: str) -> pd.DataFrame:
    """Read a further table of a run; an empty one if the run has none of this name.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / f"{name}.parquet"
    if not path.is_file():
        return pd.DataFrame()
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"[load] files of a run must be whole, got {str(path)!r} ({error}); run it again."
        ) from error
