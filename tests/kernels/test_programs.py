"""The programs as a card gets them: compiled without one, for Ampere and Hopper, from what the launcher would pass."""

import functools
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch

from vlp.kernels import fused

triton = pytest.importorskip("triton", reason="Triton is not installed: nothing to compile")

from triton import knobs  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from vlp.kernels import programs  # noqa: E402

pytestmark = pytest.mark.skipif(
    not isinstance(programs.attend, JITFunction), reason="TRITON_INTERPRET is set: the programs are not for compiling"
)

NAMES = ("attend", "pool", "exchange", "collect")
SHARED_BYTES = {80: 163 * 2**10, 86: 99 * 2**10, 90: 227 * 2**10}
"""What a program may have, CUDA C++ Programming Guide, table of compute capabilities."""
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}


@pytest.fixture(autouse=True, scope="module")
def _fresh_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


class _Recorder:
    """Stands where a program stands; remembers what a launch would compile."""

    def __init__(self, program, launches):
        self.program, self.launches = program, launches

    def __getitem__(self, grid):
        assert all(size > 0 for size in grid)
        return self._launch

    def _launch(self, *positional, **named):
        options = {name: named.pop(name) for name in ("num_warps", "num_stages")}
        values = dict(zip(self.program.arg_names, positional, strict=False)) | named
        assert values.keys() == set(self.program.arg_names)
        fixed = {parameter.name for parameter in self.program.params if parameter.is_constexpr}
        signature, constants, aligned = {}, [], []
        for place, name in enumerate(self.program.arg_names):
            value = values[name]
            if name in fixed or value is None or (isinstance(value, int) and value == 1):
                signature[name] = "constexpr"
                constants.append(((place,), "ieee" if name == "PRECISION" else value))
            elif isinstance(value, torch.Tensor):
                signature[name] = POINTERS[value.dtype]
                aligned.append(place)
            else:
                signature[name] = "i32"
                if value % 16 == 0:
                    aligned.append(place)
        self.launches.append(
            (self.program.__name__, *(tuple(x.items()) for x in (signature, options)), tuple(constants), tuple(aligned))
        )


def _launches(patch, dtype, capability, *, texts=300, images=2, patches=1370, dim=768, padded=True):
    """Everything that forward and backward of one span launch, in hashable form."""
    launches = []
    recorders = {name: _Recorder(getattr(programs, name), launches) for name in NAMES}
    patch.setattr(fused, "_programs", lambda: SimpleNamespace(**recorders))
    patch.setattr(fused, "_shared_bytes", lambda device: SHARED_BYTES[capability])
    patch.setenv("TRITON_INTERPRET", "1")
    working = fused.Programs(
        torch.zeros(texts, dim), torch.tensor(10.0), patches=patches, dtype=dtype, budget_bytes=2**30
    )
    vectors = torch.zeros(images, patches, dim, dtype=dtype)
    nowhere = torch.zeros(images, patches, dtype=torch.bool) if padded else None
    results = working.forward(vectors, nowhere)
    working.backward(vectors, nowhere, (*results, results[0]))
    patch.delenv("TRITON_INTERPRET")
    return launches


@functools.cache
def _compiled(launch, capability):
    name, signature, options, constants, aligned = launch
    attributes = {(place,): [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(getattr(programs, name), dict(signature), dict(constants), attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))


def _spilled_bytes(ptx, capability, folder):
    (folder / "program.ptx").write_text(ptx)
    done = subprocess.run(
        [knobs.nvidia.ptxas.path, "-v", f"-arch=sm_{capability}{'a' if capability == 90 else ''}", "program.ptx"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(re.search(r"(\d+) bytes spill stores", done.stderr).group(1))


@pytest.mark.parametrize("dim", [256, 768, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("capability", [80, 90])
def test_they_compile_within_the_limits_of_the_card(monkeypatch, capability, dtype, dim):
    launches = _launches(monkeypatch, dtype, capability, dim=dim)
    assert [launch[0] for launch in launches] == ["attend", "pool", "attend", "pool", "exchange", "collect"]
    for launch in launches:
        assert _compiled(launch, capability).metadata.shared <= SHARED_BYTES[capability], launch[0]


def test_smaller_cards_get_fewer_stages(monkeypatch):
    for launch in _launches(monkeypatch, torch.bfloat16, 86):
        assert _compiled(launch, 86).metadata.shared <= SHARED_BYTES[86], launch[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("capability", [80, 90])
def test_sums_stay_in_registers(monkeypatch, tmp_path, capability, dtype):
    for launch in _launches(monkeypatch, dtype, capability):
        ptx = _compiled(launch, capability).asm["ptx"]
        assert _spilled_bytes(ptx, capability, tmp_path) <= 64, launch[0]


@pytest.mark.parametrize(("capability", "instruction"), [(80, "mma.sync.aligned"), (90, "wgmma.mma_async")])
def test_half_precision_is_for_tensor_cores_and_float32_is_not(monkeypatch, capability, instruction):
    for launch in _launches(monkeypatch, torch.bfloat16, capability):
        ptx = _compiled(launch, capability).asm["ptx"]
        assert instruction in ptx
        assert "cp.async.cg.shared.global" in ptx  # 16 bytes at a time, beside the arithmetic
    for launch in _launches(monkeypatch, torch.float32, capability):
        ptx = _compiled(launch, capability).asm["ptx"]
        assert "mma" not in ptx
        assert "tf32" not in ptx


@pytest.mark.parametrize(("texts", "images", "patches", "dim"), [(1, 1, 1, 17), (1, 3, 7, 1)])
def test_ones_and_odd_sizes_compile(monkeypatch, texts, images, patches, dim):
    shape = {"texts": texts, "images": images, "patches": patches, "dim": dim}
    for launch in _launches(monkeypatch, torch.bfloat16, 80, **shape, padded=False):
        assert _compiled(launch, 80).asm["cubin"]
