"""What every set of annotations promises.  A replica in tests/ingest/annotations/replicas is checked unnamed here."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contracts import damage, miniature
from tests.contracts.test_sources import check_region, check_words
from tests.ingest.annotations.replicas.replica import AnnotationReplica
from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.records import Study

REPLICAS = miniature.names("annotations")


@dataclass(frozen=True)
class Outcome:
    studies: dict[str, Study]
    errors: dict[str, str]
    messages: str


class Archive:
    """One replica and what it makes of its studies."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / "annotations"
        self.folder.mkdir()
        self.replica: AnnotationReplica = miniature.build("annotations", name, self.folder)
        self.annotation = self.annotation_in(self.folder)
        self.files = sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        self.tables = [file for file in self.files if damage.is_table(file)]
        self.before = miniature.snapshot(self.folder)
        self.outcome = outcome(self.annotation, self.replica.studies)

    def annotation_in(self, folder: Path) -> Annotation:
        return miniature.configured(
            "annotations", Annotation, miniature.moved(self.replica.values, self.folder, folder)
        )


def outcome(annotation: Annotation, studies: tuple[Study, ...]) -> Outcome:
    """What becomes of every study; only a `DataError` may refuse one, anything else fails the test that asked."""
    done, errors = {}, {}
    with miniature.Listener() as listener:
        for study in studies:
            try:
                done[study.id] = annotation.apply(study)
            except DataError as error:
                errors[study.id] = str(error)
    return Outcome(done, errors, "\n".join([*errors.values(), *listener.lines]))


def spoiled(archive: Archive, file: Path, content: bytes | None) -> Outcome:
    """What becomes of the studies when one file is gone or holds something else; it is put back afterwards."""
    path = archive.folder / file
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    try:
        got = outcome(archive.annotation, archive.replica.studies)
    finally:
        path.write_bytes(whole)
    assert_silent(archive, got)
    return got


def assert_silent(archive: Archive, got: Outcome) -> None:
    assert not [secret for secret in archive.replica.secrets if secret in got.messages], got.messages
    assert not any("\n" in message for message in got.errors.values())


@pytest.fixture(params=REPLICAS)
def archive(request, tmp_path):
    return Archive(request.param, tmp_path)


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as started:
        yield started


def test_there_are_sets():
    assert REPLICAS


def test_adds_exactly_what_it_holds(archive):
    replica = archive.replica
    assert set(archive.outcome.errors) == set(replica.refused)
    touched = 0
    for study in replica.studies:
        if study.id in replica.refused:
            continue
        after = archive.outcome.studies[study.id]
        added = replica.regions.get(study.id, ())
        assert after.regions == (*study.regions, *added)
        assert dict(after.labels) == dict(replica.labels.get(study.id, study.labels))
        assert len(after.sentences) == replica.sentences.get(study.id, len(study.sentences))
        touched += after != study
    assert 0 < touched < len(replica.studies)


def test_studies_stay_themselves_and_sound(archive):
    for before in archive.replica.studies:
        if before.id in archive.replica.refused:
            continue
        after = archive.outcome.studies[before.id]
        assert (after.id, after.person.id, after.images, after.report) == (
            before.id,
            before.person.id,
            before.images,
            before.report,
        )
        shapes = {image.id: (image.rows, image.columns) for image in after.images}
        for region in after.regions:
            check_region(region, shapes[region.image])
        check_words(after)


def test_applying_twice_changes_nothing_more(archive):
    for before in archive.outcome.studies.values():
        assert archive.annotation.apply(before) == before


def test_does_not_depend_on_where_the_set_lies(archive, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    archive.folder.rename(elsewhere)
    moved = archive.annotation_in(elsewhere)
    assert outcome(moved, archive.replica.studies).studies == archive.outcome.studies


def test_goes_to_a_worker_process_as_it_is(archive, pool):
    # Studies themselves stay here: their read-only mappings are not made for travelling.
    assert pool.submit(as_json, archive.annotation).result() == archive.annotation.model_dump_json()


def as_json(annotation: Annotation) -> str:
    return annotation.model_dump_json()


def test_writes_nothing_into_the_set(archive):
    archive.annotation.fingerprint()
    assert miniature.snapshot(archive.folder) == archive.before


def test_no_message_shows_whose_study_it_is_or_what_was_written(archive):
    told = repr(archive.replica.studies) + " ".join(map(str, archive.files))
    held = told.encode() + b"".join(damage.content(archive.folder / file) for file in archive.files)
    assert archive.replica.secrets
    assert not [secret for secret in archive.replica.secrets if secret.encode() not in held]
    assert_silent(archive, archive.outcome)


def test_a_spoiled_file_refuses_studies_or_is_not_read(archive):
    before = archive.outcome
    noticed = 0
    for file in archive.tables:
        for content in (b"", b"\0 no table", damage.cut(archive.folder / file)):
            if content is not None:
                got = spoiled(archive, file, content)
                assert len(got.errors) > len(before.errors) or got.studies == before.studies, file
                noticed += len(got.errors) > len(before.errors)
        gone = spoiled(archive, file, None)
        assert gone.errors or gone.studies != before.studies or not noticed
    assert noticed


def test_a_missing_column_is_noticed_or_not_needed(archive):
    for table in archive.tables:
        for column, content in damage.without_column(archive.folder / table):
            got = spoiled(archive, table, content)
            assert got.errors or got.studies, (table, column)


def test_the_fingerprint_follows_the_files(archive):
    before = archive.annotation.fingerprint()
    changed = 0
    for table in archive.tables:
        path = archive.folder / table
        whole = path.read_bytes()
        path.write_bytes(damage.packed(table, damage.content(path) + b"\n"))
        changed += archive.annotation.fingerprint() != before
        path.write_bytes(whole)
    assert changed
