from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import nn

from hotlap.profiling.onednn import reorder_share, reorder_times

LOG = """onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71)
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,...,exec_time
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:abcd::f0,,64x3x7x7,0.5
onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward_training,src:f32:a,alg:direct,mb1,1.5
something else on the same stream, exec
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:blk,undef,src:f32::blocked:aBcd16b::f0,,1x64x112x112,1
"""


def test_the_times_of_a_log() -> None:
    assert reorder_times(LOG.splitlines()) == pytest.approx((1.5, 3.0))
    assert reorder_times([]) == (0, 0)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_a_convolution_in_the_default_layout_is_reordered(capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Conv2d(32, 32, 3).eval()
    image = torch.zeros(2, 32, 24, 24)
    with torch.inference_mode():
        share = reorder_share(lambda: model(image))
        os.write(1, b"still here\n")
    assert 0 < share < 1
    assert capfd.readouterr().out == "still here\n", "standard output is put back, and holds no log"


def test_what_onednn_has_no_part_in_has_no_reorders() -> None:
    values = torch.zeros(8)
    assert reorder_share(lambda: values + 1) == 0


def test_standard_output_is_put_back_where_the_call_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def call() -> None:
        calls.append(0)
        if len(calls) > 1:
            raise ValueError("no")

    calls: list[int] = []
    with pytest.raises(ValueError, match="no"):
        reorder_share(call)
    print("printed", file=sys.stdout, flush=True)
    assert capfd.readouterr().out == "printed\n"
