"""`result.json`: checked against its schema, then written whole or not at all.

The schema file beside this one is the only statement of what a result holds. jsonschema is a development
dependency, so the few keywords that the schema uses are interpreted here; tests hold this reading equal to its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hotlap.core import Json
from hotlap.errors import InputError
from hotlap.search.folder import read_plain, write_whole

_SAYS_NOTHING = {"$schema", "$defs", "title", "description", "then"}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "null": (type(None),),
}


@cache
def schema() -> Json:
    """The schema of result.json (JSON Schema, draft 2020-12)."""
    return json.loads(files("hotlap.report").joinpath("result.schema.json").read_text(encoding="utf-8"))


def violations(result: Json) -> list[str]:
    """What keeps `result` from being a result.json: sentences that begin with the field, or none."""
    return [*_not_finite(result, ""), *_breaches(result, schema(), "")]


def validate(result: Json) -> None:
    """Raise ValueError, naming each field, unless `result` fits the schema and holds no NaN or infinity."""
    found = violations(result)
    if found:
        raise ValueError(f"not a valid result.json: {'; '.join(found[:5])}")


def write_result(path: Path, result: Json) -> None:
    """Check `result` and put it at `path`, whole or not at all. Raises ValueError, or OutputError."""
    validate(result)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, text.encode("utf-8", errors="backslashreplace") + b"\n")


def read_result(path: Path) -> dict[str, Any]:
    """The result at `path`. Raises InputError where there is none, or it isn't one."""
    try:
        text = read_plain(path).decode()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); give the result.json of a run") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; give the result.json of a run") from error
    try:
        result = json.loads(text)
        found = violations(result)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); give the result.json of a run") from error
    if found:
        raise InputError(f"{path}: not a result of hotlap: {'; '.join(found[:3])}")
    return dict(result)


def _not_finite(value: Json, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _not_finite(item, _field(where, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where or 'the result'} is {value}, which JSON can't hold; write null where there is no figure"


def _breaches(value: Json, rules: Json, where: str) -> Iterator[str]:
    """Each way in which `value` breaks `rules`, one keyword at a time."""
    for keyword, rule in rules.items():
        if keyword not in _SAYS_NOTHING:
            yield from _KEYWORDS[keyword](value, rule, rules, where)


def _type(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    allowed = [rule] if isinstance(rule, str) else rule
    if not any(_is(value, name) for name in allowed):
        yield f"{where or 'the result'} is {_short(value)}, not {' or '.join(allowed)}"


def _required(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{_field(where, name)} is missing" for name in rule if name not in value)


def _properties(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name in rule:
            if name in value:
                yield from _breaches(value[name], rule[name], _field(where, name))


def _items(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _breaches(item, rule, f"{where}[{index}]")


def _enum(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    if not any(_same(value, one) for one in rule):
        yield f"{where} is {_short(value)}, not one of {', '.join(map(str, rule))}"


def _const(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    if not _same(value, rule):
        yield f"{where} is {_short(value)}, not {rule}"


def _minimum(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    if _is(value, "number") and value < rule:
        yield f"{where} is {value}, less than {rule}"


def _exclusive_minimum(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    if _is(value, "number") and value <= rule:
        yield f"{where} is {value}, not more than {rule}"


def _all_of(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    for part in rule:
        yield from _breaches(value, part, where)


def _if(value: Json, rule: Json, rules: Json, where: str) -> Iterator[str]:
    if not any(_breaches(value, rule, where)):
        yield from _breaches(value, rules["then"], where)


def _ref(value: Json, rule: Json, _: Json, where: str) -> Iterator[str]:
    yield from _breaches(value, schema()["$defs"][rule.removeprefix("#/$defs/")], where)


# A keyword that is not here raises KeyError: a schema that asks for more is never silently half-checked.
_KEYWORDS = {
    "type": _type,
    "required": _required,
    "properties": _properties,
    "items": _items,
    "enum": _enum,
    "const": _const,
    "minimum": _minimum,
    "exclusiveMinimum": _exclusive_minimum,
    "allOf": _all_of,
    "if": _if,
    "$ref": _ref,
}


def _is(value: Json, name: str) -> bool:
    if name == "integer":
        return _is(value, "number") and (isinstance(value, int) or value.is_integer())
    return isinstance(value, _TYPES[name]) and not (name == "number" and isinstance(value, bool))


def _same(value: Json, other: Json) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _field(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _short(value: Json) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
