import numpy as np
import pytest

from tests.evaluate.explain.conftest import FINDINGS, STUDIES, SidedModel, sample_of
from vlp.data import ShardReader
from vlp.errors import DataError
from vlp.evaluate.explain.sample import Sample
from vlp.records import Certainty


def test_studies_without_a_frontal_image_are_left_out(sided: Sample, reader: ShardReader) -> None:
    assert len(reader.keys("test")) == STUDIES + 1
    assert len(sided.studies) == STUDIES
    assert {study.images[0].view for study in sided.studies} == {"PA"}
    assert sided.findings == FINDINGS
    assert len(set(sided.patients)) == STUDIES // 2


def test_the_first_in_key_order(reader: ShardReader, sided: Sample) -> None:
    few = sample_of(SidedModel(), reader, studies=5)
    assert few.studies == sided.studies[:5]
    assert few.evidence.scores.shape == (5, len(few.findings))


def test_cases_are_what_labels_decide(sided: Sample) -> None:
    assert len(sided.cases) == STUDIES * len(FINDINGS)
    for case in sided.present:
        assert sided.studies[case.number].labels[case.finding] is Certainty.PRESENT


def test_one_sided_findings_carry_both_sentences(sided: Sample) -> None:
    assert len(sided.one_sided) == len(sided.present)
    for case in sided.one_sided:
        said = [one for one in sided.studies[case.number].sentences if one.finding == case.finding]
        assert [one.location for one in said] == [case.side]
        assert case.own == said[0].text
        assert case.swapped == case.own.replace(*(("left", "right") if case.side == "left" else ("right", "left")))


def test_one_present_finding_per_study_and_findings_take_turns(sided: Sample) -> None:
    chosen = sided.one_each(most=10)
    assert len(chosen) == len({case.number for case in chosen}) == 10
    counts = [sum(case.finding == finding for case in chosen) for finding in FINDINGS]
    assert min(counts) >= 3


def test_padding_is_no_part_of_a_map(reader: ShardReader) -> None:
    sample = sample_of(SidedModel(), reader, studies=2)
    assert np.isfinite(sample.maps(["There is a mass."])).all()


def test_nothing_to_look_at_is_told(reader: ShardReader) -> None:
    from tests.evaluate.explain.conftest import engine_of
    from vlp.evaluate.explain.sample import look
    from vlp.prompts.descriptors import load_descriptors

    with pytest.raises(DataError, match="no labelled study with a frontal image in the split 'val'"):
        look(engine_of(SidedModel()), reader, split="val", studies=3, descriptors=load_descriptors())
