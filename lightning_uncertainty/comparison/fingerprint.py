"""What defines a run, as plain data: written beside its result, and compared before that result is used again."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["code_of", "describe", "describe_data", "describe_module", "digest", "qualified_name"]

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


# Told apart by their versions, if at all.
_VERSIONED = {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "lightning_uncertainty"}
_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_NONE: frozenset[str] = frozenset()
_SCALAR = (bool, int, float, complex, str, bytes, type(None))


def code_of(*values: Any) -> list[str]:
    """The sources of classes and functions, and of what they refer to; sorted, none for what comes with a package.

    A class counts with its bases, and one of an installed package with its own source alone. Names are followed, file
    by file, as long as they lead to the user's own code: to functions and classes with their sources, to variables of
    modules with the statements that assign them (their values may be those of a clock or a counter), and to modules
    that a function imports when it is called, with the whole file. What is found out when the program runs, as by
    ``getattr(module, name)``, cannot be followed.
    """
    walk = _Walk()
    for value in values:
        walk.add(value)
    return sorted(set(walk.texts))


def qualified_name(value: Any) -> str:
    """Module and name of a class or function, or of the class of an object."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


class _Walk:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self._seen: set[int] = set()
        self._assigned: set[tuple[str, str]] = set()

    def add(self, value: Any) -> None:
        for part in value.__mro__ if isinstance(value, type) else [inspect.unwrap(value)]:
            module = sys.modules.get(getattr(part, "__module__", None) or "builtins")
            if module is not None and not _comes_with_a_version(module) and id(part) not in self._seen:
                self._seen.add(id(part))
                self._add_one(part, module)

    def _add_one(self, part: Any, module: ModuleType) -> None:
        source = _source(part)
        self.texts.append(source or qualified_name(part))
        if not _is_own(module):
            return
        tree = _parse(source)
        names = _names(tree) | set(_names_in(getattr(part, "__code__", None)))
        self._follow(names, getattr(part, "__globals__", vars(module)), {module.__name__})
        self._follow(names, _held(part), set())
        for name in _imported_inside(tree, module):
            self.texts.append(_file_of(name))

    def _follow(self, names: set[str], namespace: Mapping[str, Any], visited: set[str]) -> None:
        for name in sorted(names & namespace.keys()):
            value = namespace[name]
            if isinstance(value, ModuleType):
                if _is_own(value) and value.__name__ not in visited:
                    visited.add(value.__name__)
                    self._follow(names, vars(value), visited)
            elif inspect.isroutine(value) or isinstance(value, type):
                self.add(value)
            else:
                self._add_variable(name, value, namespace)

    def _add_variable(self, name: str, value: Any, namespace: Mapping[str, Any]) -> None:
        home = namespace.get("__name__", "")
        if home and (home, name) in self._assigned:
            return
        self._assigned.add((home, name))
        statements = list(_assignments(home, name))
        for module, statement in statements:
            self.texts.append(ast.unparse(statement))
            self._follow(_names(statement), vars(module), {module.__name__})
        if not statements and isinstance(value, _SCALAR):
            self.texts.append(f"{name} = {value!r}")
        self.add(type(value))


def _source(part: Any) -> str:
    """As it stands in the file; of a lambda its code, since the line around it may say anything; else nothing."""
    code = getattr(part, "__code__", None)
    if code is not None and part.__name__ == "<lambda>":
        return repr(_plain(code))
    try:
        return textwrap.dedent(inspect.getsource(part))
    except (OSError, TypeError):  # typed into an interpreter, or built in
        return repr(_plain(code)) if code is not None else ""


def _plain(code: CodeType) -> tuple[Any, ...]:
    constants = [_plain(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # lines cut out of a statement
        return ast.Module([], [])


def _names(tree: ast.AST) -> set[str]:
    nodes = list(ast.walk(tree))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def _names_in(code: CodeType | None) -> Iterator[str]:
    if code is not None:
        yield from (*code.co_names, *code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _names_in(constant)


def _held(part: Any) -> dict[str, Any]:
    """The variables of the functions around it that it uses, as far as they are set."""
    held = {}
    functions = [value for value in vars(part).values() if inspect.isfunction(value)] if inspect.isclass(part) else []
    for function in (part, *functions):
        cells = getattr(function, "__closure__", None) or ()
        for name, cell in zip(function.__code__.co_freevars if cells else (), cells, strict=True):
            try:
                held[name] = cell.cell_contents
            except ValueError:  # not yet
                continue
    return held


def _imported_inside(tree: ast.Module, module: ModuleType) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = _from(node, module)
            yield from (name, *(f"{name}.{alias.name}" for alias in node.names))


def _file_of(name: str) -> str:
    """The text of a module of the user's own, found without importing anything; nothing for others."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return ""
    files = [Path(getattr(spec, "origin", None) or "")]
    if rest:
        within = [Path(folder, *rest) for folder in getattr(spec, "submodule_search_locations", None) or ()]
        files = [file for path in within for file in (path.with_suffix(".py"), path / "__init__.py")]
    for file in files:
        is_own = not _is_versioned(name, str(file)) and not _INSTALLED & set(file.parts)
        if is_own and file.suffix == ".py" and file.is_file():
            return file.read_text(encoding="utf-8", errors="replace")
    return ""


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None) or ""
    return not _comes_with_a_version(module) and not _INSTALLED & set(Path(file).parts)


def _comes_with_a_version(module: ModuleType) -> bool:
    """Whether it is Python's own, or of a package whose version is part of the definition anyway."""
    file = getattr(module, "__file__", None)
    return module.__name__ != "__main__" if file is None else _is_versioned(module.__name__, file)


def _is_versioned(name: str, file: str) -> bool:
    if name.partition(".")[0] in _VERSIONED:
        return True
    return not _INSTALLED & set(Path(file).parts) and any(Path(file).is_relative_to(path) for path in _STANDARD)


def _assignments(module_name: str, name: str, passed: frozenset[str] = _NONE) -> Iterator[tuple[ModuleType, ast.stmt]]:
    """The statements outside functions that give a name its value, in its module or in that it is imported from."""
    module = sys.modules.get(module_name)
    if module is None or not _is_own(module) or module_name in passed:
        return
    try:
        nodes: list[ast.AST] = [*_parsed(inspect.getsource(module)).body]
    except (OSError, TypeError, SyntaxError):
        return
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    yield from _assignments(_from(node, module), alias.name, passed | {module_name})
        elif isinstance(node, ast.stmt) and name in _targets(node):
            yield module, node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            nodes.extend(each for each in ast.iter_child_nodes(node) if isinstance(each, (ast.stmt, ast.excepthandler)))


def _from(node: ast.ImportFrom, module: ModuleType) -> str:
    name = "." * node.level + (node.module or "")
    return resolve_name(name, getattr(module, "__package__", None) or "") if node.level else name


@lru_cache(maxsize=64)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _targets(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.Assign):
        return {each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return ()
