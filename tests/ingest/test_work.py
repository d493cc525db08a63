import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vlp.data.packing import PackedStudy
from vlp.errors import DataError, PrivacyError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.image_error import ImageError
from vlp.ingest.preparation import Preparation
from vlp.ingest.privacy import Privacy, PrivacyConfig
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.work import Work, _Done, _Queue, work_through
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Region, Report, Study


def _loaded(name: str, *, text: str = "No effusion.") -> LoadedStudy:
    pixels = np.random.default_rng(len(name)).integers(0, 256, (20, 24), dtype=np.uint8)
    image = ImageFile(id=f"i{name}", path=None, view="PA", rows=20, columns=24)
    study = Study(id=f"s{name}", person=Person(id=f"p{name}"), images=(image,), report=Report(text=text), source="made")
    return LoadedStudy(study=study, pixels=(pixels,))


class Made(Source):
    kind: Literal["made"] = "made"

    def units(self) -> Sequence[str]:
        return [str(number) for number in range(30)]

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        if unit == "dies":
            os._exit(7)
        yield _loaded(f"{unit}a")
        if unit == "3":
            yield StudyFault(code="missing_image", message="line 3")
        if unit == "5":
            raise ImageError("truncated_pixel_data", "line 5: cut off")
        if unit == "7":
            raise DataError("line 7: nothing there")
        if unit == "9":
            yield _loaded("half \ud800")
        yield _loaded(f"{unit}b", text="Dr. John Smith saw the patient. MRN: 12345678." if unit == "11" else "Clear.")


class Boxes(Annotation):
    """Knows studies and images by the archive's own names."""

    kind: Literal["boxes"] = "boxes"

    def apply(self, study: Study) -> Study:
        if study.id == "s4b":
            raise DataError("line 9: a box lies outside its image")
        region = Region(finding="mass", image=study.images[0].id, geometry=(1.0, 2.0, 3.0, 4.0))
        return Study(
            id=study.id, person=study.person, images=study.images, report=study.report, source=study.source,
            regions=(region,), labels={"mass": Certainty.PRESENT},
        )  # fmt: skip


def _work(*, privacy: PrivacyConfig | None = None, annotations: tuple[Annotation, ...] = ()) -> Work:
    return Work(
        source=Made(),
        preparation=Preparation(),
        privacy=Privacy(privacy or PrivacyConfig()),
        annotations=annotations,
    )


def _codes(work: Work, unit: str) -> list[str]:
    return [item.code if isinstance(item, StudyFault) else "taken" for item in work.run(unit).outcomes]


def test_faults_keep_their_codes_and_the_studies_around_them():
    work = _work()
    assert _codes(work, "1") == ["taken", "taken"]
    assert _codes(work, "3") == ["taken", "missing_image", "taken"]
    assert _codes(work, "5") == ["taken", "truncated_pixel_data"]
    assert _codes(work, "7") == ["taken", "unreadable_unit"]
    assert _codes(work, "9") == ["taken", "unusable_study", "taken"]


def test_identifying_text_is_masked_and_counted_or_refused():
    result = _work().run("11")
    assert (result.phi.studies, result.phi.identifying) == (2, 1)
    assert b"Smith" not in b"".join(study.content for study in result.outcomes)
    assert _codes(_work(privacy=PrivacyConfig(on_phi="refuse")), "11") == ["taken", "identifying_text"]


def test_annotations_see_the_archives_ids_and_shards_see_pseudonyms(monkeypatch):
    monkeypatch.setenv("VLP_TEST_KEY", "0123456789abcdef" * 4)
    work = _work(annotations=(Boxes(),), privacy=PrivacyConfig(pseudonyms="keyed", key_env="VLP_TEST_KEY"))
    assert _codes(work, "4") == ["taken", "bad_annotation"]
    (study,) = (item for item in work.run("4").outcomes if isinstance(item, PackedStudy))
    assert study.labels == {"mass": Certainty.PRESENT}
    assert b'"box":[1.0,2.0,3.0,4.0]' in study.content
    assert b"s4a" not in study.content
    assert b"p4a" not in study.content
    assert study.patient == work.privacy.person("p4a")


def test_a_missing_key_is_told_before_any_work():
    with pytest.raises(PrivacyError):
        Privacy(PrivacyConfig(pseudonyms="keyed", key_env="VLP_NO_SUCH_KEY"))


def test_processes_give_what_one_gives_in_its_order():
    work = _work()
    units = list(work.source.units())
    alone = [(result.outcomes, result.phi.summary()) for result in work_through(work, units, workers=1)]
    together = [(result.outcomes, result.phi.summary()) for result in work_through(work, units, workers=2)]
    assert together == alone


def test_a_process_that_dies_is_one_plain_error():
    with pytest.raises(DataError, match="a worker process died"):
        list(work_through(_work(), ["1", "dies", "2", "4"], workers=2))


class Pool:
    """Answers when it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[str], Future[_Done]]] = []

    def submit(self, _: object, units: Sequence[str]) -> Future[_Done]:
        future: Future[_Done] = Future()
        self.asked.append((units, future))
        return future

    def answer(self, index: int, *, num_bytes: int = 0, seconds: float = 0.05) -> None:
        units, future = self.asked[index]
        future.set_result(_Done(results=list(units), seconds=seconds, num_bytes=num_bytes))


def _in_background(results: Iterator[object]) -> list[object]:
    found: list[object] = []
    threading.Thread(target=lambda: found.extend(results), daemon=True).start()
    return found


def _until(condition) -> bool:
    deadline = time.monotonic() + 5.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_while_one_unit_is_slow_the_others_get_more_to_do_but_not_without_end():
    pool = Pool()
    found = _in_background(_Queue(pool, [str(n) for n in range(1000)], 2).results())
    assert _until(lambda: len(pool.asked) == 80)  # 40 a worker
    for index in range(1, 80):
        pool.answer(index)
    time.sleep(0.2)
    assert len(pool.asked) == 80
    assert found == []  # the first one is still under way
    pool.answer(0)
    assert _until(lambda: len(found) == 80)
    assert found == [str(n) for n in range(80)]


def test_what_waits_is_bounded_in_bytes():
    pool = Pool()
    found = _in_background(_Queue(pool, [str(n) for n in range(1000)], 2).results())
    assert _until(lambda: len(pool.asked) == 80)
    for index in range(1, 80):
        pool.answer(index, num_bytes=1 << 20)  # 79 MB wait for the first one
    pool.answer(0, num_bytes=1 << 20)
    assert _until(lambda: len(found) == 80)
    answered = len(pool.asked)
    for index in range(81, answered):
        pool.answer(index, num_bytes=60 << 20)
    time.sleep(0.2)
    assert len(pool.asked) == answered, "more work is handed out although gigabytes wait"


def test_quick_units_travel_together_and_slow_ones_alone():
    for seconds, few in ((0.0005, False), (2.0, True)):
        pool = Pool()
        _in_background(_Queue(pool, [str(n) for n in range(2000)], 1).results())
        assert _until(lambda pool=pool: len(pool.asked) >= 8)
        for index in range(30):
            assert _until(lambda pool=pool, index=index: len(pool.asked) > index)
            pool.answer(index, seconds=seconds * len(pool.asked[index][0]))
        time.sleep(0.1)
        assert (len(pool.asked[-1][0]) == 1) is few
        assert len(pool.asked[-1][0]) <= 64


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Even if that is killed and can tell nobody."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "sys.path[:0] = sys.argv[1:2]\n"
        "from tests.ingest.test_work import Slow, slow_work\n"
        "from vlp.ingest.work import work_through\n"
        "if __name__ == '__main__':\n"
        "    for _ in work_through(slow_work(), ['1', '2', '3', '4'], workers=2):\n"
        "        print('going', flush=True)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, program, root], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        assert len(workers) == 2
        process.kill()
    assert _until(lambda: not any(_alive(worker) for worker in workers))


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


class Slow(Made):
    kind: Literal["slow"] = "slow"  # type: ignore[assignment]

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        if unit != "1":
            time.sleep(60)
        yield _loaded(unit)


def slow_work() -> Work:
    return Work(source=Slow(), preparation=Preparation(), privacy=Privacy(PrivacyConfig()))
