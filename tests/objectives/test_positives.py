"""Against loops over readable statements, against what the words mean, and the pairs that must never go wrong."""

from collections import Counter
from itertools import product
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vlp.config import validate
from vlp.data.statements import Fact, normalised, statements
from vlp.errors import ConfigError
from vlp.objectives.positives import PositivesConfig, agreement, find_positives, own_pairs, shares, text_weights
from vlp.records import Certainty
from vlp.tensors import IGNORE

PRESENT, ABSENT, UNCERTAIN = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN
RULES = ("same_sentence", "same_fact", "entailed", "unsure")


class Said(NamedTuple):
    words: str
    finding: str | None = None
    place: str | None = None
    certainty: Certainty | None = None

    @property
    def fact(self):
        return self.finding and Fact(finding=self.finding, certainty=self.certainty, location=self.place)


class Text(NamedTuple):
    said: Said
    owner: int
    flipped: bool = False


def say(finding, certainty, place=None, words=None):
    return Said(words or f"{certainty} {finding} {place}", finding, place, certainty)


class World(NamedTuple):
    """What each study says, the texts of a step, and the study of each image."""

    knows: list[list[Said]]
    texts: list[Text]
    study: list[int]

    def tensors(self):
        rows = list(dict.fromkeys(text.said for text in self.texts))
        known = [(said, study) for study, all_said in enumerate(self.knows) for said in all_said]
        return {
            "said": statements((said.words, said.fact) for said in rows),
            "sentence": torch.tensor([rows.index(text.said) for text in self.texts], dtype=torch.int64),
            "flipped": torch.tensor([text.flipped for text in self.texts], dtype=torch.bool),
            "owner": torch.tensor([text.owner for text in self.texts], dtype=torch.int64),
            "study": torch.tensor(self.study, dtype=torch.int64),
            "known": statements((said.words, said.fact) for said, _ in known),
            "known_study": torch.tensor([study for _, study in known], dtype=torch.int64),
        }


def relations(text, known):
    """What a text is to one statement of a study."""
    found = {"same_sentence"} if normalised(text.words) == normalised(known.words) else set()
    if text.finding is None or text.finding != known.finding:
        return found
    if text.place != known.place and text.place is not None and known.place is not None:
        return found
    here = text.place == known.place
    certainties = {text.certainty, known.certainty}
    if len(certainties) == 1:
        follows = (known.place is None) if text.certainty is ABSENT else (text.place is None)
        return found | {"same_fact" if here else "entailed" if follows else "unsure"}
    if UNCERTAIN in certainties:
        return found | {"unsure"}
    denial = text if text.certainty is ABSENT else known
    return found | {"contradiction" if here or denial.place is None else "unsure"}


def by_loop(world, config):
    """(positives, contradicts), pair by pair."""
    positives, contradicts = [], []
    for text in world.texts:
        row, contrary = [], []
        for study in world.study:
            found = set().union(*(relations(text.said, known) for known in world.knows[study]))
            verdicts = {getattr(config, rule) for rule in RULES if rule in found}
            if study == text.owner:
                value, against = (0, True) if text.flipped else (1, False)
            elif "contradiction" in found:
                both_ways = "positive" in verdicts
                value, against = (IGNORE, False) if both_ways else (0, True)
            else:
                default = IGNORE if text.flipped else 0
                value = 1 if "positive" in verdicts else IGNORE if "ignore" in verdicts else default
                against = False
            row.append(value)
            contrary.append(against)
        positives.append(row)
        contradicts.append(contrary)
    return positives, contradicts


@st.composite
def said(draw):
    if draw(st.integers(0, 4)) == 0:
        return Said(draw(st.sampled_from(["Clips.", "clips", "Sternal  wires", "Heart of normal size"])))
    fact = (
        draw(st.sampled_from(["effusion", "nodule"])),
        draw(st.sampled_from([PRESENT, ABSENT, UNCERTAIN])),
        draw(st.sampled_from([None, None, "left", "right"])),
    )
    finding, certainty, place = fact
    return say(*fact, words=draw(st.sampled_from([None, f"{certainty}! {finding} {place}", f"Other {fact}"])))


@st.composite
def worlds(draw):
    knows = draw(st.lists(st.lists(said(), max_size=5), min_size=1, max_size=5))
    own = [
        Text(sentence, study) for study, all_said in enumerate(knows) for sentence in all_said if draw(st.booleans())
    ]
    flipped = draw(st.lists(st.builds(Text, said(), st.integers(0, len(knows) - 1), st.just(True)), max_size=3))
    study = draw(st.lists(st.integers(0, len(knows) - 1), max_size=6))
    return World(knows, draw(st.permutations(own + flipped)), study)


verdicts = st.sampled_from(["positive", "ignore", "negative"])
configs = st.builds(PositivesConfig, **dict.fromkeys(RULES, verdicts), contradiction=st.sampled_from([1.0, 3.0]))


@settings(deadline=None, max_examples=150)
@given(worlds(), configs)
def test_every_pair_is_what_a_loop_says(world, config):
    found = find_positives(config, **world.tensors())
    positives, contradicts = by_loop(world, config)
    assert found.positives.dtype == torch.int8
    assert found.positives.shape == (len(world.texts), len(world.study))
    assert found.positives.tolist() == positives
    assert found.contradicts.tolist() == contradicts
    if config.contradiction == 1.0:
        assert found.hardness is None
    else:
        assert found.hardness.tolist() == [[3.0 if hard else 1.0 for hard in row] for row in contradicts]


def test_the_rules_are_what_the_words_mean():
    """A finding is in any set of places; a statement is the sets it allows."""
    places = ("left", "right", "middle")
    states = [
        frozenset(p for p, there in zip(places, bits, strict=True) if there) for bits in product((0, 1), repeat=3)
    ]

    def allowed(said):
        there = {state for state in states if (said.place in state if said.place else state)}
        return there if said.certainty is PRESENT else set(states) - there

    claims = [say("nodule", certainty, place) for certainty in (PRESENT, ABSENT) for place in (None, *places)]
    for text, known in product(claims, claims):
        world = World([[known], []], [Text(text, 1)], [0])
        one = PositivesConfig(same_sentence="negative", same_fact="positive", entailed="positive", unsure="negative")
        found = find_positives(one, **world.tensors())
        assert bool(found.contradicts) == (not allowed(text) & allowed(known)), (text, known)
        if text.place is None or known.place is None or text.place == known.place:
            assert int(found.positives) == (allowed(known) <= allowed(text)), (text, known)


@given(worlds())
@settings(deadline=None, max_examples=50)
def test_without_facts_only_the_same_sentence_counts(world):
    knows = [[Said(said.words) for said in all_said] for all_said in world.knows]
    plain = World(knows, [Text(said, study) for study, all_said in enumerate(knows) for said in all_said], world.study)
    tensors = plain.tensors()
    # As batches did it before statements were known: whoever holds the row.
    rows = {number: {t for t, owner in zip(tensors["sentence"].tolist(), tensors["owner"].tolist(), strict=True)
                     if owner == number} for number in range(len(knows))}  # fmt: skip
    names = [normalised(text.said.words) for text in dict.fromkeys(Text(text.said, 0) for text in plain.texts)]
    expected = [
        [int(names[row] in {names[other] for other in rows[study]}) for study in plain.study]
        for row in tensors["sentence"].tolist()
    ]
    assert find_positives(PositivesConfig(), **tensors).positives.tolist() == expected


def test_identical_reports_are_all_positive():
    report = [say("effusion", PRESENT, "left"), say("nodule", ABSENT), Said("Clips.")]
    world = World([report] * 6, [Text(said, study) for study in range(6) for said in report], [*range(6), 2])
    found = find_positives(PositivesConfig(near_duplicate=0.9), **world.tensors(), vectors=torch.eye(3))
    assert (found.positives == 1).all()
    assert not found.contradicts.any()


def test_a_fact_that_is_not_among_the_texts_is_known_all_the_same():
    effusion, nodule = say("effusion", PRESENT, "left"), say("nodule", ABSENT)
    world = World([[effusion, nodule], [nodule, effusion]], [Text(nodule, 0), Text(effusion, 1)], [0, 1])
    assert find_positives(PositivesConfig(), **world.tensors()).positives.tolist() == [[1, 1], [1, 1]]


def test_a_contradiction_beats_a_near_duplicate_and_what_is_said_both_ways_is_ignored():
    there, none = say("effusion", PRESENT), say("effusion", ABSENT)
    world = World([[there], [none], [there, none]], [Text(there, 0), Text(none, 1)], [0, 1, 2])
    close = torch.tensor([[1.0, 0.01], [1.0, 0.0]])
    found = find_positives(PositivesConfig(near_duplicate=0.9, contradiction=2.0), **world.tensors(), vectors=close)
    assert found.positives.tolist() == [[1, 0, IGNORE], [0, 1, IGNORE]]
    assert found.hardness.tolist() == [[1, 2, 1], [2, 1, 1]]


@pytest.mark.parametrize("seed", range(4))
def test_near_duplicates_against_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    names = [Said(f"sentence {number}") for number in range(9)]
    owners = torch.randint(0, 4, (14,), generator=generator).tolist()
    texts = [Text(names[row % 9], owner, row in {3, 10}) for row, owner in enumerate(owners)]
    knows = [[text.said for text in texts if text.owner == study and not text.flipped] for study in range(4)]
    world = World(knows, texts, [0, 1, 1, 3, 2])
    vectors = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    config = PositivesConfig(near_duplicate=0.8)
    found = find_positives(config, **world.tensors(), vectors=vectors * 7)
    cosine = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=2)
    positives, _ = by_loop(world, config)
    near = 0
    for row, text in enumerate(texts):
        for column, study in enumerate(world.study):
            own = [names.index(other.said) for other in texts if other.owner == study and not other.flipped]
            close = any(cosine[names.index(text.said), other] >= 0.8 for other in own)
            if positives[row][column] == 0 and not (text.flipped and text.owner == study) and close:
                positives[row][column] = IGNORE
                near += 1
    assert near > 0
    assert found.positives.tolist() == positives


def test_near_duplicates_need_vectors():
    with pytest.raises(ValueError, match="pass vectors"):
        find_positives(PositivesConfig(near_duplicate=0.9), **World([[]], [], [0]).tensors())


@settings(deadline=None, max_examples=50)
@given(worlds(), st.data())
def test_a_rank_sees_its_columns_of_the_whole(world, data):
    """Texts of all ranks, images and knowledge of one, studies numbered across ranks."""
    mine = data.draw(st.sets(st.integers(0, len(world.knows) - 1)))
    whole, part = world.tensors(), world.tensors()
    images = torch.tensor([study in mine for study in world.study], dtype=torch.bool)
    known = torch.tensor([study in mine for study in whole["known_study"].tolist()], dtype=torch.bool)
    part |= {
        "study": whole["study"][images],
        "known": whole["known"][known],
        "known_study": whole["known_study"][known],
    }
    config = PositivesConfig(near_duplicate=0.7)
    vectors = torch.randn(len(whole["said"].identity), 3, generator=torch.Generator().manual_seed(0))
    everything = find_positives(config, **whole, vectors=vectors)
    found = find_positives(config, **part, vectors=vectors)
    assert torch.equal(found.positives, everything.positives[:, images])
    assert torch.equal(found.contradicts, everything.contradicts[:, images])


@settings(deadline=None, max_examples=60)
@given(worlds())
def test_agreement_against_a_loop(world):
    tensors = world.tensors()
    found = agreement(*(tensors[name] for name in ("said", "sentence", "known", "known_study", "study")))
    for row, text in enumerate(world.texts):
        for column, study in enumerate(world.study):
            views = {known.certainty for known in world.knows[study] if known.finding == text.said.finding}
            contrary = {PRESENT: ABSENT, ABSENT: PRESENT}.get(text.said.certainty)
            speaks = text.said.finding is not None and contrary is not None
            expected = int(text.said.certainty in views) - int(contrary in views) if speaks else 0
            assert found[row, column] == expected


def test_weights_against_counting():
    sentence, owner = [0, 1, 0, 2, 0, 1, 3], [5, 5, 7, 7, 7, 9, 9]
    flipped = [False, False, False, True, True, False, False]
    given_ = {name: torch.tensor(value) for name, value in
              (("sentence", sentence), ("owner", owner), ("flipped", flipped))}  # fmt: skip
    true = [row for row, flip in enumerate(flipped) if not flip]
    for kind, group in (("distinct", sentence), ("study", owner)):
        times = Counter(group[row] for row in true)
        expected = [0.0 if flip else 1 / times[group[row]] for row, flip in enumerate(flipped)]
        assert text_weights(kind, **given_).tolist() == pytest.approx(expected)
    assert text_weights("occurrence", **given_).tolist() == [float(not flip) for flip in flipped]
    codes = {"sentence": torch.tensor([-(2**62), 2**61, 0, 9])[given_["sentence"]]}
    assert torch.equal(text_weights("distinct", **given_ | codes), text_weights("distinct", **given_))


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_shares_are_of_the_pairs_of_other_studies(world):
    tensors = world.tensors()
    found = find_positives(PositivesConfig(), **tensors)
    own = own_pairs(*(tensors[name] for name in ("owner", "study", "flipped")))
    assert own.tolist() == [[s == t.owner and not t.flipped for s in world.study] for t in world.texts]
    positives, contradicts = by_loop(world, PositivesConfig())
    for flips in (None, tensors["flipped"]):
        others = [
            (positives[row][column], contradicts[row][column])
            for row, text in enumerate(world.texts)
            for column, study in enumerate(world.study)
            if (text.flipped and flips is None) or (not text.flipped and study != text.owner)
        ]
        total = max(len(others), 1)
        expected = {
            "collisions": sum(value == 1 for value, _ in others) / total,
            "ignored": sum(value == IGNORE for value, _ in others) / total,
            "contradicting": sum(hard for _, hard in others) / total,
        }
        reported = shares(found, own, flipped=flips)
        assert all(value.ndim == 0 for value in reported.values())
        assert {name: float(value) for name, value in reported.items()} == pytest.approx(expected)


def _many():
    facts = [say(f, c, p) for f in "abcdefgh" for c in (PRESENT, ABSENT, UNCERTAIN) for p in (None, "left", "right")]
    knows = [[facts[(7 * study + step) % len(facts)] for step in range(40)] for study in range(12)]
    return World(
        knows, [Text(said, study) for study, all_said in enumerate(knows) for said in all_said[:3]], [0, 3, 3, 5]
    )


def test_nothing_waits_for_the_device():
    """A fake tensor has no values: whatever asks for one (a size, an .item()) fails."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tensors = {
            name: part._each(mode.from_tensor) if name in {"said", "known"} else mode.from_tensor(part)
            for name, part in _many().tensors().items()
        }
        vectors = torch.empty(len(tensors["said"].identity), 8)
        found = find_positives(PositivesConfig(near_duplicate=0.9, contradiction=2.0), **tensors, vectors=vectors)
        own = own_pairs(tensors["owner"], tensors["study"], tensors["flipped"])
        shares(found, own)
        agreement(*(tensors[name] for name in ("said", "sentence", "known", "known_study", "study")))
        for kind in ("distinct", "study"):
            text_weights(kind, **{name: tensors[name] for name in ("sentence", "owner", "flipped")})


def test_nothing_as_large_as_texts_times_knowledge_is_made():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                self.size = max(self.size, tensor.untyped_storage().nbytes() if torch.is_tensor(tensor) else 0)
            return result

    tensors = _many().tensors()
    with Largest() as largest:
        find_positives(PositivesConfig(), **tensors)
    statements_, texts = len(tensors["known_study"]), len(tensors["sentence"])
    assert largest.size <= 8 * statements_ + 8 * (texts + 1) * 5 < texts * statements_


@pytest.mark.parametrize(
    "world", [World([[]], [], [0]), World([[]], [], []), World([[Said("a")]], [Text(Said("a"), 0)], [])]
)
def test_a_rank_may_have_nothing(world):
    config = PositivesConfig(near_duplicate=0.5)
    tensors = world.tensors()
    found = find_positives(config, **tensors, vectors=torch.ones(len(tensors["said"].identity), 2))
    assert found.positives.shape == (len(world.texts), len(world.study))
    own = own_pairs(tensors["owner"], tensors["study"], tensors["flipped"])
    assert {float(value) for value in shares(found, own).values()} == {0.0}


@pytest.mark.parametrize(
    "bad", [{"near_duplicate": 1.5}, {"near_duplicate": 0.0}, {"contradiction": 0.0}, {"same_fact": "maybe"}]
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        validate(PositivesConfig, bad, where="test")
