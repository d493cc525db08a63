from dataclasses import replace

from vlp.data.counts import Counts, Sums, count_patients
from vlp.data.packing import encode_study, pack
from vlp.records import Certainty


def _packed(make_study):
    studies = [
        make_study(1),
        make_study(2, views=("PA", "lateral"), person="person-1"),
        make_study(3, split="test", report=False),
        make_study(4, split="val", labels=False),
    ]
    return [pack(encode_study(study), salt="") for study in studies]


def _sums(studies) -> Sums:
    sums = Sums()
    for study in studies:
        sums.study(study)
    return sums


def test_figures_of_known_studies(make_study):
    sums = _sums(_packed(make_study))
    found = sums.total({"train": 1, "val": 1, "test": 1})
    train = found.splits["train"]
    assert (train.studies, train.images, train.patients, train.sentences, train.without_sentences) == (2, 3, 1, 4, 0)
    assert found.splits["test"].without_sentences == sums.num_mute == 1
    assert train.findings == {"edema": {Certainty.PRESENT: 2}, "pneumothorax": {Certainty.ABSENT: 2}}
    assert found.splits["val"].findings == {}
    assert found.labels_origin == {"none": 1, "source": 3}
    assert found.sentences_origin == {"report": 6}
    assert found.licenses == {"CC0": 4}
    assert found.synthetic


def test_parts_add_up_to_the_whole_however_it_is_divided(make_study):
    studies = _packed(make_study)
    whole = _sums(studies).total()
    for cut in range(len(studies) + 1):
        together = Sums()
        for part in (studies[:cut], studies[cut:]):
            together.counts(_sums(part).total())
        assert together.total() == whole
        assert together.num_mute == 1


def test_one_real_study_among_drawn_ones_does_not_hide_them(make_study):
    drawn, real = make_study(1), make_study(2)
    real = replace(real, study=replace(real.study, synthetic=False))
    packed = [pack(encode_study(study), salt="") for study in (drawn, real)]
    assert _sums(packed).total().synthetic
    assert not _sums(packed[1:]).total().synthetic


def test_a_manifest_gives_its_figures_back(reader):
    sums = Sums()
    sums.counts(Counts.of(reader.manifest))
    assert sums.total(count_patients(reader.manifest.shards)) == Counts.of(reader.manifest)
