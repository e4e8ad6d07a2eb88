"""Targets: finds the Workload that a command line names.

A target is `FILE.py`, `FILE.py:NAME` or `package.module:NAME`, each with `@TRAINED_FOLDER` behind it where the
weights of a training run are wanted. Loading one runs the file, and nothing of the workload.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hotlap.errors import TargetError
from hotlap.workload.user_code import describe
from hotlap.workload.workload import Workload

_FORMS = "write it as FILE.py, FILE.py:NAME or package.module:NAME"
_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>[^:/]*))?", re.DOTALL)
_MODULE = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^:/]*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A workload and where it came from.

    `target` is what the user gave with absolute paths, so that another process can load it again. `digest` is the
    SHA-256 of the file's bytes (and of the trained weights'). `weights` is the file that is loaded into the model
    after `model()`. `file` is the Python file that holds the workload.
    """

    workload: Workload
    target: str
    digest: str
    name: str
    weights: Path | None = None
    file: Path | None = None


def load_target(target: str) -> Loaded:
    """Find the Workload that `target` names. Raises TargetError with what to write instead."""
    place, weights = _split_trained(target)
    match = _FILE.fullmatch(place)
    if match:
        path = Path(match["path"]).expanduser().absolute()
        module, source = _run_file(path)
        where, full, stem = _shown(path), str(path), path.stem
    else:
        match = _MODULE.fullmatch(place)
        if not match:
            raise _no_target(place)
        module, source = _import_module(match["module"])
        where = full = match["module"]
        stem = full.rpartition(".")[2]
    name, workload = _pick(module, match["name"], where)
    return Loaded(
        workload=workload,
        target=f"{full}:{name}" + (f"@{weights.parent}" if weights else ""),
        digest=_digest(source, weights),
        name=_checked_name(workload.name, stem, where),
        weights=weights,
        file=Path(module.__file__).absolute() if module.__file__ else None,
    )


def target_of(workload: Workload | str | Path) -> str:
    """The target that names `workload`, so that worker processes can load it; a target itself comes back as it is.

    Raises TargetError where the Workload is not a module-level name of a file.
    """
    if not isinstance(workload, Workload):
        return str(workload)
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        file = names.get("__file__")
        if not file or not file.endswith(".py"):
            continue
        for name, value in names.items():
            if value is workload:
                return f"{Path(file).absolute()}:{name}"
    raise TargetError(
        "the Workload has no name at the top of a file, so worker processes can't load it; put it into a file of "
        "its own and give that file"
    )


def weights_of(target: str) -> Path | None:
    """The file of trained weights that a target names after its @. Raises TargetError where it is not there."""
    return _split_trained(target)[1]


def _split_trained(target: str) -> tuple[str, Path | None]:
    # A path may hold an @ of its own: what stands before the one that counts looks like a target.
    cuts = [match.start() for match in re.finditer("@", target)]
    cut = next((at for at in reversed(cuts) if _FILE.fullmatch(target[:at]) or _MODULE.fullmatch(target[:at])), None)
    if cut is None:
        return target, None
    place, folder = target[:cut], target[cut + 1 :]
    weights = Path(folder).expanduser().absolute() / _WEIGHTS
    if not weights.is_file():
        raise TargetError(
            f"{target}: {folder or 'the text after @'} holds no {_WEIGHTS}; "
            "after @ give the folder that `hotlap train --out` wrote"
        )
    return place, weights


def _no_target(place: str) -> TargetError:
    path = Path(place)
    if (path / "manifest.json").is_file():
        return TargetError(f"{place} is an artifact where a workload is needed; {_FORMS}")
    if path.is_dir():
        return TargetError(f"{place} is a folder, neither a workload nor an artifact; {_FORMS}")
    if path.is_file():
        return TargetError(f"{place} is not a Python file; {_FORMS}")
    return TargetError(f"{place!r} is not a target, and no file or folder either; {_FORMS}")


def _run_file(path: Path) -> tuple[ModuleType, bytes]:
    """Run exactly the bytes whose digest is taken; a file that was run before and has not changed is not run again.

    The file's folder stays on the path, since its functions may import their neighbours later.
    """
    shown = _shown(path)
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        raise TargetError(f"no such file: {shown}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise TargetError(f"{shown!r} can't be read: {getattr(error, 'strerror', error)}") from None
    name = f"{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    before = sys.modules.get(name)
    if before is not None and before.__dict__.get("__hotlap_source__") == source:
        return before, source
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__hotlap_source__"] = source
    _put_first(path.parent)
    sys.modules[name] = module  # dataclasses and pickle look the module up while it is being run
    try:
        with redirect_stdout(sys.stderr):
            exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TargetError(f"{shown} can't be imported: {describe(error)}") from error
    return module, source


def _put_first(folder: Path) -> None:
    """Put `folder` first on the path, and forget modules that share a name with its files but lie elsewhere."""
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    earlier = {str(Path(str(m.__file__)).parent) for m in _ran_files()} - {str(folder)}
    for neighbour in [*folder.glob("*.py"), *folder.glob("*/__init__.py")]:
        name = neighbour.stem if neighbour.parent == folder else neighbour.parent.name
        loaded = sys.modules.get(name)
        origin = getattr(loaded, "__file__", None)
        if origin and origin != str(neighbour) and any(Path(origin).is_relative_to(place) for place in earlier):
            for key in [key for key in sys.modules if key == name or key.startswith(name + ".")]:
                del sys.modules[key]


def _ran_files() -> list[ModuleType]:
    return [module for module in list(sys.modules.values()) if "__hotlap_source__" in getattr(module, "__dict__", {})]


def _import_module(name: str) -> tuple[ModuleType, bytes]:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with redirect_stdout(sys.stderr):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(f"no module named {error.name!r}; is it installed, or in this folder?") from None
        raise TargetError(f"{name} can't be imported: {describe(error)}") from error
    except (Exception, SystemExit) as error:
        raise TargetError(f"{name} can't be imported: {describe(error)}") from error
    origin = getattr(module, "__file__", None)
    return module, Path(origin).read_bytes() if origin else name.encode()


def _pick(module: ModuleType, name: str | None, where: str) -> tuple[str, Workload]:
    found = _workloads(module)
    names = ", ".join(found)
    if name is not None:
        value = vars(module).get(name, _pick)
        if isinstance(value, Workload):
            return name, value
        have = f"; its workloads: {names}" if found else "; it holds no Workload"
        if value is _pick:
            raise TargetError(f"{where} has nothing called {name!r}{have}")
        raise TargetError(f"{where}:{name} is of type {type(value).__name__}, not a Workload{have}")
    if not found:
        raise TargetError(
            f"{where} holds no Workload; write `workload = hotlap.Workload(model=..., example=...)` in it"
        )
    if len(found) > 1:
        first = next(iter(found))
        raise TargetError(f"{where} holds several workloads ({names}); say which one, as in {where}:{first}")
    return next(iter(found.items()))


def _workloads(module: ModuleType) -> dict[str, Workload]:
    """Workloads by name; one that is bound to several names counts once."""
    found: dict[int, tuple[str, Workload]] = {}
    for name, value in vars(module).items():
        if isinstance(value, Workload):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _checked_name(name: Any, default: str, where: str) -> str:
    chosen = name or default
    if not isinstance(chosen, str) or not _NAME.fullmatch(chosen):
        raise TargetError(
            f"{where}: {chosen!r} can't be a workload's name; set `name` to letters, digits, '.', '_' and '-' "
            "that begin with a letter or digit"
        )
    return chosen


def _digest(source: bytes, weights: Path | None) -> str:
    digest = hashlib.sha256(source)
    if weights:
        with weights.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
