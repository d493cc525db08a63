from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlp.tensors import ABSENT, PRESENT, Batch, ImageFeatures, Placement, Statements, Tokens, stack_padding


def make_batch() -> Batch:
    """Studies a, b, c; b has two views; a and c hold the identical sentence 0, and c a flipped one."""
    return Batch(
        images=torch.zeros((4, 1, 2, 2), dtype=torch.uint8),
        padding=None,
        tokens=Tokens(ids=torch.tensor([[1, 2], [3, 0], [4, 5]]), mask=torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()),
        sentence=torch.tensor([0, 1, 1, 0, 2]),
        owner=torch.tensor([0, 0, 1, 2, 2]),
        flipped=torch.tensor([False, False, False, False, True]),
        study=torch.tensor([0, 1, 1, 2]),
        said=Statements(
            identity=torch.tensor([11, 12, 13]),
            finding=torch.tensor([7, 0, 7]),
            location=torch.tensor([0, 0, 0]),
            certainty=torch.tensor([PRESENT, 0, ABSENT]),
        ),
        known=Statements(
            identity=torch.tensor([11, 12, 12, 11]),
            finding=torch.tensor([7, 0, 0, 7]),
            location=torch.tensor([0, 0, 0, 8]),
            certainty=torch.tensor([PRESENT, 0, 0, ABSENT]),
        ),
        known_study=torch.tensor([0, 0, 1, 2]),
        keys=("a", "b", "c"),
        position=3,
    )


def make_features(images: int, *, padded: bool = True) -> ImageFeatures:
    """Features of a 1 x 2 grid whose numbers say whose they are."""
    patches = torch.arange(images * 6, dtype=torch.float16).view(images, 2, 3)
    padding = torch.tensor([[True, False]]).expand(images, 2) if padded else None
    return ImageFeatures(pooled=patches[:, 0] + 0.5, patches=patches, grid=(1, 2), padding=padding)


def tensors_of(thing: object) -> Iterator[torch.Tensor]:
    """Every tensor in a dataclass and in those it holds."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from tensors_of(getattr(thing, field.name))


def test_moving_a_batch_keeps_everything() -> None:
    moved = make_batch().to("cpu")
    assert moved.keys == ("a", "b", "c")
    assert moved.position == 3
    here, there = list(tensors_of(make_batch())), list(tensors_of(moved))
    assert all(torch.equal(*pair) for pair in zip(here, there, strict=True))


def test_every_tensor_of_a_batch_moves() -> None:
    batch = replace(make_batch(), padding=torch.zeros(4, 2, 2, dtype=torch.bool), features=make_features(4))
    assert len(list(tensors_of(batch))) == 20
    assert {tensor.device.type for tensor in tensors_of(batch.to("meta"))} == {"meta"}
    if torch.cuda.is_available():
        assert all(tensor.is_pinned() for tensor in tensors_of(batch.pin_memory()))


def test_rows_of_statements_stay_together() -> None:
    known = make_batch().known
    rows = known[torch.tensor([3, 0])]
    assert (rows.identity.tolist(), rows.finding.tolist()) == ([11, 11], [7, 7])
    assert (rows.location.tolist(), rows.certainty.tolist()) == ([8, 0], [ABSENT, PRESENT])


def test_padding_travels_with_its_images() -> None:
    padding = torch.tensor([[[True, False], [False, False]]]).expand(4, 2, 2)
    batch = replace(make_batch(), padding=padding)
    assert torch.equal(batch.to("cpu").padding, padding)
    assert batch.to("meta").padding.device.type == "meta"
    assert make_batch().to("meta").padding is None
    if torch.cuda.is_available():
        assert batch.pin_memory().padding.is_pinned()


def test_what_stands_in_for_images_travels_and_replaced_studies_stay_named() -> None:
    batch = replace(make_batch(), images=torch.zeros((4, 1, 0, 0), dtype=torch.uint8), features=make_features(4),
                    replaced=("b",))  # fmt: skip
    moved = batch.to("cpu")
    assert (moved.num_images, moved.replaced, moved.features.grid) == (4, ("b",), (1, 2))
    assert moved.to("meta").features.patches.device.type == "meta"
    assert make_batch().to("meta").features is None
    assert make_batch().replaced == ()


def test_features_are_cut_and_joined_again() -> None:
    whole = make_features(5)
    parts = [whole[:2], whole[2:5]]
    assert parts[1].patches[0].equal(whole.patches[2])
    joined = ImageFeatures.joined(parts)
    assert all(torch.equal(*pair) for pair in zip(tensors_of(joined), tensors_of(whole), strict=True))
    assert joined.grid == whole.grid
    some = ImageFeatures.joined([make_features(1, padded=False), make_features(1)])
    assert some.padding.tolist() == [[False, False], [True, False]]
    assert ImageFeatures.joined([make_features(2, padded=False)] * 2).padding is None
    assert whole.float().patches.dtype == whole.float().pooled.dtype == torch.float32


def test_padding_of_some_images_is_nowhere_on_the_others() -> None:
    bar = np.array([[True, False, False]])
    stacked = stack_padding([None, bar, None])
    assert stacked.tolist() == [[[False, False, False]], bar.tolist(), [[False, False, False]]]
    assert stack_padding([None, None]) is None
    assert stack_padding([]) is None


affine = st.tuples(
    st.floats(0.2, 3),
    st.floats(-0.3, 0.3),
    st.floats(-20, 20),
    st.floats(-0.3, 0.3),
    st.floats(0.2, 3),
    st.floats(-9, 9),
)


@given(affine, st.lists(st.tuples(st.floats(-50, 300), st.floats(-50, 300)), min_size=1, max_size=5))
def test_points_come_back(numbers: tuple[float, ...], points: list[tuple[float, float]]) -> None:
    if abs(numbers[0] * numbers[4] - numbers[1] * numbers[3]) < 0.01:
        return
    placement = Placement(original=(40, 60), model=(32, 32), matrix=(numbers[:3], numbers[3:]))
    there_and_back = placement.to_original(placement.to_model(np.asarray(points)))
    assert np.allclose(there_and_back, points, atol=1e-6)


@pytest.mark.parametrize("original", [(64, 64), (40, 90), (90, 40), (33, 71)])
def test_a_hot_patch_lands_on_its_own_pixels(original: tuple[int, int]) -> None:
    rows, columns = original
    scale = 32 / max(original)
    top, left = (32 - rows * scale) / 2, (32 - columns * scale) / 2
    placement = Placement(original=original, model=(32, 32), matrix=((scale, 0.0, left), (0.0, scale, top)))
    values = np.zeros((8, 8), dtype=np.float32)
    values[3, 4] = 1.0
    carried = placement.map_to_original(values)
    y, x = np.unravel_index(np.nanargmax(carried), carried.shape)
    expected = placement.to_original(np.array([[4.5 * 4, 3.5 * 4]]))[0]
    half_patch = 2 / scale
    assert abs(x + 0.5 - expected[0]) <= half_patch
    assert abs(y + 0.5 - expected[1]) <= half_patch
    assert not np.isnan(carried).any()


def test_pixels_the_model_never_saw_are_nan() -> None:
    placement = Placement(original=(10, 20), model=(10, 10), matrix=((1.0, 0.0, -5.0), (0.0, 1.0, 0.0)))
    carried = placement.map_to_original(np.ones((2, 2), dtype=np.float32))
    assert np.isnan(carried[:, :5]).all()
    assert np.isnan(carried[:, 15:]).all()
    assert (carried[:, 5:15] == 1).all()
