import json
from contextlib import suppress
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


def _sample_json(make_study) -> dict:
    return json.loads(SampleJson.from_study(make_study(1).study, key="k", image_format="jpg").model_dump_json())


def _mask(**changes) -> dict:
    mask = {"kind": "mask", "rows": 4, "columns": 4, "counts": [10, 6]} | changes
    return {"finding": "mass", "image": "i", "geometry": mask}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "a.b"}, "key: String should match"),
        ({"key": "../k"}, "key: String should match"),
        ({"person": {"id": "p", "age": float("nan")}}, r"person\.age: Input should be a finite number"),
        ({"person": {"id": "p", "age": 10**400}}, "person.age"),
        ({"regions": [{"finding": "f", "image": "i", "geometry": {"kind": "point", "point": [1e999, 0]}}]}, "finite"),
        ({"regions": [_mask(counts=[10**18])]}, "do not cover"),
        ({"regions": [_mask(counts=[10, 5])]}, "do not cover"),
        ({"regions": [_mask(rows=10**9, columns=10**9, counts=[10**18])]}, "million pixels"),
        ({"regions": [_mask(counts=[-1, 17])]}, "greater than or equal to 0"),
        ({"labels": {"\x1b[2J\n": "perhaps"}}, r"labels\.\\x1b\[2J\\n"),
        ({"study": None}, "study"),
    ],
)
def test_hostile_descriptions_are_refused_in_one_line(make_study, change, said):
    content = json.dumps(_sample_json(make_study) | change).encode()
    with pytest.raises(DataError, match=said) as caught:
        SampleJson.parse(content, where="here")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"[" * 10**6, b'{"a":' * 10**5, b'{"study":' + b"1" * 10**5 + b"}", b"\xff" * 9, b"NaN"]
)
def test_json_made_to_break_a_parser(content):
    with pytest.raises(DataError, match="not a sample"):
        SampleJson.parse(content, where="here")


@given(data=st.data())
def test_mutated_descriptions_are_samples_or_refused(data):
    from tests.data.conftest import make_study

    content = bytearray(json.dumps(_sample_json(make_study)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + 1] = data.draw(st.sampled_from([b"9" * 30, b"NaN", b"[", b'"', b"\0", b"e", b"-"]))
    with suppress(DataError):
        for region in SampleJson.parse(bytes(content), where="here").to_study("text").regions:
            if region.kind == "mask":
                region.geometry.decode()


def test_what_no_shard_can_hold_is_one_plain_error(make_study):
    study = make_study(1).study
    old = replace(study, person=replace(study.person, age=float("nan")))
    mask = replace(study.regions[2], geometry=Mask(rows=4, columns=4, counts=(3,)))
    for bad, said in ((old, "person.age"), (replace(study, regions=(mask,)), "do not cover")):
        with pytest.raises(DataError, match="cannot be put into a shard") as caught:
            SampleJson.from_study(bad, key="k", image_format="jpg")
        assert said in str(caught.value) or "age" in str(caught.value)


def test_a_study_without_a_split_is_refused(make_study):
    with pytest.raises(DataError, match="split"):
        SampleJson.from_study(make_study(1, split=None).study, key="k", image_format="jpg")
