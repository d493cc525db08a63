import numpy as np
import torch

from vlp.train.watching.memory import peak_gb


def test_a_process_on_a_cpu_says_what_it_holds() -> None:
    before = peak_gb(torch.device("cpu"))
    held = np.ones(50_000_000)  # 0.4 GB, written to
    assert 0.3 < peak_gb(torch.device("cpu")) - before < 0.6
    assert held[0] == 1.0
