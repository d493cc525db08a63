"""What every archive promises.  A replica in tests/ingest/archives/replicas is checked without being named here."""

import multiprocessing
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.contracts import damage, miniature
from tests.ingest.archives.replicas.replica import Replica
from vlp.errors import DataError
from vlp.ingest.source import Source, StudyFault
from vlp.records import Certainty, LoadedStudy, Mask, Region, Study
from vlp.reports.findings import canonical

REPLICAS = miniature.names("archives")
IMAGES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff"}
SOME = 8
"""Tables that are damaged in turn; an archive with a file per study has more."""


@dataclass(frozen=True)
class Outcome:
    """What became of an archive: studies and faults, or the error that stopped it, and all that was said."""

    studies: tuple[LoadedStudy, ...]
    faults: tuple[StudyFault, ...]
    error: str | None
    messages: str

    @property
    def ids(self) -> list[str]:
        return [loaded.study.id for loaded in self.studies]

    @property
    def facts(self) -> list[Study]:
        """The studies without the paths of their images, which differ from copy to copy."""
        studies = [loaded.study for loaded in self.studies]
        return [replace(each, images=tuple(replace(image, path=None) for image in each.images)) for each in studies]


class Archive:
    """One replica, its source, and what the source gives."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / "archive"
        self.folder.mkdir()
        self.replica: Replica = miniature.build("archives", name, self.folder)
        self.source = self.source_in(self.folder)
        self.files = sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        self.tables = [file for file in self.files if damage.is_table(file)][:SOME]
        self.before = miniature.snapshot(self.folder)
        self.outcome = outcome(self.source)

    def source_in(self, folder: Path) -> Source:
        values = miniature.moved(self.replica.source, self.folder, folder)
        return miniature.configured("archives", Source, values)

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.folder, folder / "copy"))

    def images(self) -> list[Path]:
        paths = [image.path for loaded in self.outcome.studies for image in loaded.study.images if image.path]
        return [path.relative_to(self.folder) for path in dict.fromkeys(paths) if path.suffix.lower() in IMAGES]

    def noticed(self, got: Outcome) -> bool:
        return got.error is not None or len(got.faults) > len(self.outcome.faults)


def outcome(source: Source) -> Outcome:
    """Everything the source gives; only a `DataError` may stop it, anything else fails the test that asked."""
    items: list[LoadedStudy | StudyFault] = []
    error = None
    with miniature.Listener() as listener:
        try:
            for unit in source.units():
                try:
                    items.extend(source.load(unit))
                except DataError as fault:  # the pipeline counts it as one fault
                    items.append(StudyFault(code="unreadable_unit", message=str(fault)))
        except DataError as fault:
            error = str(fault)
    faults = tuple(item for item in items if isinstance(item, StudyFault))
    assert not any("\n" in fault.message for fault in faults)
    return Outcome(
        studies=tuple(item for item in items if isinstance(item, LoadedStudy)),
        faults=faults,
        error=error,
        messages="\n".join([*(fault.message for fault in faults), *listener.lines, error or ""]),
    )


class Spoiler:
    """A copy of the archive in which one file at a time is gone or holds something else."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self.archive = archive
        self.folder = archive.copy(folder)

    def outcome(self, file: Path, content: bytes | None) -> Outcome:
        with self.spoiled(file, content):
            got = outcome(self.archive.source_in(self.folder))
        assert_silent(self.archive, got)
        return got

    @contextmanager
    def spoiled(self, file: Path, content: bytes | None) -> Iterator[Source]:
        path = self.folder / file
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        yield self.archive.source_in(self.folder)
        path.write_bytes((self.archive.folder / file).read_bytes())


def assert_silent(archive: Archive, got: Outcome) -> None:
    assert not [secret for secret in archive.replica.secrets if secret in got.messages], got.messages


@pytest.fixture(scope="module", params=REPLICAS)
def archive(request, tmp_path_factory):
    return Archive(request.param, tmp_path_factory.mktemp("a"))


@pytest.fixture
def spoiler(archive, tmp_path):
    return Spoiler(archive, tmp_path)


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as started:
        yield started


def test_there_are_archives():
    assert REPLICAS


def test_gives_exactly_what_it_holds(archive):
    replica, got = archive.replica, archive.outcome
    assert got.error is None
    assert Counter(fault.code for fault in got.faults) == Counter(dict(replica.faults)), got.messages
    assert len(got.studies) == replica.studies
    assert len({loaded.study.person.id for loaded in got.studies}) == replica.persons
    assert len(set(got.ids)) == len(got.ids)


def test_units_are_unique_and_do_not_depend_on_where_the_archive_lies(archive, tmp_path):
    units = list(archive.source.units())
    assert units
    assert len(set(units)) == len(units)
    assert list(archive.source.units()) == units
    copy = archive.source_in(archive.copy(tmp_path))
    assert list(copy.units()) == units
    assert copy.fingerprint() == archive.source.fingerprint()
    assert outcome(copy).facts == archive.outcome.facts


def test_units_are_found_without_opening_an_image(archive, tmp_path):
    if not archive.tables:
        pytest.skip("no table: the images' own headers say whose they are")
    copy = archive.copy(tmp_path)
    for image in archive.images():
        (copy / image).write_bytes(b"")
    assert list(archive.source_in(copy).units()) == list(archive.source.units())


def test_studies_are_sound(archive):
    whose = {loaded.study.id: loaded.study.person.id for loaded in archive.outcome.studies}
    for loaded in archive.outcome.studies:
        study = loaded.study
        check_pixels(loaded)
        check_person(study)
        check_words(study)
        assert study.source
        assert study.split in ("train", "val", "test", None)
        assert study.id not in study.earlier
        assert {whose[other] for other in study.earlier if other in whose} <= {study.person.id}


def check_pixels(loaded: LoadedStudy) -> None:
    images = loaded.study.images
    assert images
    assert len({image.id for image in images}) == len(images) == len(loaded.pixels)
    for image, pixels in zip(images, loaded.pixels, strict=True):
        assert pixels.dtype == np.uint8
        assert pixels.shape == (image.rows, image.columns)
        assert image.view in ("PA", "AP", "lateral", "other")
        assert len(image.sha256) == 64
    shapes = {image.id: (image.rows, image.columns) for image in images}
    for region in loaded.study.regions:
        check_region(region, shapes[region.image])


def check_region(region: Region, shape: tuple[int, int]) -> None:
    rows, columns = shape
    assert region.finding == region.finding.lower().strip() != ""
    assert canonical(region.finding) in (region.finding, None)
    if isinstance(region.geometry, Mask):
        assert (region.geometry.rows, region.geometry.columns) == shape
        assert sum(region.geometry.counts) == rows * columns
    elif len(region.geometry) == 2:
        x, y = region.geometry
        assert 0 <= x <= columns
        assert 0 <= y <= rows
    else:
        x0, y0, x1, y1 = region.geometry
        assert 0 <= x0 < x1 <= columns
        assert 0 <= y0 < y1 <= rows


def check_person(study: Study) -> None:
    assert study.person.id
    assert study.person.sex in ("F", "M", None)
    assert study.person.age is None or 0 <= study.person.age <= 120


def check_words(study: Study) -> None:
    for name, certainty in study.labels.items():
        assert canonical(name) == name
        assert isinstance(certainty, Certainty)
    assert study.report is None or study.report.text.strip()
    for sentence in study.sentences:
        if sentence.origin == "report":
            assert study.report is not None
            assert 0 <= sentence.start < sentence.end <= len(study.report.text)


def worker(source: Source) -> list[str]:
    return outcome(source).ids


def test_goes_to_a_worker_process_as_it_is(archive, pool):
    assert pool.submit(worker, archive.source).result() == archive.outcome.ids


def test_writes_nothing_into_the_archive(archive):
    outcome(archive.source)
    archive.source.fingerprint()
    assert miniature.snapshot(archive.folder) == archive.before


def test_no_message_shows_whose_study_it_is_or_what_was_written(archive):
    told = repr([loaded.study for loaded in archive.outcome.studies]) + " ".join(map(str, archive.files))
    held = told.encode() + b"".join(damage.content(archive.folder / file) for file in archive.files)
    assert archive.replica.secrets
    assert not [secret for secret in archive.replica.secrets if secret.encode() not in held]
    assert_silent(archive, archive.outcome)


def test_a_table_that_is_needed_is_missed_and_changes_the_fingerprint(archive, spoiler):
    if not archive.tables:
        pytest.skip("no table: the files are the archive")
    needed = [table for table in archive.tables if archive.noticed(spoiler.outcome(table, None))]
    assert needed
    for table in needed:
        changed = damage.packed(table, damage.content(archive.folder / table) + b"\n")
        with spoiler.spoiled(table, changed) as source:
            assert source.fingerprint() != archive.source.fingerprint(), table


def test_a_table_cut_in_the_middle_is_noticed(archive, spoiler):
    for table in archive.tables:
        rest = damage.cut(archive.folder / table)
        if rest is None:
            continue
        got = spoiler.outcome(table, rest)
        assert archive.noticed(got) or got.facts == archive.outcome.facts, table


def test_a_missing_column_is_noticed_or_not_needed(archive, spoiler):
    for table in archive.tables:
        for column, content in damage.without_column(archive.folder / table):
            got = spoiler.outcome(table, content)
            assert got.studies or archive.noticed(got), (table, column)


@pytest.mark.parametrize("content", [None, b"", b"no image"], ids=["missing", "empty", "no_image"])
def test_a_spoiled_image_is_a_fault_of_its_study_alone(archive, spoiler, content):
    images = archive.images()
    if not images:
        pytest.skip("the images are inside one file")
    for image in images[:: max(1, len(images) // 3)]:
        got = spoiler.outcome(image, content)
        own = {
            loaded.study.id
            for loaded in archive.outcome.studies
            if archive.folder / image in {file.path for file in loaded.study.images}
        }
        assert got.error is None or own == set(archive.outcome.ids)
        # Where no table names it nobody knows that a file should be there, or is meant to be an image.
        assert archive.noticed(got) or not any(name_in(archive, table, image) for table in archive.tables)
        assert set(got.ids) >= set(archive.outcome.ids) - own


def test_no_name_in_a_table_leads_out_of_the_archive(archive, spoiler):
    image = next((image for image in archive.images() if any(name_in(archive, t, image) for t in archive.tables)), None)
    if image is None:
        pytest.skip("no table names an image")
    shutil.copy(archive.folder / image, spoiler.folder.parent / f"outside{image.suffix}")
    for table in archive.tables:
        name = name_in(archive, table, image)
        for up in range(1, len(image.parts) + 2) if name else ():
            content = damage.renamed(archive.folder / table, {name: "../" * up + "outside"})
            got = spoiler.outcome(table, content)
            paths = [file.path for loaded in got.studies for file in loaded.study.images if file.path]
            assert all(path.resolve().is_relative_to(spoiler.folder.resolve()) for path in paths), table


def name_in(archive: Archive, table: Path, image: Path) -> str | None:
    """What the table calls the image, without its ending; with its folders where its name alone is not unique."""
    held = damage.content(archive.folder / table)
    others = [other.with_suffix("").parts for other in archive.images()]
    parts = image.with_suffix("").parts
    tails = [parts[start:] for start in range(len(parts))]
    unique = [tail for tail in tails if sum(other[-len(tail) :] == tail for other in others) == 1]
    return next((name for tail in unique if (name := "/".join(tail)).encode() in held), None)
