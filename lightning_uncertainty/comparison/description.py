"""What defines a run, as plain data: written beside its result, and compared before that result is used again."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_uncertainty.comparison.source_code import code_of, qualified_name

__all__ = ["describe", "describe_data", "describe_module", "digest"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), Path, torch.dtype, torch.device)
_DEPTH = 6


def digest(value: object) -> str:
    """A short name for plain data, or for what a tensor holds."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        head = f"{value.dtype} {tuple(value.shape)}".encode()
    else:
        head, data = b"", json.dumps(value, sort_keys=True).encode()
    return hashlib.blake2b(head + data, digest_size=8).hexdigest()


def describe_module(module: nn.Module) -> dict[str, Any]:
    """Its code, its plain attributes, its layers and its initial weights."""
    kinds = {type(part) for part in module.modules()}
    return {
        "class": qualified_name(type(module)),
        "code": digest(code_of(*kinds)),
        "attributes": {**_plain_attributes(module), "tasks": describe(getattr(module, "tasks", None))},
        "layers": digest(repr(module)),
        "weights": digest_weights(module),
    }


def digest_weights(module: nn.Module) -> str:
    """A short name for the values of all parameters and buffers; lazy ones have none yet."""
    state = module.state_dict().items()
    return digest([(k, digest(v)) for k, v in state if isinstance(v, Tensor) and not nn.parameter.is_lazy(v)])


def describe_data(data: object) -> Any:
    """A data module by its code and plain attributes, loaders by what they serve, as far as that can be seen."""
    if isinstance(data, Mapping):
        return {str(name): describe_data(part) for name, part in data.items()}
    if any(kind.__name__ == "LightningDataModule" for kind in type(data).__mro__):
        # What its `setup` makes of these is not there before the first run, so that it cannot count.
        return {"class": qualified_name(type(data)), "code": _code(type(data)), "attributes": _plain_attributes(data)}
    return describe(data)


def describe(value: Any, depth: int = _DEPTH) -> Any:
    """``value`` as plain data, equal for equal settings in another process.

    Functions and classes count with their code (see :func:`code_of`) and with what their closures hold, tensors and
    arrays with their content, other objects with the code of their class and their attributes, some levels deep.
    """
    if isinstance(value, _PLAIN):
        return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
    if isinstance(value, Tensor):
        return digest(value)
    if hasattr(value, "__array__") and hasattr(value, "tobytes"):
        return digest([str(value.shape), str(value.dtype), hashlib.blake2b(value.tobytes()).hexdigest()])
    if depth == 0:
        return qualified_name(type(value))
    if isinstance(value, Mapping):
        return {str(key): describe(part, depth - 1) for key, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(str(describe(part, depth - 1)) for part in value)
    if isinstance(value, (list, tuple)):
        return [describe(part, depth - 1) for part in value]
    if isinstance(value, partial):
        return [describe(part, depth - 1) for part in (value.func, value.args, value.keywords)]
    if inspect.isroutine(value) or isinstance(value, type):
        return _describe_code(value, depth)
    attributes = {name: describe(part, depth - 1) for name, part in getattr(value, "__dict__", {}).items()}
    return {"class": qualified_name(type(value)), "code": _code(type(value)), "attributes": attributes}


def _describe_code(value: Any, depth: int) -> dict[str, Any]:
    held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    given = [getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)]
    return {"name": qualified_name(value), "code": _code(value), "holds": describe([*held, *given], depth - 1)}


def _plain_attributes(value: Any) -> dict[str, Any]:
    hparams = {str(name): describe(part) for name, part in dict(getattr(value, "hparams", {})).items()}
    own = {name: part for name, part in vars(value).items() if not name.startswith("_")}
    return {**hparams, **{name: describe(part) for name, part in own.items() if _is_plain(part)}}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else isinstance(value, _PLAIN)


def _code(value: Any) -> str | None:
    """A short name for the code of a class or function; None for what comes with a package."""
    sources = code_of(value)
    return digest(sources) if sources else None
