"""What similarity attention keeps from forward to backward, exactly, at sizes no test could hold: fake tensors only."""

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.memory import GIB, saved_by, saved_bytes
from benchmarks.variants import Size, make_problem, similarity

PUBLISHED_BATCH = Size(images=256, texts=1792, patches=1369, width=768)
FOUR_TIMES_THAT = Size(images=1024, texts=7168, patches=1369, width=768)


def _kept(variant, size, *, inputs="unit"):
    return saved_by(variant, size, dtype=torch.bfloat16, inputs=inputs) / GIB


@pytest.mark.parametrize(("size", "gib"), [(PUBLISHED_BATCH, 5.47), (FOUR_TIMES_THAT, 81.5)])
def test_the_published_order_keeps_what_was_measured_of_it(size, gib):
    assert _kept("published", size) == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize(("size", "limit"), [(PUBLISHED_BATCH, 0.55), (FOUR_TIMES_THAT, 2.1)])
@pytest.mark.parametrize("variant", ["chunked", "fused"])
def test_ours_keeps_little_more_than_the_patches(variant, size, limit):
    patches = size.images * size.patches * size.width * 2 / GIB
    assert patches <= _kept(variant, size) <= limit


def test_norming_inside_keeps_no_second_copy_of_the_patches():
    inside, before = _kept("chunked", PUBLISHED_BATCH, inputs="tokens"), _kept("chunked", PUBLISHED_BATCH)
    assert inside - before < 0.02
    assert _kept("published", PUBLISHED_BATCH, inputs="tokens") > _kept("published", PUBLISHED_BATCH) + 1.0


def test_every_storage_is_counted_once():
    weight = torch.ones(1000, requires_grad=True)
    assert saved_bytes(lambda: (weight * weight) * weight) == 2 * 4000
    assert saved_bytes(lambda: weight[:500].square() + weight[500:].square()) == 4000


class _Made(TorchDispatchMode):
    """Remembers every storage an operation made, without keeping it."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[id(tensor), len(self.storages)] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def alive_bytes(self):
        gc.collect()
        return sum({ref.cdata: size for ref, size in self.storages.values() if not ref.expired()}.values())


def test_nothing_is_held_past_the_hooks():
    """A kernel that put tensors elsewhere than autograd's own store would be counted too low."""
    size = Size(images=256, texts=1792, patches=196, width=768)
    with FakeTensorMode():
        problem = make_problem(size, dtype=torch.bfloat16, device=torch.device("cpu"), inputs="unit")
        with _Made() as made:
            result = similarity("chunked", problem)
        alive = made.alive_bytes()
    results_and_texts = 4 * size.texts * (3 * size.images + size.width)
    assert result.shape == (size.texts, size.images)
    assert 0 < alive <= 1.1 * results_and_texts
