"""Rules on data, stated by the user with pandera and held whenever rows are written.

In the repository a file `rules.py` with `rules`, a dict: the name of a view or of a feature service, and a
`pandera.polars.DataFrameSchema` or `DataFrameModel`. A view's schema is held for rows appended to its source, pushed
and materialized, by the view's own names for columns; a service's for training rows made of it. Rows are checked as
they are: what a schema would coerce or fill is not changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from hotlap.errors import InputError, MissingExtra
from hotlap.features import definitions

FILE = "rules.py"
_SHOWN = 3
_LONGEST = 60


def of(repo: Path | str | None) -> dict[str, Any]:
    """The schemas of the repository, by the name of a view or service; none where it has no `rules.py`.

    Raises InputError where the file can't be imported or holds something else.
    """
    path = Path(repo or ".") / FILE
    if not path.exists():
        return {}
    try:
        import pandera.polars as pandera
    except ImportError as error:
        raise MissingExtra(f"{path} needs pandera: pip install 'hotlap[features]'") from error
    (module,) = definitions.modules(path.parent, only=FILE)
    found = getattr(module, "rules", None)
    if not isinstance(found, dict):
        raise InputError(f"{path}: no dict `rules` there; map names of views to pandera schemas")
    schemas = {}
    for name, given in found.items():
        one: Any = given
        if isinstance(given, type) and issubclass(given, pandera.DataFrameModel):
            one = one.to_schema()
        if not isinstance(one, pandera.DataFrameSchema):
            raise InputError(f"{path}: rules[{name!r}] is a {type(one).__name__}; give a schema of pandera.polars")
        schemas[name] = one
    return schemas


def held_for(repo: Path | str | None, view: Any, rows: pl.DataFrame, doing: str, *, written: int | None = None) -> None:
    """Hold rows to the rules of a view of Feast's, if it has any; columns may have the view's names or its source's.

    written: how many rows had been written before, where the rows have no order that means something to the reader:
    those that break a rule are then told by key and event time.
    """
    schema = of(repo).get(view.name)
    if schema is not None:
        names = view.batch_source.field_mapping
        rows = rows.rename({old: new for old, new in names.items() if old in rows.columns and new not in rows.columns})
        told = (
            None if written is None else [*(one.name for one in view.entity_columns), view.batch_source.timestamp_field]
        )
        named = None if told is None else [names.get(name, name) for name in told]
        held(schema, rows, f"{doing} view {view.name}", named=named, written=written or 0)


def held(
    schema: Any,
    rows: pl.DataFrame,
    what: str,
    *,
    first_row: int = 0,
    named: list[str] | None = None,
    written: int = 0,
) -> None:
    """Raise InputError where the rows break a rule: column, rule, how many rows, and the first of them.

    what: whose rows they are, for the message. first_row: the number of the first of them. named: columns to tell a
    row by, instead of its number. written: how many rows had been written before.
    """
    from pandera.errors import SchemaErrors

    try:
        schema.validate(rows, lazy=True)
    except SchemaErrors as error:
        told = _broken(error.failure_cases, rows, first_row, [one for one in named or [] if one in rows.columns])
        before = f"{written:,} rows had been written before" if written else "nothing was written"
        raise InputError(f"{what} breaks the rules of {FILE}: {'; '.join(told)}; {before}") from None


def _broken(cases: pl.DataFrame, rows: pl.DataFrame, first_row: int, named: list[str]) -> list[str]:
    """A clause for each rule broken, in the order of the schema."""

    def called(row: int) -> str:
        if not named:
            return f"row {first_row + row}"
        return ", ".join(f"{name}={value}" for name, value in zip(named, rows.select(named).row(row), strict=True))

    told = []
    for (column, check), group in cases.group_by(["column", "check"], maintain_order=True):
        where = column or "the rows"
        if group["index"].null_count():
            got = ", ".join(_short(one) for one in group["failure_case"].head(_SHOWN))
            told.append(f"{where} {check}, got {got}" if column else f"no column {got}")
            continue
        shown = group.sort("index").select("index", "failure_case").head(_SHOWN)
        first = ", ".join(f"{called(row)} ({_short(value)})" for row, value in shown.iter_rows())
        more = ", ..." if len(group) > _SHOWN else ""
        told.append(f"{where} breaks {check} in {len(group):,} of {len(rows):,} rows: {first}{more}")
    return told


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
