"""A device that machines without a GPU have too: its tensors lie on the CPU and refuse to mix.

torch gives every operation to `Pretended` while it is active. It runs on the CPU what it is asked
for on the device, and refuses tensors of both in one operation, as CUDA does, and indices that are
elsewhere, which CUDA would copy and wait for.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

# Of torch's devices the one that has no library and that autograd runs on the thread of the CPU.
DEVICE = torch.device("lazy:0")


class Pretended(TorchDispatchMode):
    """While active, `DEVICE` is a device like another."""

    def __enter__(self):
        # `torch.tensor` shows its copy to the device only so.
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *exception):
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*exception)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class _There(Tensor):
    """A tensor on the device; `here` has its values."""

    # Otherwise torch would turn every result into one of these.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        own = Tensor._make_wrapper_subclass(
            cls, here.shape, dtype=here.dtype, device=DEVICE, **layout
        )
        own.here = here
        return own

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def tolist(self):
        return self.here.tolist()

    def __repr__(self):
        return f"pretended({self.here!r})"


def _run(function, args, kwargs):
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, _There)]
    name = function.overloadpacket.__name__
    # Scalars may come from the CPU, and a copy may go from one device to the other.
    elsewhere = [each for each in tensors if not isinstance(each, _There) and each.dim()]
    if there and elsewhere and name not in ("_to_copy", "copy_"):
        raise RuntimeError(f"{function} got tensors on {DEVICE} and on the CPU")
    goes_there = bool(there) and name != "_local_scalar_dense"
    if name == "copy_":
        goes_there = isinstance(args[0], _There)
    if kwargs.get("device") is not None:
        goes_there = kwargs["device"].type == DEVICE.type
        kwargs = kwargs | {"device": torch.device("cpu")}
    args, kwargs = tree_map_only(_There, lambda each: each.here, (args, kwargs))
    found = function(*args, **kwargs)
    if not goes_there:
        return found
    # Operations in place return their argument.
    known = {id(each.here): each for each in there}
    return tree_map_only(
        Tensor, lambda each: known[id(each)] if id(each) in known else _There(each), found
    )
