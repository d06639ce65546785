"""Counts that need no clock: operations, host reads, collectives, kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Operations", "collectives", "host_reads", "kernels"]

VIEWS = {"detach", "alias", "view", "unbind", "select", "slice", "t", "expand", "unsqueeze", "squeeze", "as_strided"}
VIEWS |= {"lift_fresh", "promote_types", "result_type"}
"""Operations that compute nothing."""


class Operations(TorchDispatchMode):
    """Counts dispatched operations by name, and those that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def computed(self) -> int:
        """How many of them compute something; on a GPU at least a kernel each."""
        return sum(count for name, count in self.seen.items() if name not in VIEWS)


class host_reads(TorchDispatchMode):  # noqa: N801  # a context manager
    """Counts what waits for the device: ``_local_scalar_dense``, copies to the host, and ``Tensor.tolist``.

    ``HostFlags``, which reads page-locked host memory, is not counted on a GPU; on a CPU it looks like a read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._tolist = torch.Tensor.tolist

    def __enter__(self) -> host_reads:
        def tolist(tensor: torch.Tensor) -> Any:
            self.count += 1
            return self._tolist(tensor)

        torch.Tensor.tolist = tolist  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *arguments: Any) -> None:
        torch.Tensor.tolist = self._tolist  # type: ignore[method-assign]
        super().__exit__(*arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default or self._is_copy_to_host(func, args, kwargs):
            self.count += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _is_copy_to_host(func: Any, args: Any, kwargs: Any) -> bool:
        if func is torch.ops.aten._to_copy.default:
            target = (kwargs or {}).get("device")
            return args[0].is_cuda and target is not None and torch.device(target).type == "cpu"
        return func is torch.ops.aten.copy_.default and args[1].is_cuda and not args[0].is_cuda


@contextmanager
def collectives() -> Iterator[list[tuple[str, int]]]:
    """Name and bytes of each collective that Python asks for within."""
    seen: list[tuple[str, int]] = []
    names = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "barrier")
    originals = {name: getattr(dist, name) for name in names}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            seen.append((name, sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
            return originals[name](*args, **kwargs)

        return call

    for name in names:
        setattr(dist, name, counted(name))
    try:
        yield seen
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def kernels(function: Callable[[], object]) -> int:
    """How many kernels ``function`` launches on the GPU."""
    from torch.profiler import DeviceType, ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events())
