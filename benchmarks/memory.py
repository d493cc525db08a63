"""Bytes that similarity attention keeps from forward to backward: as published, and ours.

    python -m benchmarks.memory [--cases 256x1792x1369x768 ...] [--dtype bf16] [--inputs unit] [--json] [--append]

Exact, on any machine: the forward pass runs on fake tensors, which have shapes and no memory, and saved-tensor hooks
count every storage that is kept, once, inputs included where they are kept.  No time is measured.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from benchmarks.line import Line, append
from benchmarks.variants import DTYPES, Inputs, Size, Variant, make_problem, similarity
from vlp.cli.console import print_json, print_table

GIB = 2**30
CASES = (
    *("64x448x1369x768", "256x1792x1369x768", "1024x7168x1369x768", "4096x28672x1369x768"),
    *("64x448x196x768", "256x1792x196x768", "1024x7168x196x768", "4096x28672x196x768"),
)
"""Seven texts an image, at 518 px and at 224 px with patches of 14 and 16 px."""
COMPARED: tuple[Variant, ...] = ("published", "chunked")


def saved_bytes(forward: Callable[[], object]) -> int:
    """Size of all storages that autograd keeps when `forward` runs, each counted once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[StorageWeakRef(tensor.untyped_storage()).cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del result
    return total


def saved_by(variant: Variant, size: Size, *, dtype: torch.dtype, inputs: Inputs) -> int:
    """Bytes a variant keeps at a size."""
    with FakeTensorMode():
        problem = make_problem(size, dtype=dtype, device=torch.device("cpu"), inputs=inputs)
        return saved_bytes(lambda: similarity(variant, problem))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=Size.parse, default=[Size.parse(case) for case in CASES],
                        help="images x texts x patches x width")  # fmt: skip
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--inputs", choices=("tokens", "unit"), default="unit",
                        help="begin at unit vectors, or at the towers' with the shared LayerNorm")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print for programs")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    options = parser.parse_args()
    lines = [line for size in options.cases for line in measure(size, dtype=options.dtype, inputs=options.inputs)]
    if options.append:
        append(lines)
    if options.json:
        print_json([asdict(line) for line in lines])
        return
    rows = [(line.case, line.metric, line.value, f"{line.ratio:.4f}" if line.ratio else "") for line in lines]
    print_table("Kept for the backward pass", ("case", "what", "GiB", "/ published"), rows)


def measure(size: Size, *, dtype: str, inputs: Inputs) -> list[Line]:
    """Lines of one size: the compared variants, and the patches themselves."""
    kept = {
        f"{variant} saved": saved_by(variant, size, dtype=DTYPES[dtype], inputs=inputs) / GIB for variant in COMPARED
    }
    kept["patches themselves"] = size.images * size.patches * size.width * DTYPES[dtype].itemsize / GIB
    published = kept["published saved"]
    return [
        Line(
            benchmark="memory",
            case=f"{size} {dtype} {inputs}",
            metric=metric,
            value=value,
            unit="GiB",
            baseline="published",
            ratio=value / published,
        )
        for metric, value in kept.items()
    ]


if __name__ == "__main__":
    main()
