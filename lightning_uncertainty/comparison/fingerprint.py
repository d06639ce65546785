"""Fingerprints of what defines a run: written beside its result, and compared before that result is used again.

A run is defined by its settings, as plain data (:func:`describe`), and by the user's own source files that were
imported when it ended (:func:`own_files`), as the build tools ninja and ccache keep a list of dependencies.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None), Path, torch.dtype, torch.device)
_DEPTH = 7
_MAIN = ("__main__", "__mp_main__")  # the second is what a spawned process calls the script
_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_THIS_PACKAGE = Path(__file__).parents[1]

_imported: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()
"""The spec of each module, which a reload replaces, and the digest of its file."""


def own_files(*, script: bool) -> dict[str, str]:
    """Return the user's own source files that are imported now, by path, with digests of their contents.

    They are those of ``sys.modules`` that neither are installed nor belong to Python or to this package. The digest of
    a file is that of the moment when it was first seen here: an edit while a run goes on does not count as the code
    that was run. With ``script``, the script that Python was started with counts, because it defines a part of the run;
    without, it may change, for example to ask for more seeds.
    """
    files = {}
    for name, module in list(sys.modules.items()):
        path = _own_file(module)
        if path is None or (name in _MAIN and not script):
            continue
        spec, known = vars(module).get("__spec__"), _imported.get(module)
        if known is None or known[0] is not spec:
            known = _imported[module] = spec, digest_file(path)
        files[str(path)] = known[1]
    return files


def digest_file(path: Path) -> str:
    """Return a short name for the content of a file, "" if it cannot be read."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return ""


def _own_file(module: object) -> Path | None:
    """Return the source file of a module, None if it has none or is not the user's own."""
    # Not getattr, which would import what is lazy.
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    path = _own_path(file)
    return path if path is not None and path.is_file() else None


@cache  # of thousands of modules, twice in each run
def _own_path(file: str) -> Path | None:
    path = Path(file).resolve()
    if _INSTALLED & {*Path(file).parts, *path.parts}:
        return None
    return None if any(path.is_relative_to(place) for place in (_THIS_PACKAGE, *_STANDARD)) else path


def digest(value: object) -> str:
    """Return a short name for plain data, or for the content of a tensor."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        head = f"{value.dtype} {tuple(value.shape)}".encode()
    else:
        head, data = b"", json.dumps(value, sort_keys=True).encode()
    return hashlib.blake2b(head + data, digest_size=8).hexdigest()


def describe_module(module: nn.Module) -> dict[str, Any]:
    """Return the code of a module, its plain attributes, its layers and its initial weights."""
    return {
        "class": _qualified_name(type(module)),
        "code": code_of(*{type(part) for part in module.modules()}),
        "attributes": {**_plain_attributes(module), "tasks": describe(getattr(module, "tasks", None))},
        "layers": digest(repr(module)),
        "weights": digest_weights(module),
    }


def digest_weights(module: nn.Module) -> str:
    """Return a short name for the values of all parameters and buffers; lazy ones have none yet."""
    state = module.state_dict().items()
    return digest([(k, digest(v)) for k, v in state if isinstance(v, Tensor) and not nn.parameter.is_lazy(v)])


def describe(value: Any, depth: int = _DEPTH) -> Any:
    """Return ``value`` as plain data, equal for equal settings in another process.

    Functions and classes count with their own source (see :func:`code_of`) and with what their closures hold, tensors
    and arrays with their content, other objects with their class and their attributes, some levels deep. Of a data
    module only plain attributes count: what its ``setup`` makes of them is not there before the first run.
    """
    if isinstance(value, _PLAIN):
        return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
    if isinstance(value, Tensor):
        return digest(value)
    if hasattr(value, "__array__") and hasattr(value, "tobytes"):
        return digest([str(value.shape), str(value.dtype), hashlib.blake2b(value.tobytes()).hexdigest()])
    if depth == 0:
        return _qualified_name(type(value))
    if isinstance(value, Mapping):
        return {str(key): describe(part, depth - 1) for key, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(str(describe(part, depth - 1)) for part in value)
    if isinstance(value, (list, tuple)):
        return [describe(part, depth - 1) for part in value]
    if isinstance(value, partial):
        return [describe(part, depth - 1) for part in (value.func, value.args, value.keywords)]
    if inspect.isroutine(value) or isinstance(value, type):
        held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        held += [getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)]
        return {"name": _qualified_name(value), "code": code_of(value), "holds": describe(held, depth - 1)}
    if is_a("LightningDataModule", value):
        attributes = _plain_attributes(value)
    else:
        # The token of a file system (fsspec; each ModelCheckpoint has one) is another in each process.
        held_by = {name: part for name, part in getattr(value, "__dict__", {}).items() if name != "_fs_token_"}
        attributes = {name: describe(part, depth - 1) for name, part in held_by.items()}
    return {"class": _qualified_name(type(value)), "code": code_of(type(value)), "attributes": attributes}


def is_a(kind: str, value: object) -> bool:
    """Return True if a class of this name, of whichever Lightning, is among those of ``value``."""
    return any(base.__name__ == kind for base in type(value).__mro__)


def _qualified_name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _plain_attributes(value: Any) -> dict[str, Any]:
    own = {name: part for name, part in vars(value).items() if not name.startswith("_") and _is_plain(part)}
    return {str(name): describe(part) for name, part in {**getattr(value, "hparams", {}), **own}.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (Mapping, list, tuple)):
        return all(map(_is_plain, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, _PLAIN)


def code_of(*values: Any) -> dict[str, str]:
    """Return digests of the bytecode of the user's own functions and classes, with their bases, by name.

    It tells apart what no file does: a lambda, and what was typed into a notebook or an interpreter.
    """
    codes: dict[str, list[str]] = {}
    for part in (part for value in values for part in (value.__mro__ if isinstance(value, type) else [value])):
        home = getattr(part, "__module__", None)
        if home in _MAIN or _own_file(sys.modules.get(str(home))):
            members = vars(part).values() if isinstance(part, type) else [part]
            texts = [repr(_plain(each.__code__)) for each in map(inspect.unwrap, members) if hasattr(each, "__code__")]
            codes.setdefault(_qualified_name(part), []).append(digest(texts))
    return {name: digest(sorted(set(digests))) for name, digests in codes.items()}


def _plain(code: CodeType) -> tuple[Any, ...]:
    constants = [_plain(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants
