"""What `import bertft` costs."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "triton", "numba", "pandas", "matplotlib", "sklearn", "rich")


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_loads_nothing_heavy():
    loaded = python(f"import sys, bertft; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded == "[]"


def test_measures_load_torch_and_nothing_more():
    heavy = HEAVY[1:]
    code = "import sys, torch; before = set(sys.modules); from bertft import Moments, similarity; "
    found = python(code + f"print([m for m in {heavy} if m in set(sys.modules) - before])")
    assert found == "[]"


def test_unknown_names_are_attribute_errors():
    assert python("import bertft; print(hasattr(bertft, 'nothing'), 'compare' in dir(bertft))") == (
        "False True"
    )
