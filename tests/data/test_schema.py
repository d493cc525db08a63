import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.data.schema import SampleJson, member_name, shard_key, text_of
from vlp.errors import DataError
from vlp.records import Certainty, Mask, Sentence


def test_a_study_comes_back_as_it_went_in(make_study):
    study = make_study(1, views=("PA", "lateral")).study
    sample = SampleJson.from_study(study, key="k", image_format="jpg")
    text, origin = text_of(study)
    back = SampleJson.parse(sample.model_dump_json(exclude_defaults=True).encode(), where="here").to_study(text)
    assert origin == "report"
    assert back == study
    assert back.report.text[back.sentences[1].start : back.sentences[1].end] == "Small left\neffusion."
    assert [image.member for image in sample.images] == ["jpg", "view1.jpg"]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
def test_masks_survive_json(rows):
    mask = Mask.encode(np.array(rows))
    values = {"kind": "mask", "rows": mask.rows, "columns": mask.columns, "counts": list(mask.counts)}
    from vlp.data.schema import RegionJson

    region = RegionJson.model_validate_json(json.dumps({"finding": "mass", "image": "i", "geometry": values}))
    back = Mask(rows=region.geometry.rows, columns=region.geometry.columns, counts=region.geometry.counts)
    assert (back.decode() == np.array(rows)).all()


def test_label_only_studies_get_the_sentences_made_from_labels_as_text(make_study):
    made = Sentence(
        start=0,
        end=0,
        section="labels",
        finding="edema",
        certainty=Certainty.PRESENT,
        text="There is edema.",
        origin="labels",
    )
    study = replace(make_study(1, report=False).study, sentences=(made, replace(made, text="There is no mass.")))
    assert text_of(study) == ("There is edema. There is no mass.", "labels")
    sample = SampleJson.from_study(study, key="k", image_format="png")
    assert sample.text_origin == "labels"
    assert sample.to_study("There is edema. There is no mass.").report is None


def test_text_of_a_mute_study_is_empty(make_study):
    assert text_of(make_study(1, report=False).study) == ("", "none")


def test_keys_have_no_dots_and_depend_on_the_salt():
    keys = {shard_key(f"1.2.840.{number}", salt) for number in range(100) for salt in ("a", "b")}
    assert len(keys) == 200
    assert all(key.isalnum() for key in keys)
    assert shard_key("x", "a") == shard_key("x", "a")
    assert shard_key("bc", "a") != shard_key("c", "ab")  # the salt's end is marked


def test_member_names():
    assert [member_name(index, "jpg") for index in range(3)] == ["jpg", "view1.jpg", "view2.jpg"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema_version": 2}', b'{"schema_version": 1, "surplus": 0}'])
def test_other_content_is_refused_in_one_line(content):
    with pytest.raises(DataError, match=r"^train-0: not a sample of schema version 1") as caught:
        SampleJson.parse(content, where="train-0")
    assert "\n" not in str(caught.value)


def test_a_study_without_a_split_is_refused(make_study):
    with pytest.raises(DataError, match="split"):
        SampleJson.from_study(make_study(1, split=None).study, key="k", image_format="jpg")
