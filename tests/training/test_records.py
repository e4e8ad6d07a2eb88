"""What a run notes reaches the file in time, without a write for each step."""

import os
from pathlib import Path

import pytest

from hotlap.errors import InputError, OutputError
from hotlap.training import records
from hotlap.training.records import Records


def test_steps_are_written_together_and_nothing_that_counts_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_CHARTS", {})
    monkeypatch.setattr(records, "_FLUSH_SECONDS", 1e9)
    made = Records(tmp_path, size=0, name="rows", settings={})

    def lines() -> int:
        return len((tmp_path / "metrics.jsonl").read_bytes().splitlines())

    made.add({"step": 1, "loss": 0.5})
    made.add({"step": 2, "loss": 0.5})
    assert lines() == 0
    assert made.mark() == (tmp_path / "metrics.jsonl").stat().st_size > 0
    assert lines() == 2
    made.add({"step": 2, "score": 0.9})
    assert lines() == 3
    made.add({"step": 3, "loss": 0.5})
    made.close()
    assert lines() == 4


def test_the_size_is_that_of_the_file_also_after_lines_were_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_CHARTS", {})
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n')
    made = Records(tmp_path, size=12, name="rows", settings={})
    assert made.mark() == 12
    made.add({"step": 2, "loss": 0.5})
    assert made.mark() == (tmp_path / "metrics.jsonl").stat().st_size
    made.close()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_plain_file_is_not_written_to(kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("of somebody else\n" * 100)
    path = tmp_path / "metrics.jsonl"
    {"link": lambda: path.symlink_to(other), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(OutputError, match=r"metrics\.jsonl is no plain file; move it away and go on with --resume"):
        Records(tmp_path, size=10, name="rows", settings={})
    assert other.read_text() == "of somebody else\n" * 100


class Lost:
    """A chart whose server is gone when it is first, then, or last asked."""

    def __init__(self, when: str) -> None:
        self._when = when
        self.ended: list[bool] = []

    def __call__(self, folder: Path, name: str, settings: object, goes_on: bool) -> "Lost":
        self._ask("begin")
        return self

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self._ask("add")

    def close(self, finished: bool) -> None:
        self.ended.append(finished)
        self._ask("close")

    def _ask(self, what: str) -> None:
        if what == self._when:
            raise ConnectionError("nobody there")


@pytest.mark.parametrize("when", ["begin", "add", "close"])
def test_a_chart_that_fails_is_a_warning(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Lost(when)
    monkeypatch.setattr(records, "_CHARTS", {"json": lost})
    monkeypatch.delenv("HOTLAP_CHARTS")
    made = Records(tmp_path, size=0, name="rows", settings={})
    made.add({"step": 1, "loss": 0.5})
    made.add({"step": 2, "loss": 0.5})
    made.close()
    (warning,) = made.warnings
    assert warning.startswith("json has not all of the run: ConnectionError: nobody there")
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 2
    assert lost.ended == {"begin": [], "add": [False], "close": [True]}[when]


def test_charts_end_also_where_the_file_can_t_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart = Lost("never")
    monkeypatch.setattr(records, "_CHARTS", {"json": chart})
    monkeypatch.delenv("HOTLAP_CHARTS")
    monkeypatch.setattr(records, "_FLUSH_SECONDS", 1e9)
    made = Records(tmp_path, size=0, name="rows", settings={})
    made.add({"step": 1, "loss": 0.5})
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, made._file.fileno())
    os.close(full)
    with pytest.raises(OutputError, match="No space left on device"):
        made.close()
    assert chart.ended == [False]


def test_tensorboard_gets_each_number_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("HOTLAP_CHARTS", "tensorboard")
    made = Records(tmp_path, size=0, name="rows", settings={"seed": 1})
    made.add({"step": 1, "loss": 0.5, "rate": 0.1})
    made.add({"step": 2, "loss": 0.25, "rate": None})
    made.close()
    assert not made.warnings
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [one.step for one in events.Scalars("rate")] == [1]
    assert events.Tags()["tensors"] == ["settings/text_summary"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("none", []), (" tensorboard ", ["tensorboard"]), ("mlflow,tensorboard", ["mlflow", "tensorboard"]),
     ("", ["tensorboard", "mlflow"])],
)  # fmt: skip
def test_which_charts_are_wanted(given: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTLAP_CHARTS", given)
    assert records.charts_wanted() == wanted


def test_charts_that_there_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTLAP_CHARTS", "wandb")
    with pytest.raises(InputError, match="HOTLAP_CHARTS names 'wandb'; give tensorboard, mlflow, with commas, or none"):
        records.charts_wanted()
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("HOTLAP_CHARTS", "mlflow")
    with pytest.raises(InputError, match="HOTLAP_CHARTS names mlflow, which is not installed"):
        records.charts_wanted()


def test_a_run_of_mlflow_that_fails_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOTLAP_CHARTS", "mlflow")

    def lost(*_: object, **__: object) -> None:
        raise ConnectionError("nobody there")

    for call in ("log_params", "log_metrics"):
        with monkeypatch.context() as patch:
            patch.setattr(mlflow, call, lost)
            made = Records(tmp_path, size=0, name="rows", settings={})
            made.add({"step": 1, "loss": 0.5})
            assert mlflow.active_run() is None
            made.close()


def test_mlflow_is_told_how_a_run_ended_also_within_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOTLAP_CHARTS", "mlflow")
    Records(tmp_path, size=0, name="rows", settings={}).close(finished=False)
    (alone,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert alone.info.status == "FAILED"
    with mlflow.start_run() as around:
        made = Records(tmp_path, size=0, name="rows", settings={})
        made.add({"step": 1, "loss": 0.5})
        made.close()
        assert not made.warnings
        assert mlflow.active_run().info.run_id == around.info.run_id
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    (within,) = [one for one in found if one.data.tags.get("mlflow.parentRunId") == around.info.run_id]
    assert within.info.status == "FINISHED"


def test_a_resumed_training_goes_on_in_its_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOTLAP_CHARTS", "mlflow")
    size = 0
    for step, finished in ((1, False), (2, True)):
        made = Records(tmp_path, size=size, name="rows", settings={"clip": step})
        made.add({"step": step, "loss": 1 / step})
        size = made.mark()
        made.close(finished=finished)
        assert not made.warnings
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 0.5
