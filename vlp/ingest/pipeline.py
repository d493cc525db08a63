"""Sources to shards: load, read, split, encode in a pool of processes; write in one, in the source's order.

A build that is broken off, however hard, goes on from its last closed shards when it is started again, and ends with
the bytes it would have had in one go.
"""

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2

from vlp import log
from vlp.data.journal import Journal, Refused, refuse_other
from vlp.data.manifest import CODE_VERSION, QUARANTINE_NAME, Manifest
from vlp.data.merge import merge as merge_parts
from vlp.data.packing import PackedStudy
from vlp.data.storage import Target
from vlp.data.writer import ShardWriter
from vlp.errors import DataError, PrivacyError
from vlp.ingest.config import IngestConfig
from vlp.ingest.ledger import REFUSED, Ledger, letters_of, phi_of, recorded, sound_entries
from vlp.ingest.partition import Part
from vlp.ingest.privacy import PhiBudget
from vlp.ingest.quarantine import CountsLeftOut, Tally
from vlp.ingest.splits import warn_of_empty
from vlp.ingest.work import UnitResult, work_through

__all__ = ["IngestConfig", "ingest"]

_logger = log.get_logger(__name__)


def ingest(config: IngestConfig, *, output: Path | str | None = None, again: bool = False) -> Manifest:
    """Makes the shards `config` describes and returns their manifest.

    A folder that the same recipe, archive and version made before is left as it is, unless `again`.  A build that was
    broken off is continued, unless `again`.

    Raises:
        DataError: for an empty archive, more damaged studies than the budget allows, studies none of which has a
            sentence, an output that holds something else, another recipe's unfinished build, or an archive that
            changes meanwhile.  The output is then as it was; closed shards are kept aside for the next start, unless
            they are of no use to it.
        PrivacyError: if more studies hold something identifying than was declared, or a key is missing.
    """
    part = Part.parse(config.part) if config.part else None
    target = config.target_for_part(output)
    target.refuse_foreign()
    fingerprint = config.fingerprint()
    done = None if again else _finished(target, config, fingerprint)
    if done is not None:
        _clear_up(target, config)
        _logger.info("%s: these shards are already made; nothing to do", target.name)
        return done
    if config.merge is not None:
        return _merge(config, target, fingerprint)
    units = list(config.source.units())
    if not units:
        raise DataError(f"source {config.source.name}: the archive is empty")
    target.prepare()
    with target.writing():
        journal = Journal(target.journal)
    with journal:
        try:
            return _Build(config, target, journal, part, units, fingerprint).run(again=again)
        finally:
            _leave(target, journal)


class ChangedSourceError(DataError):
    """The archive's table of contents is not what it was when the build began."""


class _Build:
    """One start of a build, the first one or one that goes on."""

    def __init__(
        self,
        config: IngestConfig,
        target: Target,
        journal: Journal,
        part: Part | None,
        units: Sequence[str],
        fingerprint: str,
    ) -> None:
        self._config = config
        self._target = target
        self._journal = journal
        self._part = part
        self._units = part.of(units) if part else units
        self._fingerprint = fingerprint
        self._work = config.work()

    def run(self, *, again: bool) -> Manifest:
        self._begin(again=again)
        salt = self._config.splits.salt
        ledger = Ledger(self._units, self._journal.entries, privacy=self._work.privacy, salt=salt)
        writer = ShardWriter(
            self._target,
            samples_per_shard=self._config.samples_per_shard,
            image_format=self._config.image_format,
            salt=salt,
            recipe=self._config.recipe(),
            source_fingerprint=self._fingerprint,
            journal=self._journal,
            notes=ledger.notes,
        )
        with writer:
            try:
                self._write(ledger, writer)
                self._refuse_change()
                self._add_left_out(ledger)
                if self._part is None:  # the parts are judged together
                    studies, mute = writer.num_studies, writer.num_mute
                    _judge(self._config, ledger.tally, ledger.phi, studies=studies, mute=mute)
            except (ChangedSourceError, PrivacyError):
                # A mixture of two archives is of no use, and what identifies persons is not kept aside either.
                self._journal.start(self._identity())
                raise
            self._describe(ledger, writer)
        assert writer.manifest is not None
        _report(self._config, writer.manifest, ledger.tally)
        return writer.manifest

    def _begin(self, *, again: bool) -> None:
        identity = self._identity()
        if again or not self._journal.entries:
            with self._target.writing():
                self._journal.start(identity)
            return
        refuse_other(self._journal, identity, name=self._target.name)
        kept = next(
            (count for count, entry in enumerate(self._journal.entries) if not self._target.kept(entry.shard)),
            len(self._journal.entries),
        )
        self._journal.cut(kept)
        self._try_refused_again()
        studies = sum(entry.shard.num_samples for entry in self._journal.entries)
        if studies:
            _logger.info(
                "%s: going on after %d closed shards with %d studies",
                self._target.name, len(self._journal.entries), studies,
            )  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        """What must be the same for two starts to be of one build."""
        return {
            "recipe": self._config.recipe(),
            "archive": self._fingerprint,
            "units": hashlib.sha256("\0".join(self._units).encode(errors="surrogatepass")).hexdigest(),
            "part": str(self._part) if self._part else None,
            "vlp": CODE_VERSION,
            "opencv": cv2.__version__,
        }

    def _try_refused_again(self) -> None:
        """Somebody may have repaired the archive because of what was refused; then shards after that are void."""
        letters = recorded(self._journal.entries)
        refused = [number for number, known in enumerate(letters) if REFUSED in known]
        with closing(self._results(refused)) as results:
            found = log.progress(results, description="looking again at what was refused", total=len(refused))
            for number, result in zip(refused, found, strict=True):
                if letters_of(result.outcomes) != letters[number]:
                    self._journal.cut(sound_entries(self._journal.entries, number))
                    return

    def _write(self, ledger: Ledger, writer: ShardWriter) -> None:
        studies = self._studies(ledger)
        for study in log.progress(studies, description=f"sharding {self._config.source.name}", unit="studies"):
            writer.add(study)

    def _studies(self, ledger: Ledger) -> Iterator[PackedStudy]:
        todo = ledger.todo()
        with closing(self._results(todo)) as results:
            for number, result in zip(todo, results, strict=True):
                yield from ledger.enter(number, result)
                if self._part is None:
                    ledger.phi.judge(final=False)

    def _add_left_out(self, ledger: Ledger) -> None:
        """What the archive's table of contents left out; of several parts the first one reports it."""
        source = self._config.source
        if isinstance(source, CountsLeftOut) and (self._part is None or self._part.number == 1):
            left_out = Counter(source.left_out())
            ledger.tally.left_out += left_out
            ledger.read += left_out.total()

    def _describe(self, ledger: Ledger, writer: ShardWriter) -> None:
        """What the manifest says beyond what the writer knows."""
        tally = ledger.tally
        writer.faults.update(tally.faults)
        writer.facts["read"] = ledger.read
        writer.facts["left_out"] = dict(sorted(tally.left_out.items()))
        writer.facts["privacy"] = dict(sorted(ledger.phi.summary().items()))
        if self._part is not None:
            writer.facts["part"] = str(self._part)
        if tally.refused:
            writer.beside[QUARANTINE_NAME] = tally.lines()

    def _results(self, numbers: Sequence[int]) -> Generator[UnitResult, None, None]:
        units = [self._units[number] for number in numbers]
        return work_through(self._work, units, workers=self._config.num_workers())

    def _refuse_change(self) -> None:
        if self._config.fingerprint() != self._fingerprint:
            raise ChangedSourceError(
                f"source {self._config.source.name}: the archive changed while it was being read; "
                "run it again when nobody writes to it"
            )


def _leave(target: Target, journal: Journal) -> None:
    """Says what is kept of a build that did not end, and otherwise leaves nothing behind."""
    if journal.removed:
        return  # what lies there by now is somebody else's
    if journal.entries:
        _logger.warning(
            "%s: %d closed shards are kept aside; the same command goes on from there, --again starts afresh",
            target.name, len(journal.entries),
        )  # fmt: skip
        return
    target.discard()
    journal.remove()
    target.retreat()


def _merge(config: IngestConfig, whole: Target, fingerprint: str) -> Manifest:
    tally = Tally()

    def approve(manifest: Manifest, refused: Sequence[Refused]) -> None:
        tally.refused.extend(refused)
        tally.left_out.update(manifest.left_out)
        mute = sum(split.without_sentences for split in manifest.splits.values())
        phi = phi_of(manifest.privacy, config.privacy)
        _judge(config, tally, phi, studies=manifest.num_studies, mute=mute)

    facts = {"recipe": config.recipe(), "source_fingerprint": fingerprint, "vlp_version": CODE_VERSION}
    manifest = merge_parts(_parts(config, whole), whole, facts=facts, approve=approve)
    _report(config, manifest, tally)
    return manifest


def _parts(config: IngestConfig, whole: Target) -> list[Target]:
    count = config.merge or 0
    return [whole.part(Part(number=number, count=count).folder) for number in range(1, count + 1)]


def _clear_up(target: Target, config: IngestConfig) -> None:
    """Deletes what a kill just after the end left behind; another recipe's unfinished build is none of it."""
    if target.journal.exists() and not target.partial.exists():
        with target.writing(), Journal(target.journal) as journal:
            target.settle()
            target.discard()
            journal.remove()
    for part in _parts(config, target):
        part.delete()


def _judge(config: IngestConfig, tally: Tally, phi: PhiBudget, *, studies: int, mute: int) -> None:
    phi.judge(final=True)
    tally.judge(config.budget(), studies=studies, mute=mute)


def _report(config: IngestConfig, manifest: Manifest, tally: Tally) -> None:
    """What a person should know of shards that were just made."""
    mute = sum(split.without_sentences for split in manifest.splits.values())
    if mute:
        _logger.info("%d of %d studies have no sentence; training leaves them out", mute, manifest.num_studies)
    if tally.refused:
        _logger.warning("%d studies left out: %s", len(tally.refused), tally.shown())
    if manifest.part is None:
        warn_of_empty(config.splits, {name: split.studies for name, split in manifest.splits.items()})


def _finished(target: Target, config: IngestConfig, fingerprint: str) -> Manifest | None:
    manifest = target.finished()
    if manifest is None:
        return None
    same = (
        manifest.recipe == config.recipe()
        and manifest.source_fingerprint == fingerprint
        and manifest.vlp_version == CODE_VERSION
        and manifest.part == config.part
        and (config.part is not None or not config.budget().exceeded(manifest.faults, manifest.num_studies))
    )
    return manifest if same else None
