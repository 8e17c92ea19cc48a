"""The repository's own rules: who imports whom, where pybind11 may be, how errors read."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bertft"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import from the others; everything may use FOUNDATIONS.
FOUNDATIONS = {"amounts", "devices", "files", "quiet", "progress", "results"}
ALLOWED = {
    "amounts": set(),
    "devices": set(),
    "files": set(),
    "quiet": set(),
    "progress": set(),
    "results": set(),
    "_native": set(),
    "ops": {"_native"},
    "sums": {"ops"},
    "arrays": {"ops"},
    "moments": {"arrays", "sums", "ops"},
    "similarity": {"arrays", "moments", "sums", "ops"},
    "traces": set(),
    "blocks": {"traces"},
    "models": {"blocks", "traces"},
    "adapters": {"blocks"},
    "checkpoints": {"adapters", "blocks", "models"},
    "corpora": set(),
    "rows": set(),
    "tokens": {"corpora", "rows"},
    "tokenizing": {"corpora", "rows", "tokens"},
    "pairing": {"checkpoints", "corpora", "rows", "tokenizing"},
    "capture": {"blocks", "models", "ops", "rows", "traces"},
    "finetuning": {"blocks", "checkpoints", "corpora", "models", "ops", "traces"},
    "shards": set(),
    "features": {"shards"},
    "stores": {"checkpoints", "features", "rows", "shards"},
    "recording": {
        "blocks",
        "capture",
        "checkpoints",
        "features",
        "ops",
        "rows",
        "shards",
        "stores",
        "traces",
    },
    "probing": {"corpora", "features", "moments", "ops", "rows", "tokenizing"},
    "report": set(),
    "budget": set(),
    "gathering": {"moments"},
    "planning": {"blocks", "budget", "checkpoints", "moments", "ops", "rows", "similarity"},
    "choosing": {"blocks", "checkpoints", "planning", "similarity"},
    "preparing": {
        "blocks",
        "budget",
        "checkpoints",
        "choosing",
        "corpora",
        "moments",
        "pairing",
        "planning",
        "rows",
        "similarity",
        "tokenizing",
    },
    "streaming": {"blocks", "capture", "checkpoints", "gathering", "moments", "planning", "rows"},
    "evaluation": {"blocks", "moments", "ops", "planning", "similarity", "streaming"},
    "solving": {
        "blocks",
        "checkpoints",
        "evaluation",
        "gathering",
        "moments",
        "planning",
        "similarity",
    },
    "contrasts": {"similarity"},
    "compared": {"contrasts", "moments", "report"},
    "opening": {"checkpoints", "models", "planning"},
    "comparison": {
        "checkpoints",
        "compared",
        "corpora",
        "moments",
        "opening",
        "ops",
        "planning",
        "preparing",
        "rows",
        "similarity",
        "solving",
        "streaming",
        "traces",
    },
    "assigning": {"checkpoints", "probing"},
    "subjects": {
        "assigning",
        "blocks",
        "checkpoints",
        "features",
        "models",
        "probing",
        "recording",
        "traces",
    },
    "probes": {"assigning", "checkpoints", "probing", "report", "subjects"},
    "demonstration": {"compared", "comparison", "corpora", "finetuning"},
    "grids": {"checkpoints", "finetuning"},
    "ablation": {"finetuning", "grids", "report"},
    "cli": {"ablation", "compared", "comparison", "demonstration", "finetuning", "probes"},
    "__init__": {
        "ablation",
        "compared",
        "comparison",
        "finetuning",
        "models",
        "moments",
        "ops",
        "probes",
        "similarity",
    },
    "__main__": {"cli"},
}
# Third-party packages that a part must not import, not even inside a function.
FORBIDDEN = {
    "similarity": {"transformers"},
    "moments": {"transformers"},
    "sums": {"transformers"},
    "ops": {"transformers", "pandas", "numpy"},
    "report": {"torch", "transformers"},
    "files": {"torch"},
}
# Third-party packages that may be imported only when they are used.
LAZY = {
    "accelerate",
    "datasets",
    "matplotlib",
    "numba",
    "peft",
    "rich",
    "tokenizers",
    "transformers",
    "triton",
}
EAGER = {"report": {"matplotlib"}}
# Packages that a folder's modules may import against both rules; callers load it when they use it.
EXCEPTIONS = {"ops/trees": {"numba", "numpy"}, "ops/triton": {"triton"}}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").removesuffix(".pyi")


def imports(path, *, top_level=False):
    """Names imported by a module, those for type checking left out."""

    def visit(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                yield node.module
                if node.module == "bertft":
                    yield from (f"bertft.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            elif not (top_level and isinstance(node, ast.FunctionDef | ast.Lambda)):
                yield from visit(ast.iter_child_nodes(node))

    return list(visit(ast.parse(path.read_text(encoding="utf-8")).body))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path):
    part = part_of(path)
    allowed = ALLOWED[part] | FOUNDATIONS | {part}
    excepted = EXCEPTIONS.get(path.parent.relative_to(PACKAGE).as_posix(), set())
    forbidden = FORBIDDEN.get(part, set()) - excepted
    for name in imports(path):
        if name.startswith("bertft."):
            assert name.split(".")[1] in allowed, f"{part} imports {name}"
        assert name.split(".")[0] not in forbidden, f"{part} imports {name}"
    if part not in ("finetuning",) and "pretraining" not in path.name:
        for name in imports(path, top_level=True):
            lazy = LAZY - EAGER.get(part, set()) - excepted
            assert name.split(".")[0] not in lazy, f"{path.name} imports {name} when it is loaded"
            for folder in EXCEPTIONS:
                beside = f"bertft.{folder.replace('/', '.')}" in name and folder not in str(path)
                assert not beside, f"{path.name} imports {folder} when it is loaded"


def test_the_import_table_has_no_cycles():
    done = set()
    while len(done) < len(ALLOWED):
        ready = {part for part in ALLOWED if part not in done and ALLOWED[part] <= done}
        assert ready, f"cycle among {set(ALLOWED) - done}"
        done |= ready


def cxx_files():
    return sorted([*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cpp")])


CXX_ALLOWED = {"bindings": {"bindings", "kernels", "isa"}, "kernels": {"kernels", "isa"}}


@pytest.mark.parametrize("path", cxx_files(), ids=lambda path: path.name)
def test_includes_go_downward(path):
    part = path.relative_to(ROOT / "csrc").parts[0]
    for line in path.read_text().splitlines():
        found = re.match(r'#include ["<]([^">]+)[">]', line)
        if found is None:
            continue
        target = found[1]
        assert "pybind11" not in target or part == "bindings", f"{path.name} includes {target}"
        assert "Python.h" not in target
        if "/" in target and "pybind11" not in target and "<" not in line:
            # The instruction sets know element types only.
            allowed = CXX_ALLOWED.get(part, {"isa"})
            assert target.split("/")[0] in allowed or target == "kernels/dtypes.h"


def test_instruction_set_sources_hold_no_inline_library_code():
    files = [*(ROOT / "csrc/isa").glob("*.h"), ROOT / "csrc/isa/kernels.cpp"]
    text = "".join(path.read_text() for path in [*files, ROOT / "csrc/kernels/dtypes.h"])
    # Intrinsics are always inline, so the linker has no copies of them to choose from.
    assert set(re.findall(r"#include <(.+)>", text)) == {"cstdint", "immintrin.h"}


def raised_texts():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                texts = [n.value for n in ast.walk(node.exc) if isinstance(n, ast.Constant)]
                text = "".join(str(text) for text in texts if isinstance(text, str))
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


@pytest.mark.parametrize(("where", "text"), list(raised_texts()))
def test_errors_say_what_is_required_and_what_was_found(where, text):
    if not re.sub(r"\[\w+\]|\W", "", text) or "has no attribute" in text:
        return  # the whole text comes from below, or is Python's own
    assert re.search(r"\bmust\b", text), where
    assert re.search(r"\bgot\b|found", text) or "suit the rows" in text, where


def test_no_vague_module_names():
    vague = {"utils", "util", "helper", "helpers", "manager", "common", "misc", "core", "base"}
    assert not {path.stem.strip("_") for path in MODULES} & vague


def test_modules_stay_small():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 350, path


def test_measures_are_told_in_the_report():
    pytest.importorskip("torch")
    from bertft.report import vocabulary
    from bertft.similarity import MEASURES, SAMPLED

    assert set(vocabulary.MEASURES) == set(MEASURES) | set(SAMPLED)


def test_the_package_names_its_versions_alike():
    pyproject = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', pyproject, re.M)[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_tracked_files_hold_no_paths_of_a_machine():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".txt", ".cpp", ".h", ".yml", ""}
            and path.exists()
        ):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not re.search(r"(?<![\w.~])/(work|home|root)/\w", text), name
