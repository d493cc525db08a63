"""Buffers are made once, and spans cover everything once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from vlp.kernels.workspace import Workspace, spans


def test_one_purpose_has_one_memory():
    space = Workspace(torch.empty(0, dtype=torch.float64))
    first = space.take("Z", (4, 6))
    assert first.dtype == torch.float64
    assert space.take("Z", (3, 5)).data_ptr() == first.data_ptr()
    assert space.take("A", (4, 6)).data_ptr() != first.data_ptr()
    assert space.take("Z", (5, 6)).shape == (5, 6)


@given(total=st.integers(0, 50), size=st.integers(1, 60))
def test_spans_cover_everything_once(total, size):
    seen = [number for span in spans(total, size) for number in range(span.start, span.stop)]
    assert seen == list(range(total))
