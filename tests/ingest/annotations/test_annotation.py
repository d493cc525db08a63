"""What every set of annotations is: configuration that travels and refuses unknown keys."""

import pickle
from dataclasses import replace
from typing import Literal

import pytest
from pydantic import ValidationError

from vlp.ingest.annotations.annotation import Annotation
from vlp.records import Certainty, Person, Study


class Verdict(Annotation):
    kind: Literal["verdict"] = "verdict"
    finding: str

    def apply(self, study: Study) -> Study:
        return replace(study, labels={self.finding: Certainty.PRESENT})


def test_it_must_say_what_it_adds():
    with pytest.raises(TypeError, match="apply"):
        Annotation()


def test_it_travels_as_it_is_and_has_no_print_of_its_own():
    verdict = pickle.loads(pickle.dumps(Verdict(finding="edema")))
    study = Study(id="s", person=Person(id="p"), images=(), source="made")
    assert verdict.apply(study).labels == {"edema": Certainty.PRESENT}
    assert study.labels == {}
    assert verdict.fingerprint() == ""


def test_a_key_it_does_not_know_is_refused():
    with pytest.raises(ValidationError, match="colour"):
        Verdict(finding="edema", colour="red")
