"""See what fine-tuning does inside a transformer, layer by layer.

`compare` two checkpoints, `probe` what they know, `finetune` one of them, `ablate` its layers, or
use the measures (`similarity`) and their statistics (`Moments`) on rows of your own. `models`
freezes, truncates and randomizes. Everything is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertft import models, ops, similarity
    from bertft.ablation import Ablation, ablate
    from bertft.compared import Comparison
    from bertft.comparison import compare
    from bertft.finetuning import Finetuned, finetune
    from bertft.moments import Moments
    from bertft.probes import Probing, probe

__version__ = version("bertft")
__all__ = [
    "Ablation",
    "Comparison",
    "Finetuned",
    "Moments",
    "Probing",
    "ablate",
    "compare",
    "finetune",
    "models",
    "ops",
    "probe",
    "similarity",
]

_HOMES = {
    "Ablation": "ablation",
    "Comparison": "compared",
    "Finetuned": "finetuning",
    "Moments": "moments",
    "Probing": "probes",
    "ablate": "ablation",
    "compare": "comparison",
    "finetune": "finetuning",
    "probe": "probes",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"bertft.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"bertft.{name}")
    raise AttributeError(f"module 'bertft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
