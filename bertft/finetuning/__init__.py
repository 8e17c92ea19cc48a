"""Fine-tuning on dependency parsing, MNLI and SQuAD: whole, partly frozen, or truncated.

Owns training and scoring. What the training did to the representations is for the comparison of
the two folders to say.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertft.finetuning.runs import Finetuned, finetune

__all__ = ["Finetuned", "finetune"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bertft.finetuning import runs

        return getattr(runs, name)
    raise AttributeError(f"module 'bertft.finetuning' has no attribute {name!r}")
