"""The fused kernel against the specification: in Triton's interpreter everywhere, on a card where there is one.

Triton decides at its import whether it interprets, so one child process (this file, run as a program) does all that
needs the interpreter, and the tests read what it found.
"""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vlp.kernels import fused, reference, similarity_attention

CASES = {  # texts, images, patches, dim, tau; tiles are 64 or 128 texts x 128 patches, 64 to 256 wide
    "small": (5, 3, 17, 40, 0.1),
    "one_of_each": (1, 1, 1, 16, 0.1),
    "one_patch": (7, 3, 1, 24, 0.07),
    "one_text": (1, 4, 30, 40, 0.07),
    "many_tiles": (130, 3, 140, 300, 0.1),
    "wide": (9, 3, 20, 1000, 0.03),
    "soft": (5, 4, 140, 33, 100.0),
}
PADDED = [case for case, (_, images, *_) in CASES.items() if images > 1]
NAMES = ("similarity", "text", "patches", "beta")
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def _problem(shape, dtype, *, padded=False, device="cpu"):
    """(text, patches, nowhere, weights); patches of one image lean one way, as real ones do."""
    texts, images, patches, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    text = functional.normalize(normal(texts, dim), dim=-1).to(dtype)
    patch = functional.normalize(normal(images, patches, dim) + normal(images, 1, dim), dim=-1).to(dtype)
    weights = normal(texts, images)
    nowhere = None
    if padded:
        padding = torch.rand(images, patches, generator=generator) < 0.3
        padding[:, -1] = False
        padding[0] = True  # an image of nothing else
        padding[1, :-1] = True  # an image of one patch, the last, in the last tile
        nowhere = reference.attended_nowhere(padding)
        patch = patch.masked_fill(padding[..., None], 0.0)
    return tuple(None if x is None else x.to(device) for x in (text, patch, nowhere, weights))


def _fused(problem, tau):
    """(similarity, d text, d patches, d beta) of the backend, all images as one span."""
    text, patches, nowhere, weights = problem
    beta = torch.tensor(1 / tau, dtype=torch.float32, device=text.device)
    working = fused.Programs(text, beta, patches=patches.shape[1], dtype=patches.dtype, budget_bytes=2**30)
    results = working.forward(patches, nowhere)
    assert torch.isfinite(results[2]).all()
    return results[0], *working.backward(patches, nowhere, (*results, weights.float()))


def _exact(problem, tau):
    """The same by the specification in float64, from the rounded inputs."""
    text, patches, nowhere, weights = problem
    text, patches = text.double().requires_grad_(), patches.double().requires_grad_()
    beta = torch.tensor(1 / tau, dtype=torch.float64, device=text.device, requires_grad=True)
    similarity = reference.similarity_attention(text, patches, 1 / beta, nowhere)
    return similarity.detach(), *torch.autograd.grad((similarity * weights).sum(), (text, patches, beta))


def _errors(problem, tau):
    """The largest error of each result, in units of its largest number (at least 1e-3 of an incoming gradient)."""
    floor = 1e-3 * problem[3].abs().max()
    pairs = zip(_fused(problem, tau), _exact(problem, tau), strict=True)
    return [float((found - exact).abs().max() / exact.abs().max().clamp_min(floor)) for found, exact in pairs]


# ---- the child process


def _interpreted():
    found = {}
    for case, (*shape, tau) in CASES.items():
        found[f"float32 {case}"] = _errors(_problem(shape, torch.float32), tau)
        if case in PADDED:
            found[f"padded {case}"] = _errors(_problem(shape, torch.float32, padded=True), tau)
        for name, dtype in HALF.items():
            found[f"{name} {case}"] = _errors(_problem(shape, dtype, padded=case == "small"), tau)
    for question in (_padding, _vanishing, _faint, _no_gradient, _extremes, _held, _operator):
        found[question.__name__] = question()
    return found


def _padding():
    """Largest similarity of an all-padding image, and largest gradient of padding."""
    problem = _problem((6, 3, 150, 20), torch.float32, padded=True)
    similarity, _, d_patches, _ = _fused(problem, 0.1)
    vectors = problem[1]
    return [float(x.abs().max()) for x in (similarity[:, 0], d_patches[(vectors == 0).all(dim=-1)])]


def _vanishing():
    """Two patches that cancel beside two that do not: everything of the first image, and of the second."""
    text = torch.eye(4)[:1]
    patches = torch.stack((torch.eye(4)[[1, 1]] * torch.tensor([[1.0], [-1.0]]), torch.eye(4)[[0, 1]]))
    problem = (text, patches, None, torch.ones(1, 2, dtype=torch.float64))
    similarity, d_text, d_patches, _ = _fused(problem, 0.1)
    return [*similarity.flatten().tolist(), *d_patches.abs().amax(dim=(1, 2)).tolist(), float(d_text.abs().max())]


def _faint():
    """Errors where the incoming gradient is smaller than the smallest float16."""
    text, patches, nowhere, weights = _problem((5, 3, 17, 40), torch.float16)
    return _errors((text, patches, nowhere, weights * 1e-9), 0.1)


def _no_gradient():
    text, patches, nowhere, weights = _problem((5, 3, 17, 40), torch.float16)
    return max(float(x.abs().max()) for x in _fused((text, patches, nowhere, 0 * weights), 0.1)[1:])


def _extremes():
    """Errors of the similarity at the ends of the range of temperatures, and whether gradients are numbers."""
    answers = []
    for tau in (1e-6, 1e9):
        problem = _problem((5, 2, 140, 20), torch.float32)
        similarity, *gradients = _fused(problem, tau)
        answers.append(float((similarity - _exact(problem, tau)[0]).abs().max()))
        answers.append(all(bool(torch.isfinite(x).all()) for x in gradients))
    return answers


class _Made(TorchDispatchMode):
    """The bytes of all memory that operations made: more than is held at any time."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.storages[id(result.untyped_storage()._cdata)] = result.untyped_storage()  # kept: no address twice
        return result

    @property
    def total(self):
        return sum({storage.data_ptr(): storage.nbytes() for storage in self.storages.values()}.values())


def _held():
    """Bytes made by forward and by backward beside inputs and gradients, and what `transient_bytes` says."""
    texts, images, patches, dim = 120, 3, 140, 40
    text, vectors, _, weights = _problem((texts, images, patches, dim), torch.float32)
    working = fused.Programs(text, torch.tensor(10.0), patches=patches, dtype=torch.float32, budget_bytes=2**30)
    with _Made() as forward:
        results = working.forward(vectors, None)
    weights = weights.float()
    with _Made() as backward:
        working.backward(vectors, None, (*results, weights))
    said = images * fused.transient_bytes(texts=texts, patches=patches, dim=dim, element_size=4)
    return [forward.total, backward.total - 4 * (vectors.numel() + 2 * text.numel()), said]


def _operator():
    """Errors through the operator, three spans of images, padding that is NaN."""
    text, patches, _, weights = _problem((6, 5, 9, 24), torch.float32)
    padding = torch.zeros(5, 9, dtype=torch.bool)
    padding[0, 4:] = padding[3] = True
    patches = patches.masked_fill(padding[..., None], float("nan"))
    each = fused.transient_bytes(texts=6, patches=9, dim=24, element_size=4)
    outcomes = []
    for dtype, options in (
        (torch.float64, {"implementation": "reference"}),
        (torch.float32, {"implementation": "fused", "budget_bytes": 2 * each}),
    ):
        given = [x.to(dtype).requires_grad_() for x in (text, patches, torch.tensor(0.1))]
        found = similarity_attention(given[0], given[1], tau_attention=given[2], padding=padding, **options)
        outcomes.append((found.detach(), *torch.autograd.grad((found * weights).sum(), given)))
    return [float((a - b).abs().max() / b.abs().max()) for b, a in zip(*outcomes, strict=True)]


# ---- the tests


@pytest.fixture(scope="module")
def interpreted():
    if not fused.find_spec("triton"):
        pytest.skip("Triton is not installed: there is no interpreter to run the programs in")
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", [*(f"float32 {case}" for case in CASES), *(f"padded {case}" for case in PADDED)])
def test_float32_is_the_specification(interpreted, case):
    errors = dict(zip(NAMES, interpreted[case], strict=True))
    assert all(error < 1e-5 for error in errors.values()), errors


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", HALF)
def test_half_precision_loses_what_rounding_loses(interpreted, name, case):
    # a, n and E are rounded once each, by half an eps at most; rounding in both terms of t - l m^ may add up.  Sums of
    # many patches average it out, except that what is left of beta's cancels to little.
    eps = torch.finfo(HALF[name]).eps
    errors = dict(zip(NAMES, interpreted[f"{name} {case}"], strict=True))
    assert errors["similarity"] < eps / 2
    assert all(error < 4 * eps for error in errors.values()), errors
    if case == "many_tiles":
        assert all(error < eps / 2 for error in errors.values()), errors


def test_padding_has_no_similarity_and_no_gradient(interpreted):
    assert interpreted["_padding"] == [0, 0]


def test_patches_that_cancel_have_no_similarity_and_no_gradient(interpreted):
    cancelled, other, d_cancelled, d_other, d_text = interpreted["_vanishing"]
    assert cancelled == d_cancelled == 0
    assert other > 0.9
    assert d_other > 0
    assert d_text > 0


def test_a_faint_gradient_survives_float16(interpreted):
    assert max(interpreted["_faint"]) < 4 * torch.finfo(torch.float16).eps


def test_no_gradient_gives_none(interpreted):
    assert interpreted["_no_gradient"] == 0


def test_the_ends_of_the_temperatures_range(interpreted):
    sharp, sharp_is_finite, flat, flat_is_finite = interpreted["_extremes"]
    assert max(sharp, flat) < 1e-5
    assert sharp_is_finite
    assert flat_is_finite


def test_what_is_held_is_what_is_said(interpreted):
    forward, backward, said = interpreted["_held"]
    assert forward < backward <= said
    assert said < 1.2 * backward


def test_the_operator_is_the_specification(interpreted):
    assert max(interpreted["_operator"]) < 1e-5


@pytest.mark.skipif(not fused.available(768), reason="there is no card for the programs")
@pytest.mark.parametrize("dtype", fused.TYPES)
def test_a_card_computes_the_specification(dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    problem = _problem((300, 3, 333, 768), dtype, padded=True, device="cuda")
    assert max(_errors(problem, 0.07)) < tolerance


@pytest.mark.parametrize(
    ("text", "patches", "environment"),
    [
        (torch.float64, torch.float32, "1"),
        (torch.float32, torch.float64, "1"),
        (torch.float32, torch.float32, "0"),
    ],
)
def test_a_type_or_device_it_is_not_for_is_refused(monkeypatch, text, patches, environment):
    monkeypatch.setenv("TRITON_INTERPRET", environment)
    with pytest.raises(ValueError, match="fused"):
        fused.Programs(torch.zeros(2, 16, dtype=text), torch.tensor(1.0), patches=3, dtype=patches, budget_bytes=1)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_ampere_is_the_oldest_card(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert fused.available(768) == (expected and fused.find_spec("triton") is not None)


def test_a_cpu_is_no_card():
    assert not fused.usable(torch.zeros(2, 16), torch.zeros(3, 4, 16))


def test_spans_grow_with_the_budget(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    each = fused.transient_bytes(texts=50, patches=20, dim=32, element_size=2)
    images = [
        fused.Programs(
            torch.zeros(50, 32), torch.tensor(1.0), patches=20, dtype=torch.bfloat16, budget_bytes=budget
        ).images
        for budget in (0, each, 10 * each, 10**15)
    ]
    assert images == [1, 1, 10, 65_535]


def test_tiles_waste_little_of_a_width():
    widths = {dim: fused.blocks(dim=dim, element_size=2).width for dim in range(64, 1025)}
    assert all(-(-dim // width) * width <= 4 / 3 * dim for dim, width in widths.items() if dim % 64 == 0)
    assert {dim: widths[dim] for dim in (64, 256, 384, 512, 768, 1024)} == {
        64: 64, 256: 256, 384: 128, 512: 256, 768: 256, 1024: 256,
    }  # fmt: skip


def test_stages_fit_the_shared_memory():
    tile = fused.blocks(dim=768, element_size=2)
    stages = [tile.stages(rows=384, element_size=2, shared_bytes=size * 2**10) for size in (1, 48, 99, 163, 227)]
    assert stages == [1, 1, 2, 3, 3]
    assert all(a <= b for a, b in pairwise(stages))


def test_neither_import_nor_asking_needs_triton():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from vlp import kernels\n"
        "from vlp.kernels import fused\n"
        "assert not fused.usable(torch.zeros(1, 16), torch.zeros(1, 1, 16))\n"
        "assert not fused.available(16)\n"
        "kernels.similarity_attention(torch.zeros(1, 16), torch.zeros(1, 1, 16), tau_attention=0.1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    json.dump(_interpreted(), sys.stdout)
