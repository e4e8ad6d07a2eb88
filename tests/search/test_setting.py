"""Processes that are started for a search: where they keep what they write on the way."""

from pathlib import Path

import trainable

from hotlap.search.setting import start_worker
from hotlap.training.settings import Settings


def test_loader_processes_hand_over_their_batches_in_a_folder_of_any_depth(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    settings = Settings(batch_size=16, threads=1, workers=1).to_json()
    with start_worker(1, None, tmp_path / ("a folder with a long name, " * 4)) as worker:
        worker.call("hotlap.training.timing:hold", target=target, settings=settings, timeout=60)
        worker.call("hotlap.measure.timing:block", seconds=0.01, timeout=60)
