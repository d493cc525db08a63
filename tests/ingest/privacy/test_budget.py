import pytest

from vlp.errors import PrivacyError
from vlp.ingest.privacy.budget import PhiBudget
from vlp.ingest.privacy.cleaning import Cleaned
from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.source import StudyFault
from vlp.records import Person, Study

STUDY = Study(id="s", person=Person(id="p"), images=(), source="test")
CLEAN, HIT = Cleaned(study=STUDY, dates=2), Cleaned(study=STUDY, hits={"name": 2, "phone": 1})
TEXT_IN_IMAGE = Cleaned(study=STUDY, burned_in=1)
REFUSED = StudyFault(code="identifying_text", message="m")
DAMAGED = StudyFault(code="unreadable_image", message="m")


def _counted(budget: float, **counts: int) -> PhiBudget:
    result = PhiBudget(PrivacyConfig(phi_budget=budget))
    items = {"clean": CLEAN, "hit": HIT, "image": TEXT_IN_IMAGE, "refused": REFUSED, "damaged": DAMAGED}
    for name, count in counts.items():
        for _ in range(count):
            result.add(items[name])
    return result


def test_counts():
    budget = _counted(1.0, clean=3, hit=2, image=1, refused=1, damaged=5)
    assert (budget.studies, budget.identifying, budget.dates, budget.burned_in) == (7, 4, 6, 1)
    assert budget.summary() == {
        "studies": 7,
        "identifying_studies": 4,
        "name_hits": 4,
        "phone_hits": 2,
        "dates": 6,
        "images_with_text": 1,
    }


@pytest.mark.parametrize("kind", ["hit", "image", "refused"])
def test_a_build_stops_above_its_budget_and_not_at_it(kind):
    _counted(0.1, clean=9, **{kind: 1}).judge(final=True)
    with pytest.raises(PrivacyError, match=r"2 of 10 studies hold something identifying.*phi_budget 0\.1"):
        _counted(0.1, clean=8, **{kind: 2}).judge(final=True)


def test_it_may_stop_early_but_not_on_few_studies():
    _counted(0.0, hit=199).judge(final=False)
    with pytest.raises(PrivacyError, match="name 400, phone 200"):
        _counted(0.0, hit=200).judge(final=False)
    _counted(0.0, clean=200).judge(final=False)
    _counted(0.0).judge(final=True)


def test_counts_of_processes_add_up():
    one, other = _counted(1.0, clean=2, hit=1), _counted(1.0, hit=2, image=1)
    one.merge(other)
    assert one.summary() == _counted(1.0, clean=2, hit=3, image=1).summary()
