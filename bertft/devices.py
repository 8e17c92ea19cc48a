"""The device that a name stands for, and work on a GPU that nothing waits for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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


def handed_over(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU fetches it from the CPU by itself, when it comes to it."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class SideStream:
    """Work beside a GPU's main stream; elsewhere it is done at once.

    Args:
        device: of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            # torch has no types for what makes a stream.
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def after_main(self) -> Iterator[None]:
        """Launch what is inside beside the main stream, after what that has been given so far."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield

    def keep(self, *tensors: Tensor) -> None:
        """Keep the memory of tensors that this stream reads from being used for others too soon."""
        if self._stream is not None:
            for tensor in tensors:
                tensor.record_stream(self._stream)

    def done(self) -> "torch.cuda.Event | None":
        """Return what marks the end of the work so far."""
        return None if self._stream is None else self._stream.record_event()

    def main_waits_for(self, event: "torch.cuda.Event | None") -> None:
        """Let the main stream do nothing more until an event; the CPU goes on."""
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)
