"""On-demand features: one function of the repository's own source, called alike for training rows and for online ones.

What the function gets is the same in both places: the declared features of its input views, each as `view__feature`
(by the view's alias too) and, where nothing else has it, by its own name, and the request's columns, as the types that
the registry states; nothing else, so that it can't lean on a column that only training has. What it gives is held to
the declared names, types and number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from hotlap.errors import InputError
from hotlap.features import fitting
from hotlap.features.job import plain
from hotlap.workload.user_code import describe

if TYPE_CHECKING:
    import pandas as pd
    from feast.feature_view_projection import FeatureViewProjection

_MODES = ("pandas", "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemand:
    """An on-demand view: how the registry declares it, and its function from the repository's source.

    `inputs` maps a column `view__feature` to its type, `request` a request's column, `features` a result. `mode` is
    Feast's: a function of a pandas frame, of a dict of lists, or (`singleton`) of a dict of single values, which is
    called once a row. `views` are Feast's projections of the input views. `text` is the function's source.
    """

    name: str
    mode: str
    singleton: bool
    views: tuple[FeatureViewProjection, ...]
    inputs: dict[str, pl.DataType]
    request: dict[str, pl.DataType]
    features: dict[str, pl.DataType]
    function: Callable[[Any], Any]
    text: str

    def compute(self, columns: pl.DataFrame) -> pl.DataFrame:
        """The features, a row for each row of `columns`, which must have `inputs` and `request`.

        Raises InputError where the values of a column don't fit its type, and where the function raises, or gives other
        rows, columns or types than were declared.
        """
        if not len(columns):
            return pl.DataFrame(schema=self.features)
        return self._checked(self._made(self._given(columns)), len(columns))

    def _made(self, given: pl.DataFrame) -> dict[str, Any]:
        """What the function gives for these rows: a list, or another column of values, for each name."""
        if self.singleton:
            rows = [self._called(row) for row in given.iter_rows(named=True)]
            for row in rows:
                self._check_names(row)
            return {name: [row[name] for row in rows] for name in self.features}
        if self.mode == "python":
            return self._check_names(self._called(given.to_dict(as_series=False)))
        frame: pd.DataFrame = plain(given).to_pandas()
        made = self._called(frame)
        if len(made) == len(frame) and not made.index.equals(frame.index) and made.index.isin(frame.index).all():
            made = made.loc[frame.index]  # sorted or shuffled by the function: rows are known by their index
        return self._check_names({name: made[name] for name in made.columns})

    def _called(self, given: Any) -> Any:
        """What the function gives, if it is of the right kind."""
        try:
            made = self.function(given)
        except (Exception, SystemExit) as error:
            raise InputError(f"view {self.name}: its function raised {describe(error)}") from error
        wrong = wrong_kind(made, self.mode, self.singleton)
        if wrong:
            raise InputError(f"view {self.name}: its function{place(self.function)} {wrong}")
        return made

    def _check_names(self, made: Any) -> dict[str, Any]:
        for name in self.features:
            if name not in made:
                raise InputError(
                    f"view {self.name}: its function{place(self.function)} gave no {name}; it gave "
                    f"{', '.join(map(str, made)) or 'nothing'}"
                )
        return dict(made)

    def _given(self, columns: pl.DataFrame) -> pl.DataFrame:
        absent = [name for name in self.request if name not in columns.columns]
        if absent:
            raise InputError(
                f"view {self.name} needs {', '.join(absent)} with the request; add that column to the rows or keys"
            )
        kinds = {**self.inputs, **self.request}
        given = pl.DataFrame([self._fitted(columns[name], kind) for name, kind in kinds.items()])
        others = [
            (f"{view.name_to_use()}__{field.name}", new)
            for view in self.views
            for field in view.features
            for new in (field.name, f"{view.name}__{field.name}")
        ]
        seen = [*kinds, *(name for _, name in others)]
        return given.with_columns(pl.col(name).alias(new) for name, new in others if seen.count(new) == 1)

    def _fitted(self, column: pl.Series, kind: pl.DataType) -> pl.Series:
        if column.dtype == kind or (column.dtype.is_decimal() and kind.is_float()):
            return column.cast(kind)
        try:
            return fitting.fitted(column, kind)
        except fitting.Unfit as error:
            raise InputError(
                f"view {self.name}: {column.name} has {error}, as declared; give that type, or change the schema"
            ) from None
        except pl.exceptions.PolarsError as error:
            first = str(error).splitlines()[0]
            raise InputError(f"view {self.name}: {column.name} can't be made {kind}, as declared: {first}") from error

    def _checked(self, made: dict[str, Any], rows: int) -> pl.DataFrame:
        series = []
        for name, kind in self.features.items():
            given = _length(made[name])
            if given is None:
                raise InputError(
                    f"view {self.name}: its function{place(self.function)} gave a {type(made[name]).__name__} for "
                    f"{name}; give a list, with a value for each row"
                )
            if given != rows:
                raise InputError(
                    f"view {self.name}: its function{place(self.function)} gave {given} values of {name} for {rows} "
                    "rows; it must give one for each"
                )
            try:
                series.append(fitting.fitted(pl.Series(name, pa.array(made[name], from_pandas=True)), kind))
            except fitting.Unfit as error:
                raise InputError(
                    f"view {self.name}: its function{place(self.function)} gave {error} in {name}, as declared; give "
                    "that type, or change the schema"
                ) from None
            except (pa.ArrowException, pl.exceptions.PolarsError, ValueError, TypeError, OverflowError) as error:
                first = str(error).splitlines()[0]
                raise InputError(f"view {self.name}: {name} can't be made {kind}, as declared: {first}") from error
        return pl.DataFrame(series)


def wrong_kind(made: Any, mode: str, singleton: bool) -> str | None:
    """That a function of this mode gave something of another kind than it must, and what to give; None: it did not."""
    import pandas as pd

    if isinstance(made, pd.DataFrame if mode == "pandas" else Mapping):
        return None
    each = "a value" if singleton else "a list of values"
    wanted = "a pandas DataFrame with a column" if mode == "pandas" else f"a dict with {each}"
    return f"gave {'None' if made is None else f'a {type(made).__name__}'}; give {wanted} for each feature"


def place(function: Any) -> str:
    """Where a function begins, in brackets."""
    code = getattr(function, "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code else ""


def _length(values: Any) -> int | None:
    """How many values there are, where these are several in an order."""
    if isinstance(values, str | bytes | Mapping | Set):
        return None
    try:
        return len(values)
    except TypeError:
        return None


def from_registry(proto: Any, source: dict[str, Any]) -> OnDemand | str:
    """The view that the registry declares with the function that `source` (name to view) has; or why there is none.

    Nothing of the registry's is run: its function is compared as text, and used as nothing else.
    """
    from feast.on_demand_feature_view import OnDemandFeatureView

    spec = proto.spec
    if spec.mode and spec.mode not in _MODES:
        return f"its mode is {spec.mode}; {' and '.join(_MODES)} are computed"
    if spec.disabled:
        return f"it is disabled, until `feast feature-views enable {spec.name}`"
    if spec.write_to_online_store or spec.aggregations:
        return "it is written when rows are, or aggregates; only views that are computed when they are read are"
    own = source.get(spec.name)
    if own is None or getattr(own, "udf", None) is None:
        return "it is computed by a function that the registry holds, and the repository's files don't define it"
    registered = spec.feature_transformation.user_defined_function.body_text or spec.user_defined_function.body_text
    if registered != own.udf_string:
        return (
            "it is computed by a function that the registry holds, and the repository's files define another; run "
            "`feast apply`"
        )
    view = OnDemandFeatureView.from_proto(proto, skip_udf=True)
    views = tuple(view.source_feature_view_projections.values())
    request = {
        field.name: polars_kind(field.dtype) for one in view.source_request_sources.values() for field in one.schema
    } | {field.name: polars_kind(field.dtype) for field in view.input_schema or []}
    return OnDemand(
        name=spec.name,
        mode=view.mode,
        singleton=view.singleton,
        views=views,
        inputs={
            f"{one.name_to_use()}__{field.name}": polars_kind(field.dtype) for one in views for field in one.features
        },
        request=request,
        features={field.name: polars_kind(field.dtype) for field in view.features},
        function=own.udf,
        text=registered,
    )


def polars_kind(dtype: Any) -> pl.DataType:
    """Feast's type as polars'."""
    from feast.types import Bytes, from_feast_to_pyarrow_type

    if dtype == Bytes:  # which Feast's own function does not know
        return pl.Binary()
    table = pa.schema([pa.field("x", from_feast_to_pyarrow_type(dtype))]).empty_table()
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.schema["x"]
