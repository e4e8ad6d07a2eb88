"""A feature repository, opened to read: `hotlap.features.open(repo)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from hotlap.errors import InputError, MissingExtra
from hotlap.features.variables import check_set

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    from hotlap.artifact.load import LoadedModel
    from hotlap.core import Array, Json
    from hotlap.features.check import Check
    from hotlap.features.materialize import Progress
    from hotlap.features.on_demand import OnDemand
    from hotlap.features.online import Down, Expired, Online, Plan
    from hotlap.features.online_stores import Reach
    from hotlap.features.predict import Predictions, Stale
    from hotlap.features.push import To
    from hotlap.features.read_log import ReadLog
    from hotlap.features.training import Training

_TYPE = "hotlap.features.PolarsOfflineStore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A feature repository. `feast` is Feast's store of it, whose registry was checked and is only read.

    `on_demand` has the views that are computed by a function of the repository's own source. `left_out` names the
    views that are not there because they carry other code, each with its reason.
    `reach` connects to the online store when it is first asked. What a list of features means is worked out once: open
    the repository again after it was applied anew.
    """

    repo: Path
    feast: FeatureStore
    on_demand: dict[str, OnDemand]
    left_out: dict[str, str]
    registry_path: Path
    reach: Reach
    plans: dict[Any, Plan] = field(default_factory=dict, repr=False, compare=False)

    def training(
        self,
        entities: Any,
        features: list[str] | str,
        *,
        at: str | None = None,
        out: Path | str | None = None,
        known_only: bool | None = None,
        full_feature_names: bool = False,
    ) -> Training:
        """The features as of each row of `entities`: what a model is trained on.

        entities: a pandas or polars frame, an Arrow table, or the path of a Parquet file or folder, which is then
        read and joined in slices. features: `view:feature` each, or the name of a feature service. at: the column of
        instants, of any name. out: write a Parquet file there instead of holding the rows. known_only: leave out what
        was created after the instant; default what feature_store.yaml says. Raises InputError for what is not there.
        """
        from hotlap.features.training import make

        return make(
            self, entities, features, at=at, out=out, known_only=known_only, full_feature_names=full_feature_names
        )

    def online(
        self,
        keys: Any,
        features: list[str] | str,
        *,
        at: datetime | None = None,
        full_feature_names: bool = False,
        down: Down = "raise",
        log: ReadLog | None = None,
        expired: Expired = "null",
    ) -> Online:
        """The newest values of each key from the online store, with their ages; all views are asked at once.

        keys: a dict of columns, a list of dicts, a pandas or polars frame, or an Arrow table, with the views' join
        keys; other columns come back as they are. A key that is null has no values; keys may repeat. features:
        `view:feature` each, or the name of a feature service. at: the instant that ages and times to live are judged
        at; default now; UTC where it has no zone. It does not turn the clock back: an online store holds each key's
        newest values only. full_feature_names: name the columns view__feature. down: what to do when the store does
        not answer: "raise" StoreDown, or "null", which gives nulls whose status is `unavailable`. log: keep what was
        answered there, for `check`. expired: "null" for values older than their view's time to live, or "keep" them;
        their status is `expired` in either case.

        Gives hotlap.features.online.Online: `table` with nulls for what is missing or expired, `age(column)` in seconds
        and `status(column)`: present, null, missing, expired or unavailable. Safe to call from several threads.
        Raises InputError for a view, feature, key or table that is not there, StoreDown, and Refusal where a stored
        value is not of the type that its definition says.
        """
        from hotlap.features.online import read

        answer = read(self, keys, features, at=at, full_feature_names=full_feature_names, down=down, expired=expired)
        if log is not None:
            log.add(answer, features, full_feature_names)
        return answer

    def push(self, source: str, rows: Any, *, to: To = "both") -> Json:
        """New events for every view whose push source is `source`: to the online store, to the views' own sources,
        which training reads, or to both.

        rows: a pandas or polars frame, an Arrow table or a Parquet file, with the join keys, the features and the event
        time; by the views' names or their sources'. A row that is older than what the online store has of its key, by
        event time and then by created time, changes nothing there, as it would win no join. Where the source keeps a
        created time and the rows have none, it is now. Rules of `rules.py` are held. All is checked before anything is
        written, and the source is written first: where the online store is down, materializing brings it the rows.

        Raises InputError for what is not there or breaks a rule, StoreDown where the online store does not answer.
        """
        from hotlap.features.push import push

        return push(self, source, rows, to=to)

    def check(
        self,
        features: list[str] | str | None = None,
        *,
        log: Path | str | None = None,
        keys: Any = None,
        at: datetime | None = None,
        sample: int | None = None,
        known_only: bool | None = None,
        tolerance: float = 1e-6,
        seed: int = 0,
    ) -> Check:
        """Whether serving gives what training saw: online reads held against the offline join of the same keys at the
        same instants.

        log: the folder of a ReadLog, whose reads are replayed. features: read these now instead, for `keys`, or for
        keys drawn from the views' sources, as of `at` (default now). sample: how many reads; default all of a log, and
        1000 of now. known_only: hold serving only to what had been created by then; default what feature_store.yaml
        says, as training. tolerance: relative, for floats. See hotlap.features.consistency for what the rates mean.
        Raises InputError for what is not there, StoreDown where the online store does not answer.
        """
        from hotlap.features.check import check

        return check(
            self,
            features,
            log=log,
            keys=keys,
            at=at,
            sample=sample,
            known_only=known_only,
            tolerance=tolerance,
            seed=seed,
        )

    def predict(
        self,
        artifact: str | Path | LoadedModel,
        keys: Any,
        *,
        inputs: Mapping[str, Array] | None = None,
        at: datetime | None = None,
        stale: Stale = "default",
    ) -> Predictions:
        """Look up online what the artifact expects of each key, and run its model on it.

        artifact: a folder, or what `hotlap.load` gave, which spares loading it again. keys, at: as `online` takes
        them. inputs: those that are not made of stored features, with a row for each key. stale: what to do with
        values older than their view's time to live: "default", the null rule takes their place, as it did in
        training; "flag", they are used, and the row says so; "refuse", the row is refused.

        Gives hotlap.features.predict.Predictions: outputs of the keys that are answered, what became of each key, and
        the age of each view's values. A key that lacks a feature without a number to stand in is refused, and the
        others are answered. Raises Refusal, naming what changed, where a view is not defined as it was in training,
        ArtifactRefused and StoreDown as `load` and `online` do, InputError for what the caller can mend.
        """
        from hotlap.features.predict import predict

        return predict(self, artifact, keys, inputs=inputs, at=at, stale=stale)

    def materialize(
        self,
        views: list[str] | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        progress: Progress | None = None,
    ) -> Json:
        """Write each key's newest row from the views' sources into the online store.

        views: their names; default all that are online and enabled. start, end: the event times to take, both included;
        UTC where they have no zone. Without `start`: from where the last materialization ended, or else the view's time
        to live before `end`, or all; rows that were created since then count too, however late they came. end: default
        now. progress: called with a view, how many shares of its keys are through, and how many there are.

        An older row never replaces a newer one, so that running it again, late or twice does no harm. A run that was
        killed goes on where it was. Memory holds one share of the rows at a time. Gives for each view `rows`, `start`,
        `end`, `resumed_after_shares`, `anew` (from its start), `definition` (why so, a made_as.Change) and `seconds`.
        Raises InputError for what is not there, and StoreDown.
        """
        from hotlap.features.materialize import run

        return run(self, views, start=start, end=end, progress=progress)


def open_store(repo: Path | str = ".", *, timeout_s: float = 2.0, retries: int = 1, connections: int = 8) -> Store:
    """Open the repository in a folder with a `feature_store.yaml`. No code that its registry holds is run.

    timeout_s, retries, connections: how the online store is reached; see hotlap.features.online_stores.Reach.

    Where there are on-demand views, the folder's own Python files are imported, as by `feast apply`, for their
    functions. Raises InputError where the folder, its file, or a local registry is missing, or no offline store is set.
    """
    from feast import FeatureStore

    from hotlap.features import registry, times
    from hotlap.features.online_stores import Reach

    folder = Path(repo)
    config, path = configuration(folder, "hotlap.features.registry.CheckedRegistryStore")
    proto = registry.read(path)
    for view in proto.feature_views:
        if view.spec.project == config.project:
            times.to_live(view.spec.name, view.spec.ttl.ToTimedelta())
    on_demand, unusable = registry.on_demand(proto, folder, config.project)
    carrying_code = registry.left_out(proto, config.project)
    left_out = {**{name: reason for name, reason in carrying_code.items() if name not in on_demand}, **unusable}
    return Store(
        repo=folder,
        feast=FeatureStore(config=config, repo_path=str(folder)),
        on_demand=on_demand,
        left_out=left_out,
        registry_path=path,
        reach=Reach(config=config, timeout_s=timeout_s, retries=retries, connections=connections),
    )


def configuration(folder: Path, registry_store: str) -> tuple[RepoConfig, Path]:
    """The folder's feature_store.yaml, with the class that reads its registry, and the registry's file.

    Raises InputError as `open_store` does.
    """
    from feast.errors import FeastError, FeastExtrasDependencyImportError
    from feast.repo_config import FeastConfigError, RegistryConfig, load_repo_config
    from pydantic import ValidationError
    from yaml import YAMLError  # type: ignore[import-untyped]

    yaml = folder / "feature_store.yaml"
    if not yaml.exists():
        raise InputError(f"{folder}: no feature_store.yaml there; give the folder of a Feast repository")
    settings = _settings(yaml)
    try:
        config = load_repo_config(folder, yaml)
        kind, place = config.registry.registry_type, str(config.registry.path)
        _ = config.offline_store  # makes it, from what the file says
    except FeastExtrasDependencyImportError as error:
        raise MissingExtra(f"{yaml}: {error}; or with pip install 'hotlap[redis,postgres]'") from None
    except (FeastConfigError, ValidationError, FeastError) as error:
        # Their messages quote the values they refuse, credentials among them.
        raise InputError(f"{yaml}: not a valid configuration: {_fields(error)}") from None
    except YAMLError as error:
        # Its message quotes the line, with what the environment put into it.
        mark = getattr(error, "problem_mark", None)
        where = f" from line {mark.line + 1} on" if mark else ""
        raise InputError(
            f"{yaml}: can't be read as YAML{where}; put quotes around what comes from the environment, and none of "
            "that kind in it"
        ) from None
    if kind != "file" or urlparse(place).netloc:
        told = place if urlparse(place).netloc else kind
        raise InputError(f"{yaml}: registry is {told}; only one in a local file is opened, since it is checked first")
    if "offline_store" not in settings:
        raise InputError(f"{yaml}: no offline_store; set `offline_store: {{type: {_TYPE}}}`, or another that Feast has")
    config._registry = RegistryConfig(
        registry_type="file",
        path=place,
        registry_store_type=registry_store,
        project=config.project,
        enable_online_feature_view_versioning=config.registry.enable_online_feature_view_versioning,
    )
    config.repo_path = folder
    return config, Path(place) if Path(place).is_absolute() else folder / place


def _settings(path: Path) -> dict[str, Any]:
    """What the file sets. Raises InputError for one that holds no settings by name; what is no YAML at all is told by
    who reads it.
    """
    from yaml import YAMLError, safe_load

    try:
        held = safe_load(path.read_text())
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: can't be read as text ({type(error).__name__}); write it in UTF-8") from None
    except YAMLError:
        return {}
    if not isinstance(held, dict):
        what = "is empty" if held is None else f"holds a {type(held).__name__}"
        raise InputError(f"{path} {what}; write settings by name, such as `project: NAME` and `registry: FILE`")
    # Who only trains needs no credentials of the online store: those are asked for when it is first reached.
    check_set({name: one for name, one in held.items() if name != "online_store"}, path)
    return held


def _fields(error: Exception) -> str:
    """Which fields a configuration error is about, without their values; or which store can't be had."""
    from feast import errors
    from pydantic import ValidationError

    if isinstance(error, errors.FeastModuleImportError):
        cause = error.__cause__
        needs = (
            f"it needs {cause.name}, which is not installed; " if isinstance(cause, ImportError) and cause.name else ""
        )
        return f"{error}; {needs}pip install 'feast[STORE]' gets what Feast's own stores need"
    if isinstance(
        error, errors.FeastClassImportError | errors.FeastOfflineStoreInvalidName | errors.FeastOnlineStoreInvalidName
    ):
        return str(error)
    inner = error.args[0] if error.args and isinstance(error.args[0], ValidationError) else error
    if not isinstance(inner, ValidationError):
        return type(inner).__name__
    return ", ".join(f"{'.'.join(map(str, one['loc'])) or 'as a whole'} ({one['type']})" for one in inner.errors())
