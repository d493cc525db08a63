"""Objectives: `logits [text image]` and the `Pairs` of a batch in, one number out.  No parameters, no state.

What an objective needs to know of a batch is in `Pairs`: clip and siglip read whose text it is, the others what is
true of what.  On several ranks each holds all texts against its own images, and `Ranks` joins what runs along
images: all ranks get the loss of the whole batch.  Weights are relative everywhere: only their ratios matter, and a
text of weight 0 is a negative and no more.  Each configuration is callable.  A new objective is one file, one name in
`AnyObjective`, one case in the contract suite.
"""

from typing import Annotated

from pydantic import Field

from vlp.objectives.across import ALONE, Across, Alone, Ranks
from vlp.objectives.clip import ClipConfig, clip
from vlp.objectives.multi_positive_nce import Mode, MultiPositiveNceConfig, multi_positive_nce
from vlp.objectives.multi_positive_sigmoid import MultiPositiveSigmoidConfig, multi_positive_sigmoid
from vlp.objectives.pairs import Pairs
from vlp.objectives.siglip import SiglipConfig, siglip
from vlp.objectives.soft_targets import SoftTargetsConfig, soft_targets

AnyObjective = Annotated[
    MultiPositiveNceConfig | MultiPositiveSigmoidConfig | ClipConfig | SiglipConfig | SoftTargetsConfig,
    Field(discriminator="kind"),
]

__all__ = [
    "ALONE",
    "Across",
    "Alone",
    "AnyObjective",
    "ClipConfig",
    "Mode",
    "MultiPositiveNceConfig",
    "MultiPositiveSigmoidConfig",
    "Pairs",
    "Ranks",
    "SiglipConfig",
    "SoftTargetsConfig",
    "clip",
    "multi_positive_nce",
    "multi_positive_sigmoid",
    "siglip",
    "soft_targets",
]
