"""How many studies of a build hold something identifying, and when that is more than was declared."""

from collections import Counter

from vlp.errors import PrivacyError
from vlp.ingest.privacy.cleaning import Cleaned
from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.phi import HitKind
from vlp.ingest.source import StudyFault

ENOUGH = 200
"""Studies from which on a build in progress is judged; fewer say too little about an archive."""
_CODES = frozenset({"identifying_text", "burned_in_text"})


class PhiBudget:
    """Counts what `Privacy.apply` gave.  Counts of several processes add up with `merge`."""

    def __init__(self, config: PrivacyConfig) -> None:
        self._allowed = config.phi_budget
        self.studies = 0
        self.identifying = 0
        """Studies with hits, or with images with lines of text, refused ones included."""
        self.hits: Counter[HitKind] = Counter()
        self.dates = 0
        self.burned_in = 0
        """Images with lines of text in studies that were kept."""

    def add(self, item: Cleaned | StudyFault) -> None:
        """Counts one study; faults for other reasons are not privacy's business and count as nothing."""
        if isinstance(item, StudyFault):
            refused = item.code in _CODES
            self.studies += refused
            self.identifying += refused
            return
        self.studies += 1
        self.identifying += bool(item.hits) or item.burned_in > 0
        self.hits.update(item.hits)
        self.dates += item.dates
        self.burned_in += item.burned_in

    def merge(self, other: "PhiBudget") -> None:
        """Adds another process's counts."""
        self.studies += other.studies
        self.identifying += other.identifying
        self.hits += other.hits
        self.dates += other.dates
        self.burned_in += other.burned_in

    def judge(self, *, final: bool) -> None:
        """Stops a build that found more than it was told to expect; one in progress only after 200 studies.

        Raises:
            PrivacyError: if the share of studies with hits is above `phi_budget`.
        """
        if (not final and self.studies < ENOUGH) or self.identifying <= self._allowed * self.studies:
            return
        kinds = (
            ", ".join(f"{kind} {count}" for kind, count in self.hits.most_common()) or "in studies that were refused"
        )
        raise PrivacyError(
            f"{self.identifying} of {self.studies} studies hold something identifying ({kinds}), more than phi_budget "
            f"{self._allowed:g} allows; is the archive de-identified?  If it need not be, declare a larger phi_budget"
        )

    def summary(self) -> dict[str, int]:
        """Counts for a manifest: studies looked at, studies with hits, hits by kind, dates, images with text."""
        return {
            "studies": self.studies,
            "identifying_studies": self.identifying,
            **{f"{kind}_hits": count for kind, count in sorted(self.hits.items())},
            "dates": self.dates,
            "images_with_text": self.burned_in,
        }
