"""How much memory training takes: the device's peak, or what the process holds."""

import psutil
import torch

_GB = 1e9


def peak_gb(device: torch.device) -> float:
    """Gigabytes: the most that tensors took on a GPU since the last call, or what the process holds on a CPU."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / _GB
    return int(psutil.Process().memory_info().rss) / _GB
