"""The repository's own Python, imported as `feast apply` does: the one place that user functions are taken from."""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from hotlap.errors import HotlapError, InputError
from hotlap.workload.user_code import describe, is_users


def modules(repo: Path, only: str | None = None) -> list[ModuleType]:
    """Every Python file of the repository as a module, in the order of their paths, `.feastignore` heeded.

    only: the one file of that name at the top, if it is there. The files see each other by name while they are
    imported, but leave no trace in `sys.modules`, so that two repositories in one process don't see each other's.
    Raises InputError with the user's own line where a file can't be imported.
    """
    from feast.repo_operations import get_repo_files

    linecache.checkcache()  # Feast takes a function's text from there, be it that of before the file changed
    root = repo.resolve()
    found = get_repo_files(root) if only is None else [path for path in [root / only] if path.exists()]
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in found}
    with _importing_from(root, {path.stem for path in get_repo_files(root)}):
        return [_imported(path, name) for path, name in names.items()]


def _imported(path: Path, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except HotlapError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}: importing it raised {describe(error)}") from error


@contextmanager
def _importing_from(root: Path, names: set[str]) -> Iterator[None]:
    """The folder first on the path; whatever it gives is forgotten afterwards, what it hid comes back."""
    heads = names | {one.name for one in root.iterdir() if one.is_dir()}
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] in heads and _users(module)}
    for name in hidden:
        del sys.modules[name]
    before = set(sys.modules)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name in set(sys.modules) - before:
            if _within(sys.modules[name], root):
                del sys.modules[name]
        sys.modules.update(hidden)


def _users(module: ModuleType) -> bool:
    """Whether a module of such a name may be another repository's, rather than Python's or an installed package's."""
    file = getattr(module, "__file__", None)
    return file is None or is_users(file)


def _within(module: ModuleType, root: Path) -> bool:
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or [])]
    return any(place and Path(place).is_relative_to(root) for place in places)
