"""Steps whose numbers are not numbers: left out, counted, and after too many in a row the run goes back.

A loss or a gradient that is NaN or infinite would spoil every weight at once.  Such a step updates nothing: its
gradient is dropped and the batch statistics it moved are put back.  All processes have the same loss and the same
gradient, so all of them leave the same steps out without asking each other.
"""

from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from vlp.config import Config


class GuardConfig(Config):
    """What happens when a loss or a gradient is not a finite number."""

    patience: PositiveInt = 3
    """So many steps in a row may be left out; then weights and optimizer are taken from the last good checkpoint."""
    rollbacks: NonNegativeInt = 2
    """So often a run goes back before it gives up."""


@dataclass(slots=True)
class Guard:
    """Counts steps that were left out, and says when it is time to go back."""

    config: GuardConfig
    in_a_row: int = 0

    def too_many(self, *, skipped: bool) -> bool:
        """Takes what the last step was; True when the run must go back (the count then begins anew)."""
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if self.in_a_row < self.config.patience:
            return False
        self.in_a_row = 0
        return True


def is_finite(*values: Tensor | float) -> bool:
    """Whether all of some single numbers are finite; waits for the device, once."""
    tensors = [value if isinstance(value, Tensor) else torch.tensor(value) for value in values]
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
    return bool(torch.isfinite(torch.stack([tensor.detach().float().to(device) for tensor in tensors])).all())
