"""Objectives: `logits [text image]` and `positives [text image]` in, one number out.  No parameters, no state.

What an objective needs to know of a batch is in `positives`: 1 positive, 0 negative, -1 neither.  Each configuration
is callable and says by `duplicates_are_positive` which matrix it wants: `Batch.positives()`, or ownership alone.
A new objective is one file, one name in `AnyObjective`, one case in the contract suite.
"""

from typing import Annotated

from pydantic import Field

from vlp.objectives.clip import ClipConfig, clip
from vlp.objectives.multi_positive_nce import Mode, MultiPositiveNceConfig, multi_positive_nce

AnyObjective = Annotated[MultiPositiveNceConfig | ClipConfig, Field(discriminator="kind")]

__all__ = ["AnyObjective", "ClipConfig", "Mode", "MultiPositiveNceConfig", "clip", "multi_positive_nce"]
