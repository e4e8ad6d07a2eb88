"""`hotlap init`: writes a commented workload from what a person has."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any

from hotlap.actions.workload_template import TEMPLATE
from hotlap.errors import InputError, OutputError, TargetError
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target
from hotlap.workload.user_code import describe, is_users

_DTYPES = {
    "float32": "torch.randn({shape})",
    "float16": "torch.randn({shape}).half()",
    "int64": "torch.randint(0, 2, ({shape},))",
    "int32": "torch.randint(0, 2, ({shape},), dtype=torch.int32)",
    "uint8": "torch.randint(0, 256, ({shape},), dtype=torch.uint8)",
    "bool": "torch.ones({shape}, dtype=torch.bool)",
}
_TAKEN = (
    "Path", "Workload", "evaluation", "example", "functional", "load_file", "loss", "model", "net", "nn", "score",
    "sys", "torch", "training", "workload",
)  # fmt: skip
"""Names of the template's own, which an imported model must not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialised:
    """What `init` wrote. `signature` shows inputs and outputs where the model runs; else `missing` says why not."""

    path: str
    signature: str | None
    missing: str | None
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    name: str | None
    dtype: str
    shape: tuple[int, ...]


def init(
    path: str | Path = "workload.py",
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    inputs: tuple[str, ...] | list[str] = (),
) -> Initialised:
    """Write a workload file and try it.

    model: `package.module:NAME` or `FILE.py:NAME` of a class or function that gives the torch.nn.Module, or of one.
    weights: a .safetensors, .pt or .pth file with the state dict.
    inputs: one `[NAME:][DTYPE:]SHAPE` an input, SHAPE without the batch (`3x224x224`, `ids:int64:128`).

    Raises InputError where one of these can't be used, and OutputError where `path` exists or can't be written.
    """
    path = Path(path)
    _check_path(path)
    parsed = [_parse_input(text) for text in inputs]
    if len({entry.name is None for entry in parsed}) > 1:
        raise InputError("--input: name all inputs or none; named ones are given to the model as keywords")
    text = Template(TEMPLATE).substitute(
        name=path.stem,
        file=path.name,
        **_model_code(path, model, weights),
        example=_example_code(parsed),
    )
    _write_new(path, text)
    signature, missing = _try(path)
    return Initialised(path=str(path), signature=signature, missing=missing, next_steps=_next(path, text, missing))


def _check_path(path: Path) -> None:
    if path.suffix != ".py":
        raise InputError(f"{path} is no Python file; give a path that ends in .py")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", path.stem):
        raise InputError(f"{path}: give the file a name of letters, digits and '_' that begins with a letter")
    if path.stem in {*sys.stdlib_module_names, "hotlap", "torch", "numpy"}:
        raise InputError(f"{path} would hide the module {path.stem!r} from the code beside it; give another name")
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists, and hotlap init overwrites nothing; give another path")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}; make it first")


def _parse_input(text: str) -> _Input:
    *before, sizes = text.split(":")
    dtype = before.pop() if before and before[-1] in _DTYPES else "float32"
    name = before.pop() if before else None
    if before or (name is not None and not name.isidentifier()) or not re.fullmatch(r"(\d+([x,]\d+)*)?", sizes):
        raise InputError(
            f"--input {text}: write it as [NAME:][DTYPE:]SHAPE with the shape of one example, such as 3x224x224 or "
            f"ids:int64:128; types are {', '.join(_DTYPES)}"
        )
    return _Input(name=name, dtype=dtype, shape=tuple(int(size) for size in re.findall(r"\d+", sizes)))


def _example_code(inputs: list[_Input]) -> str:
    if not inputs:
        return (
            "    # for instance: return torch.randn(batch, 3, 224, 224)\n"
            '    raise NotImplementedError("give example inputs with `batch` rows")'
        )
    code = [_DTYPES[entry.dtype].format(shape=", ".join(["batch", *map(str, entry.shape)])) for entry in inputs]
    if inputs[0].name is not None:
        entries = "".join(f'        "{entry.name}": {value},\n' for entry, value in zip(inputs, code, strict=True))
        return f"    return {{\n{entries}    }}"
    return f"    return {', '.join(code)}"


def _model_code(path: Path, model: str | None, weights: str | Path | None) -> dict[str, str]:
    imports, lines = "", ['raise NotImplementedError("build the model here")']
    if model is not None:
        imports, expression, needed = _found(path, model)
        note = f"  # fill in: {', '.join(needed)}" if needed else ""
        lines = [f"net = {expression}{note}"]
        if weights is not None:
            lines += _weights_code(path, Path(weights))
        lines += ["return net.eval()"]
    elif weights is not None:
        lines = [
            "net: nn.Module = ...  # build the model here",
            *_weights_code(path, Path(weights)),
            "return net.eval()",
        ]
    body = "\n".join(f"    {line}" for line in lines)
    load = "from safetensors.torch import load_file\n" if "load_file(" in body else ""
    where = "from pathlib import Path\n" if "Path(" in body + imports else ""
    return {
        "standard_imports": ("import sys\n" if "sys." in imports else "") + where + ("\n" if where else ""),
        "load_import": load,
        "own_imports": imports,
        "model": body,
    }


def _weights_code(path: Path, weights: Path) -> list[str]:
    if not weights.is_file():
        raise InputError(f"--weights {weights}: no such file")
    if weights.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise InputError(f"--weights {weights}: give a .safetensors, .pt, .pth or .bin file with the state dict")
    place = f"Path(__file__).resolve().parent / {_relative(weights, path)}"
    if weights.suffix == ".safetensors":
        return [f"net.load_state_dict(load_file({place}))"]
    return [f'net.load_state_dict(torch.load({place}, map_location="cpu", weights_only=True))']


def _relative(target: Path, path: Path) -> str:
    return json.dumps(os.path.relpath(target.resolve(), path.resolve().parent))


def _found(path: Path, model: str) -> tuple[str, str, list[str]]:
    """The import lines for `model`, the expression that gives the module, and the arguments it still needs."""
    module, root, name, attributes = _import(model)
    value: Any = module
    for part in attributes:
        if not hasattr(value, part):
            raise TargetError(f"--model {model}: {name} has nothing called {'.'.join(attributes)!r}")
        value = getattr(value, part)
    alias = f"make_{attributes[0]}" if attributes[0] in _TAKEN else attributes[0]
    imports = f"from {name} import {attributes[0]}" + (f" as {alias}" if alias != attributes[0] else "") + "\n"
    if root is not None and root != path.resolve().parent:
        place = f"str(Path(__file__).resolve().parent / {_relative(root, path)})"
        imports = f"sys.path.insert(0, {place})\n\n{imports[:-1]}  # noqa: E402\n"
    expression = ".".join([alias, *attributes[1:]])
    if _is_module(value):
        return imports, expression, []
    if not callable(value):
        raise TargetError(f"--model {model} is of type {type(value).__name__}; give a class, function or torch module")
    return imports, f"{expression}()", _needed(value)


def _import(model: str) -> tuple[ModuleType, Path | None, str, list[str]]:
    """The module, the folder it is found from (None: installed), its name there, and the attributes in it."""
    place, colon, attribute = model.rpartition(":")
    attributes = attribute.split(".")
    if not colon or not all(part.isidentifier() for part in attributes):
        raise InputError(f"--model {model}: write it as package.module:NAME or FILE.py:NAME")
    root: Path | None = None
    name = place
    if place.endswith(".py"):
        file = Path(place).resolve()
        if not file.is_file():
            raise TargetError(f"--model {model}: no such file: {place}")
        root, name = file.parent, file.stem
    folder = str(root or Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise TargetError(f"--model {model}: {place} can't be imported: {describe(error)}") from error
    origin = getattr(module, "__file__", None)
    if root is None and origin and is_users(origin):
        levels = name.count(".") + (Path(origin).name == "__init__.py")
        root = Path(origin).resolve().parents[levels]
    return module, root, name, attributes


def _is_module(value: Any) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


def _needed(value: Any) -> list[str]:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _write_new(path: Path, text: str) -> None:
    """Write the whole file or none, and never over another: a link fails where the name is taken."""
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        whole.write_text(text)
        os.link(whole, path)
    except FileExistsError:
        raise OutputError(f"{path} exists, and hotlap init overwrites nothing; give another path") from None
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        whole.unlink(missing_ok=True)


def _try(path: Path) -> tuple[str | None, str | None]:
    """Open what was written: what it takes and gives, or what is missing."""
    try:
        signature = open_workload(load_target(str(path)), command="init").signature
    except InputError as error:
        return None, str(error)

    def shown(specs: Any) -> str:
        return ", ".join(f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in specs)

    return f"{shown(signature.inputs)} -> {shown(signature.outputs)}", None


def _next(path: Path, text: str, missing: str | None) -> tuple[str, ...]:
    empty = [
        field for field, mark in (("model", "build the model"), ("example", "give example inputs")) if mark in text
    ]
    first = f"fill in {' and '.join(f'`{field}`' for field in empty)}" if empty else "mend that"
    return (
        *([f"{first} in {path}"] if missing else []),
        f"hotlap profile {path}",
        f"fill in `evaluation` and `score` in {path} and take the # from their lines: without them accuracy is not "
        "measured",
        f"hotlap optimize {path} --out runs/{path.stem}",
    )
