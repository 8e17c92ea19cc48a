"""A short run of a transformers model, written down call by call; the model stays as it came.

Owns what counts as the tensor that a module receives and returns, and how models are run when
they are read.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bertft.quiet import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXTS, TOKENS = 2, 3


@dataclass(eq=False)
class Call:
    """A module call of a trace: what it received and returned, and when it began and ended.

    `further` is what it returned beside the first tensor, and None where that came bare.
    """

    module: nn.Module
    received: Tensor | None
    start: int
    returned: Tensor | None = None
    further: tuple[Any, ...] | None = None
    stop: int = -1


@dataclass(frozen=True)
class Trace:
    """The module calls of a run in the order in which they began, and what it gave.

    Attributes:
        calls: of all modules inside the encoder.
        states: the encoder's own `hidden_states`, empty where it gives none.
        last: its `last_hidden_state`.
        names: of its modules.
    """

    calls: list[Call]
    states: tuple[Tensor, ...]
    last: Tensor
    names: Mapping[nn.Module, str]

    def only_after(self, time: int) -> frozenset[str]:
        """Return the names of the modules that had not begun by a time."""
        early = {self.names[call.module] for call in self.calls if call.start < time}
        return frozenset({self.names[call.module] for call in self.calls} - early)


def first_tensor(value: Any) -> Tensor | None:
    """Return the tensor that a module call passes on: itself, or the first of a tuple."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    return None


def input_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the tensor that a module call receives: the first argument that is one."""
    return next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)


def last_hidden_state(
    encoder: "PreTrainedModel", tokens: Tensor, mask: Tensor, types: Tensor | None = None
) -> Tensor:
    """Run an encoder on token ids and return its last layer, `(batch, length, d)`."""
    typed = {} if types is None else {"token_type_ids": types}
    output = encoder(input_ids=tokens, attention_mask=mask, return_dict=True, **typed)
    hidden: Tensor = output.last_hidden_state
    return hidden


@contextmanager
def inference(*models: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Put models in eval mode (on a device) and give every module its own mode back at the end.

    What is compiled runs eagerly meanwhile: compiled code calls no hook that was added to it later.

    Raises:
        ValueError: a device for a model that accelerate has put on devices already.
    """
    for model in models:
        if device is not None and any(hasattr(module, "_hf_hook") for module in model.modules()):
            raise ValueError(
                f"[inference] device must be left out for a model that accelerate has dispatched, "
                f"got {device} for a {type(model).__name__}; pass device=None."
            )
    modes = [(module, module.training) for model in models for module in model.modules()]
    homes = [(model, _device_of(model)) for model in models]
    try:
        for model in models:
            model.eval()
            if device is not None:
                model.to(device)
        with torch.inference_mode(), _eager():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for model, home in homes:
            if device is not None and home is not None:
                model.to(home)


def trace(encoder: "PreTrainedModel") -> Trace:
    """Run an encoder on two texts that differ in their first token only.

    Raises:
        ValueError: weights that are not in memory (offloaded by accelerate, or never loaded), or a
            model that does not run on text.
    """
    if absent := [name for name, p in encoder.named_parameters() if p.is_meta]:
        raise ValueError(
            f"[find_blocks] weights must be in memory, got {len(absent)} that are not, such as "
            f"{absent[0]!r} of a {type(encoder).__name__}; load it without offloading (device_map)."
        )
    names = {module: name for name, module in encoder.named_modules()}
    calls: list[Call] = []
    running: list[Call] = []
    time = 0

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal time
        call = Call(module, input_tensor(args, kwargs), time)
        calls.append(call)
        running.append(call)
        time += 1

    def end(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal time
        call = running.pop()
        call.returned, call.stop = first_tensor(output), time
        call.further = tuple(output[1:]) if isinstance(output, tuple) else None
        time += 1

    padding = getattr(encoder.config, "pad_token_id", None)
    # The id of padding would change the positions of what follows in some models.
    one, other = [i for i in range(3) if i != padding][:2]
    tokens = torch.full((TEXTS, TOKENS), one, device=encoder.device)
    tokens[1, 0] = other
    inner = [module for module in encoder.modules() if module is not encoder]
    with _hooks_undone(encoder), inference(encoder):
        for module in inner:
            module.register_forward_pre_hook(begin, with_kwargs=True)
            module.register_forward_hook(end)
        try:
            output = encoder(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                output_hidden_states=True,
                return_dict=True,
            )
            last = output.last_hidden_state
        except Exception as error:  # what it raises is for the model's own code to choose
            raise ValueError(
                f"[find_blocks] model must run on {TOKENS} token ids and a mask, got "
                f"{type(error).__name__} from a {type(encoder).__name__} "
                f"({first_line(error)}); pass another text model."
            ) from error
    if set(encoder.modules()) != set(names):
        raise ValueError(
            f"[find_blocks] model must run on few tokens as it is, got a {type(encoder).__name__} "
            "that changes its modules for them; set what it changed beforehand (BigBird: "
            "attention_type='original_full') and pass a fresh one."
        )
    return Trace(calls, tuple(output.hidden_states or ()), last, names)


@contextmanager
def _hooks_undone(encoder: nn.Module) -> Iterator[None]:
    """Take off the hooks that were added meanwhile.

    transformers adds some of its own, and an attribute that says so, once it is asked for hidden
    states.
    """
    before = [
        (module, [*module._forward_hooks, *module._forward_pre_hooks], set(vars(module)))
        for module in encoder.modules()
    ]
    try:
        yield
    finally:
        for module, hooks, attributes in before:
            for own in (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._forward_pre_hooks_with_kwargs,
            ):
                for key in own.keys() - set(hooks):
                    del own[key]
            for name in vars(module).keys() - attributes:
                delattr(module, name)


def same(a: Tensor | None, b: Tensor) -> bool:
    """Whether two tensors are one; a module may return another view of what it got."""
    return a is not None and a.shape == b.shape and a.data_ptr() == b.data_ptr()


def _eager() -> AbstractContextManager[Any]:
    # Nothing is compiled where the compiler was never imported, and importing it takes a second.
    if "torch._dynamo" in sys.modules:
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return nullcontext()


def _device_of(model: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in model.parameters()), None)
