"""Which module runs an operation: the table of backends, and what each asks of tensors."""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from bertft.ops.checks import Call

# Of every operation beside `reference`; the first that takes the tensors' device is the default.
BACKENDS = {
    "pool_rows": ("native", "triton"),
    "accumulate": ("native", "triton"),
    "correlate_pairs": ("native", "triton"),
    "eigh": ("native", "triton"),
    "svd": ("native", "triton"),
    "nuclear_norms": ("native", "triton"),
    "multiply": ("native", "eager"),
    "softmax_gradient": ("native", "triton", "eager"),
    "sigmoid_gradient": ("native", "triton", "eager"),
    "linear_gradient": ("native", "triton", "eager"),
    "distance_gradient": ("native", "triton", "eager"),
    "depth_gradient": ("native", "triton", "eager"),
    "adam": ("native", "triton", "eager"),
    "tanh_norm": ("native", "eager"),
    "tanh_norm_gradient": ("native", "eager"),
    "attend_spans": ("native", "triton", "eager"),
    "attend_spans_gradient": ("native", "triton", "eager"),
    "edge_gradient": ("native", "composed"),
}
# None stands for any device.
DEVICES = {"native": "cpu", "triton": "cuda", "eager": None, "composed": None, "reference": None}


def choose_backend(call: Call, name: str | None, tensors: Sequence[Tensor]) -> ModuleType:
    """Return the module that runs an operation on these tensors.

    Raises:
        ValueError: an unknown backend, or tensors on several devices.
        RuntimeError: a backend that is not there, or that does not take the tensors' device.
    """
    devices = {tensor.device for tensor in tensors} or {torch.device("cpu")}
    if len(devices) > 1:
        raise call.fail(
            f"tensors must be on one device, got {sorted(map(str, devices))}; move them."
        )
    device = devices.pop()
    backends = ("reference", *BACKENDS[call.name])
    if name is not None and name not in backends:
        raise call.fail(f"backend must be one of {backends}, got {name!r}; pass one.")
    takers = [backend for backend in backends[1:] if DEVICES[backend] in (None, device.type)]
    # Where nothing takes the device, the first of all says why not.
    chosen = name or (*takers, backends[1])[0]
    if chosen == "triton":
        require_triton(call, device)
    is_interpreted = chosen == "triton" and device.type == "cpu" and _interprets()
    if not is_interpreted and DEVICES[chosen] not in (None, device.type):
        place, move = {"native": ("the CPU", "cpu"), "triton": ("a GPU", "cuda")}[chosen]
        raise call.fail(
            f"tensors must be on {place} for the {chosen} backend, got {device}; copy them with "
            f'.{move}() or pass backend="{(*takers, "reference")[0]}".',
            RuntimeError,
        )
    return _module(chosen)


def choose_trainer(
    call: Call,
    name: str | None,
    tensors: Sequence[Tensor],
    narrow: Sequence[str] = ("native", "triton"),
) -> ModuleType:
    """Return the module that trains what the first tensor holds; `narrow` ones take no float64."""
    dtype, device = tensors[0].dtype, tensors[0].device.type
    if dtype == torch.float64 and name in narrow:
        raise call.fail(
            f"tensors must be {torch.float32} for the {name} backend, got {dtype}; convert them or "
            'pass backend="eager".'
        )
    if (
        dtype == torch.float64
        and name is None
        and {"cpu": "native"}.get(device, "triton") in narrow
    ):
        name = "eager"
    return choose_backend(call, name, tensors)


@cache
def _module(backend: str) -> ModuleType:
    return import_module(f"bertft.ops.{backend}")


def device_of_sums(devices: Iterable[torch.device], backend: str | None) -> torch.device:
    """Return where rows of these devices are summed: on their GPU, or else on the CPU."""
    homes = set(devices)
    is_summed = backend in (None, "triton", "reference") and find_spec("triton") is not None
    if len(homes) == 1 and next(iter(homes)).type == "cuda" and is_summed:
        return homes.pop()
    return torch.device("cpu")


def dot_precision(dtype: torch.dtype) -> str:
    """Return what Triton's kernels multiply rows of this type as; docs/gpu.md has the bounds."""
    from bertft.ops.triton.tilings import precision_of

    return precision_of(dtype)


def require_triton(call: Call, device: torch.device) -> None:
    """Refuse to run kernels without Triton or a GPU for them, with the way to what is missing."""
    if find_spec("triton") is None:
        raise call.fail(
            "backend 'triton' must have the package triton, got none; install it with "
            "pip install 'bertft[gpu]'.",
            RuntimeError,
        )
    if not (_interprets() or torch.cuda.is_available()):
        raise call.fail(
            f"backend 'triton' must have a GPU, got none in this PyTorch {torch.__version__}; run "
            "where torch.cuda.is_available(), or leave backend out.",
            RuntimeError,
        )
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise call.fail(
            "backend 'triton' must have a GPU of compute capability 8.0 or more, got "
            f"{torch.cuda.get_device_capability(device)}; copy tensors with .cpu().",
            RuntimeError,
        )


def _interprets() -> bool:
    from bertft.ops.triton import launching

    return launching.INTERPRETS
