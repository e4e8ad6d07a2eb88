"""Does the judging of times hold live? The same thing against itself, and a planted 5% slow-down, on this machine.

    python benchmarks/noise.py                          about 25 minutes; writes benchmarks/results/noise.json
    python benchmarks/noise.py --itself 4 --planted 4   a small run
    python benchmarks/noise.py --record FILE --starts 40    raw times of a thing against itself, for the tests

The model is a chain of equal layers: 20 of them, or 21 where the slow-down is planted. Each comparison is made as
a confirmation is: fresh pairs of processes, stopped in turn, looked at as `hotlap.measure.statistics` says. Both
kinds of comparison alternate, so that they see the same machine. At least 99 of 100 of the first kind must be "no
difference", and every planted slow-down must be found; else the exit code is 3.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array, Json, Signature, Start, TensorSpec, to_json
from hotlap.machine import facts
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker

HERE = Path(__file__).resolve().parent
LAYERS, WIDTH, ROWS = 20, 256, 4
BLOCKS = pairs.Blocks(pairs=8, seconds=0.06)
FLOOR_STARTS = 8
TIMEOUT = 120.0
LEAST_ALIKE = 0.99


def weights(layers: int) -> list[Array]:
    """The chain's matrices, float32 [WIDTH, WIDTH], drawn so that activations keep their size."""
    draw = np.random.default_rng(0)
    return [(draw.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32) for _ in range(layers)]


def prepare(state: dict[str, Any], *, runtime: str, layers: int, threads: int) -> None:
    """In a worker: put the callable that is timed into `state`."""
    inputs = np.random.default_rng(1).standard_normal((ROWS, WIDTH)).astype(np.float32)
    state["call"] = {"eager": _eager, "onnxruntime": _onnxruntime}[runtime](layers, threads, inputs)
    state["call"]()


def _eager(layers: int, threads: int, inputs: Array) -> Any:
    import torch

    torch.set_num_threads(threads)
    chain = torch.nn.Sequential()
    for matrix in weights(layers):
        layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        layer.weight.data = torch.from_numpy(matrix)
        chain.extend([layer, torch.nn.ReLU()])
    given = torch.from_numpy(inputs)

    def call() -> Any:
        with torch.inference_mode():
            return chain(given)

    return call


def _onnxruntime(layers: int, threads: int, inputs: Array) -> Any:
    from hotlap import runtimes

    spec = TensorSpec(name="x", dtype="float32", shape=(ROWS, WIDTH))
    session = runtimes.get("onnxruntime").load(
        {"model.onnx": (Path(os.environ["NOISE_MODELS"]) / f"{layers}.onnx").read_bytes()},
        Signature(inputs=(spec,), outputs=(spec,), input_kind="tensor", output_tree=0),
        device="cpu",
        threads=threads,
        options={},
    )
    return lambda: session([inputs])


def write_onnx(folder: Path, layers: int) -> None:
    """Write the chain as `<layers>.onnx`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, last = [], [], "x"
    for index, matrix in enumerate(weights(layers)):
        tensors.append(numpy_helper.from_array(matrix, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"m{index}"]))
        last = "y" if index == layers - 1 else f"r{index}"
        nodes.append(helper.make_node("Relu", [f"m{index}"], [last]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", *ends, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / f"{layers}.onnx")


class Bench:
    """Starts pairs of processes of one runtime, with one number of threads."""

    def __init__(self, runtime: str, threads: int, models: Path) -> None:
        self._runtime, self._threads = runtime, threads
        self._environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(threads),
            "NOISE_MODELS": str(models),
        }

    def start(self, candidate_layers: int) -> Start:
        """Time the chain against one of so many layers, in a fresh pair of processes."""
        with Worker(environment=self._environment) as baseline, Worker(environment=self._environment) as candidate:
            for worker, layers in ((baseline, LAYERS), (candidate, candidate_layers)):
                worker.begin("noise:prepare", runtime=self._runtime, layers=layers, threads=self._threads)
            for worker in (baseline, candidate):
                worker.finish(TIMEOUT)
            return pairs.measure(baseline, candidate, BLOCKS)[0]

    def compare(self, candidate_layers: int, noise_floor: float) -> Json:
        """Compare as a confirmation does; give what was found, from every start to the verdict."""
        began, starts = time.monotonic(), list[Start]()
        while not starts or not statistics.settled(starts, noise_floor=noise_floor):
            for _ in range((statistics.next_look(starts) or 0) - len(starts)):
                starts.append(self.start(candidate_layers))
        interval = statistics.speedup(starts)
        return {
            "layers": candidate_layers,
            "verdict": statistics.verdict(interval, noise_floor),
            "speedup": {name: round(value, 5) for name, value in to_json(interval).items()},
            "start_speedups": [round(float(np.exp(statistics.start_ratio(start))), 5) for start in starts],
            "left_out": len(starts) - len(statistics.undisturbed(starts)),
            "warning": statistics.spread_warning(starts),
            "seconds": round(time.monotonic() - began, 2),
        }


def run(bench: Bench, itself: int, planted: int, seconds: float) -> Json:
    """The noise floor, then both kinds of comparison in turn, until they are done or the time is up."""
    end = time.monotonic() + seconds
    floor = statistics.noise_floor([bench.start(LAYERS) for _ in range(FLOOR_STARTS)])
    print(f"noise floor {floor:.2%}", flush=True)
    # In an even mixture, whatever the two numbers are.
    order = sorted(
        [((index + 0.5) / itself, LAYERS) for index in range(itself)]
        + [((index + 0.5) / planted, LAYERS + 1) for index in range(planted)]
    )
    done: list[Json] = []
    for _, layers in order:
        if time.monotonic() > end:
            print(f"time is up after {len(done)} of {len(order)} comparisons", flush=True)
            break
        done.append(bench.compare(layers, floor))
        print(_line(done[-1]), flush=True)
    return {
        "noise_floor": floor,
        "itself": _summary([found for found in done if found["layers"] == LAYERS], 1.0),
        "planted": _summary([found for found in done if found["layers"] > LAYERS], LAYERS / (LAYERS + 1)),
        "comparisons": done,
    }


def _line(found: Json) -> str:
    speedup, starts = found["speedup"], len(found["start_speedups"])
    return (
        f"{found['layers']} layers: {speedup['estimate']:.3f}x ({speedup['low']:.3f} to {speedup['high']:.3f}), "
        f"{found['verdict']}, {starts} starts, {found['seconds']:.1f} s"
    )


def _summary(found: list[Json], truth: float) -> Json:
    if not found:
        return {"comparisons": 0}
    ratios = np.log([ratio for one in found for ratio in one["start_speedups"]])
    return {
        "comparisons": len(found),
        "verdicts": dict(Counter(one["verdict"] for one in found)),
        "intervals_with_truth": sum(one["speedup"]["low"] <= truth <= one["speedup"]["high"] for one in found),
        "median_speedup": float(np.exp(np.median(ratios))),
        "spread_of_starts": float(np.subtract(*np.quantile(ratios, [0.75, 0.25]))) / 1.349,
        "mean_starts": float(np.mean([len(one["start_speedups"]) for one in found])),
        "mean_seconds": float(np.mean([one["seconds"] for one in found])),
    }


def provenance_of(script: Path) -> Json:
    """What a figure needs beside it to be worth anything: how, from what, when and where it was made."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40"]
    return {
        "command": shlex.join(["python", f"benchmarks/{script.name}", *sys.argv[1:]]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts.facts().to_json(),
    }


def provenance(arguments: argparse.Namespace) -> Json:
    """The same, and how this benchmark was set."""
    return {
        **provenance_of(Path(__file__)),
        "load_average": os.getloadavg(),
        "configuration": {
            "runtime": arguments.runtime,
            "threads": arguments.threads,
            "layers": LAYERS,
            "planted_layers": LAYERS + 1,
            "width": WIDTH,
            "rows": ROWS,
            "blocks": to_json(BLOCKS),
            "looks": statistics.LOOKS.at,
            "least_spread": statistics.LEAST_SPREAD,
        },
    }


def write(path: Path, content: Json) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(path)


def record(bench: Bench, path: Path, starts: int, about: Json) -> None:
    """Write the block times of so many starts of the chain against itself, to five digits, in ms."""

    def rounded(times: tuple[float, ...]) -> str:
        return "[" + ", ".join(f"{value:.5g}" for value in times) + "]"

    lines = []
    for index in range(starts):
        start = bench.start(LAYERS)
        lines.append(f"  [{rounded(start.baseline_ms)}, {rounded(start.candidate_ms)}]")
        print(f"start {index + 1}: {np.exp(statistics.start_ratio(start)):.4f}", flush=True)
    head = json.dumps(about, indent=1).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + ',\n "starts": [\n' + ",\n".join(lines) + "\n ]\n}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--itself", type=int, default=100, help="comparisons of the chain against itself")
    parser.add_argument("--planted", type=int, default=50, help="comparisons against the chain that does 5%% more")
    parser.add_argument("--runtime", choices=["onnxruntime", "eager"], default="onnxruntime")
    parser.add_argument("--threads", type=int, default=facts.facts().cores)
    parser.add_argument("--seconds", type=float, default=3600.0, help="start no comparison after this")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "noise.json")
    parser.add_argument("--record", type=Path, help="only write raw block times to this file")
    parser.add_argument("--starts", type=int, default=40, help="how many starts --record writes")
    arguments = parser.parse_args()
    about = provenance(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for layers in (LAYERS, LAYERS + 1):
            write_onnx(Path(folder), layers)
        bench = Bench(arguments.runtime, arguments.threads, Path(folder))
        if arguments.record:
            record(bench, arguments.record, arguments.starts, about)
            return 0
        found = run(bench, arguments.itself, arguments.planted, arguments.seconds)
    write(arguments.out, {**about, **found})
    print(json.dumps({name: found[name] for name in ("noise_floor", "itself", "planted")}, indent=1))
    return 0 if _holds(found) else 3


def _holds(found: Json) -> bool:
    itself, planted = found["itself"], found["planted"]
    alike = not itself["comparisons"] or (
        itself["verdicts"].get("no difference", 0) >= LEAST_ALIKE * itself["comparisons"]
    )
    return alike and (not planted["comparisons"] or planted["verdicts"].get("slower") == planted["comparisons"])


if __name__ == "__main__":
    sys.exit(main())
