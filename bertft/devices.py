"""The device that a name stands for."""

import torch


def find_device(name: str, function: str) -> torch.device:
    """Return "cpu", "cuda" (also "cuda:1"), or for "auto" the GPU where there is one.

    Args:
        name: of the device.
        function: the public function that asks, for error messages.

    Raises:
        ValueError: another name.
        RuntimeError: no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"[{function}] device must be cpu, cuda or auto, got {name!r}; pass one.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            f"[{function}] device must be available, got {name!r} without CUDA; pass device='cpu'."
        )
    return torch.device(name)
