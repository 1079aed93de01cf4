"""A GPU that is pretended on the CPU: tensors that claim to lie on it, and nnU-Net's mixed precision.

On a machine without a GPU every tensor is at the same place, so that code which mixes devices passes all tests and
fails at its first step on a GPU. Here a storage is on one side or the other, moving it copies it, and operations on
tensors of both sides raise as CUDA's do. What nnU-Net's autocast makes half precision is half precision.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CROSSES = {"copy_", "__setitem__", "data.__set__", "_has_compatible_shallow_copy_type"}
"""Operations that CUDA allows between both sides."""
JOINS = {"cat", "concat", "stack", "hstack", "vstack"}
"""Operations that refuse even a single number of the other side."""


class PretendedGPU(TorchFunctionMode):
    """Knows which storages are on the GPU. Enter with `pretended_gpu`, which prepares the rest of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, StorageWeakRef] = {}

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the GPU."""
        return tensor.untyped_storage()._cdata in self._storages

    def place(self, values: Any) -> Any:
        """Have all tensors among the values lie on the GPU; returns the values."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                # A weak reference keeps the number of a storage from being used again.
                self._storages.setdefault(storage._cdata, StorageWeakRef(storage))
        return values

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation that Python code asks PyTorch for; what it does inside is not looked at."""
        kwargs = dict(kwargs or {})
        name = func.__name__
        if name in ("__get__", "__set__"):
            name = f"{func.__self__.__name__}.{name}"  # type: ignore[attr-defined]  # of a property
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        here = [tensor for tensor in tensors if self.holds(tensor)]
        if name in ("device.__get__", "is_cuda.__get__", "is_cpu.__get__"):
            return {"device": GPU if here else CPU, "is_cuda": bool(here), "is_cpu": not here}[name.split(".")[0]]
        if name in ("numpy", "__array__") and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if name in ("to", "cpu", "cuda"):
            return self._move(*args, **kwargs, **({} if name == "to" else {"device": name}))
        on_gpu = bool(here)
        if kwargs.get("device") is not None:
            on_gpu = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = CPU
        elif here and name not in CROSSES and not (name == "__getitem__" and self.holds(args[0])):
            others = [t for t in tensors if (t.ndim > 0 or name in JOINS) and not self.holds(t)]
            if others:
                raise RuntimeError(f"{name}: tensors on both devices; on the CPU: {[tuple(t.shape) for t in others]}")
        if on_gpu and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'")
        result = func(*args, **kwargs)
        return self.place(result) if on_gpu else result

    def _move(self, tensor: Tensor, *targets: Any, **options: Any) -> Tensor:
        """`Tensor.to`: a device, a number format, both, or another tensor's."""
        on_gpu, result = self.holds(tensor), tensor
        for target in (*targets, *options.values()):
            if isinstance(target, Tensor):
                on_gpu, result = self.holds(target), result.to(target.dtype)
            elif isinstance(target, torch.dtype):
                result = result.to(target)
            elif isinstance(target, torch.device | str):
                on_gpu = torch.device(target).type == "cuda"
        if result.untyped_storage()._cdata == tensor.untyped_storage()._cdata and on_gpu != self.holds(tensor):
            result = result.clone()
        return self.place(result) if on_gpu else result


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """A process in which torch.device("cuda") works like a GPU in mixed precision, and is the CPU."""
    gpu = PretendedGPU()

    def autocast(self: Any, device_type: str, dtype: torch.dtype | None = None, **options: Any) -> None:
        autocast_init(self, "cpu", dtype or torch.float16, **options)

    def grad_scaler(self: Any, device: str = "cuda", **options: Any) -> None:
        grad_scaler_init(self, "cpu", **options)

    def untracked(call: Callable[..., Any]) -> Callable[..., Any]:
        # The engine makes tensors that nothing places.
        def called(*args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():
                return call(*args, **kwargs)

        return called

    def run(thread: threading.Thread) -> None:
        with gpu:
            thread_run(thread)

    def load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
        loaded = torch_load(*args, map_location="cpu", **kwargs)
        return gpu.place(loaded) if torch.device(map_location or "cpu").type == "cuda" else loaded

    thread_run = threading.Thread.run
    torch_load, autocast_init, grad_scaler_init = torch.load, torch.autocast.__init__, torch.amp.GradScaler.__init__
    with pytest.MonkeyPatch.context() as patch, gpu:
        patch.setenv("nnUNet_compile", "f")
        patch.setattr(torch.autocast, "__init__", autocast)
        patch.setattr(torch.amp.GradScaler, "__init__", grad_scaler)
        patch.setattr(torch.autograd, "backward", untracked(torch.autograd.backward))
        patch.setattr(torch.autograd, "grad", untracked(torch.autograd.grad))
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "pretended GPU")
        patch.setattr(torch, "load", load)
        patch.setattr(threading.Thread, "run", run)
        # Recomputed without tracking, so that the device says nothing.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        patch.setitem(checks, "default", lambda tensor: (tensor.shape, tensor.dtype))
        yield gpu
