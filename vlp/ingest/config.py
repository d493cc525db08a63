"""What `vlp ingest` is told: which archive, what is done to it, where the shards go."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from vlp.config import Config
from vlp.data.packing import JPEG_QUALITY, ImageFormat
from vlp.data.storage import URL, Target, target_of
from vlp.ingest.partition import PART, Part
from vlp.ingest.preparation import Preparation
from vlp.ingest.privacy import Privacy, PrivacyConfig
from vlp.ingest.quarantine import Budget
from vlp.ingest.sources import AnyAnnotation, AnySource
from vlp.ingest.splits import Splits
from vlp.ingest.work import Work
from vlp.reports.readers import ReaderConfig, RulesReaderConfig

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_NOT_CONTENT: dict[str, Any] = {
    **dict.fromkeys(("output", "staging", "workers", "error_budget", "fault_budgets", "part", "merge"), True),
    "privacy": {"key_file", "key_env", "phi_budget"},
}
"""Where shards go, how fast, and when to stop; which key is used is in the fingerprint, its place matters to nobody."""


class IngestConfig(Config):
    """From one archive to one folder of shards."""

    source: AnySource
    output: Annotated[Annotated[str, Field(pattern=rf"^{URL}$")] | Path, Field(union_mode="left_to_right")]
    """Folder of the shards, replaced if it holds shards already; or a URL that fsspec knows, e.g. s3://bucket/shards."""
    annotations: tuple[AnyAnnotation, ...] = ()
    """Sets of annotations that are added to the archive's studies, in this order."""
    privacy: PrivacyConfig = PrivacyConfig()
    """What becomes of whatever could identify a person, before anything is written."""
    samples_per_shard: Annotated[int, Field(ge=1)] = 1000
    image_format: ImageFormat = "jpg"
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = JPEG_QUALITY
    max_side_px: Annotated[int, Field(ge=16)] | None = None
    """Larger images are made smaller until their longer side has this length; null keeps their size."""
    splits: Splits = Splits()
    """For persons to whom the archive gives no split."""
    sentences_from_labels: bool = True
    """Whether studies with labels and no report get sentences made from the labels (marked as made so)."""
    reader: ReaderConfig = RulesReaderConfig()
    """What reads the reports: the rules, a language model behind an OpenAI-compatible address, RadGraph, CheXbert."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes; null for one per core, 0 for none but this one."""
    error_budget: Fraction = 0.001
    """Largest share of studies that may be left out because they are damaged."""
    fault_budgets: dict[str, Fraction] = Field(default_factory=dict)
    """Shares of their own for single kinds of fault, e.g. {missing_image: 0.05}, outside of error_budget."""
    part: Annotated[str, Field(pattern=rf"^{PART}$")] | None = None
    """E.g. 3/16: only the third of sixteen parts of the archive, for jobs of a cluster; merge joins them."""
    merge: Annotated[int, Field(ge=1)] | None = None
    """Joins that many finished parts instead of reading the archive."""
    staging: Path = Path("runs/staging")
    """Where shards grow that go to a URL."""

    @field_validator("part")
    @classmethod
    def _one_of_the_parts(cls, value: str | None) -> str | None:
        if value is not None:
            Part.parse(value)
        return value

    @model_validator(mode="after")
    def _one_thing_at_a_time(self) -> Self:
        if self.part is not None and self.merge is not None:
            raise ValueError("part and merge exclude each other: make the parts first, then merge them")
        return self

    def recipe(self) -> dict[str, Any]:
        """What decides the content of the shards; where they go and how fast does not."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude=_NOT_CONTENT))
        return values

    def fingerprint(self) -> str:
        """Changes when the archive, a set of annotations, or the rules or key of privacy do.

        Raises:
            PrivacyError: if there is no key where one is needed.
        """
        prints = [
            self.source.fingerprint(),
            *(annotation.fingerprint() for annotation in self.annotations),
            Privacy(self.privacy).fingerprint(),
        ]
        return hashlib.sha256("\0".join(prints).encode()).hexdigest()

    def budget(self) -> Budget:
        """How much may be refused."""
        return Budget(total=self.error_budget, by_code=self.fault_budgets)

    def work(self) -> Work:
        """What is done to each unit of the archive."""
        preparation = Preparation(
            max_side_px=self.max_side_px,
            image_format=self.image_format,
            jpeg_quality=self.jpeg_quality,
            splits=self.splits,
            sentences_from_labels=self.sentences_from_labels,
            reader=self.reader,
        )
        return Work(
            source=self.source,
            preparation=preparation,
            privacy=Privacy(self.privacy),
            annotations=self.annotations,
        )

    def target(self, output: Path | str | None = None) -> Target:
        """Where the shards of the whole archive go."""
        return target_of(self.output if output is None else output, staging=self.staging)

    def target_for_part(self, output: Path | str | None = None) -> Target:
        """Where the shards of this job go: those of the whole archive, or of the part it is to make."""
        whole = self.target(output)
        return whole if self.part is None else whole.part(Part.parse(self.part).folder)

    def num_workers(self) -> int:
        """Processes to use."""
        return len(os.sched_getaffinity(0)) if self.workers is None else self.workers
