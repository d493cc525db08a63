"""The Triton programs of similarity attention: five matrix products, each with its mathematics at the end of a tile.

A width of 768 or 1,024 leaves no registers for a pooled vector beside its products, as attention kernels for narrow
heads keep it, and a block of texts narrow enough to fit would fetch patches faster than the cache can send them.  So
every program is an ordinary product with a two-dimensional tile in registers, the width is split over the grid, and
what goes from one program to the next (attention, m, E) lies in scratch memory of one span of images.

With u the incoming gradient, r = 1/|m| and n_s = -u l r^2 m_s [S D] for an image:

    E_k = a_k (u r (1 + beta c_k) + beta <n, v_k>),   dT = sum_images E V,   dV = E^T T + A^T n,
    dbeta = sum_k a_k (u r c_k + <n, v_k>) (c_k - mean)

Letters: S texts, I images, P patches, D width; T [S D], V [I P D]; A attention [I S PITCH] and E [S I PITCH], whose
rows are PITCH >= P numbers long so that they begin where the hardware likes it; what there is one of for every text
and image lies as [I S].  BS, BP, BD: texts, patches and width of a tile; BK: the step of its inner loop.  The last
blocks read the last text or patch again, and do not store it.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def"
# (Triton has no types, and reads annotations of a program as its own.)

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_NEVER = tl.constexpr(-1e30)  # in place of -inf, which would make a tile of nothing but padding NaN


@triton.jit
def _block(axis: tl.constexpr, SIZE: tl.constexpr):
    return tl.program_id(axis) * SIZE + tl.arange(0, SIZE)


@triton.jit
def _rows(X, index, count, width):
    """Pointers to the starts of rows of X [count width], the last one again beyond the end; a column."""
    return X + tl.minimum(index, count - 1).to(tl.int64)[:, None] * width


@triton.jit
def _added(total, left, right, PRECISION: tl.constexpr):
    """The sum total + left @ right in float32."""
    if PRECISION == "interpreted":  # Triton's interpreter would multiply the bits of bfloat16 as integers
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def _scaled(C, NOWHERE, BETA, image, patches, P):
    """Beta c in units of ln 2, and hardly anything where the softmax leaves a patch out."""
    attended = patches < P
    if NOWHERE is not None:
        attended &= tl.load(NOWHERE + image * P + patches, mask=attended, other=1) == 0
    return tl.where(attended[None, :], C * (tl.load(BETA) * _LOG2E), _NEVER)


@triton.jit
def attend(
    T,
    V,
    NOWHERE,
    BETA,
    LSE,
    A,
    PEAK,
    TOTAL,
    MEAN,
    S,
    P,
    D,
    PITCH,
    BS: tl.constexpr,
    BP: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of A: attention where LSE is known, else exp(beta c - peak) and the tile's part of the online softmax.

    The grid is (text blocks, patch blocks, images).  PEAK, TOTAL (sum of A) and MEAN (sum of A c) are
    [I patch blocks S].  The peak is a whole power of 2, so that moving A to another tile's peak rounds nothing, and
    the sums are of A as it was stored.
    """
    texts, patches, image = _block(0, BS), _block(1, BP), tl.program_id(2).to(tl.int64)
    depth = tl.arange(0, BK)
    t_at = _rows(T, texts, S, D) + depth[None, :]
    v_at = _rows(V + image * P * D, patches, P, D) + depth[None, :]
    C = tl.zeros((BS, BP), dtype=tl.float32)
    for start in range(0, D, BK):
        within = (start + depth < D)[None, :]
        t = tl.load(t_at + start, mask=within, other=0.0)
        v = tl.load(v_at + start, mask=within, other=0.0)
        C = _added(C, t, tl.trans(v), PRECISION)
    scaled = _scaled(C, NOWHERE, BETA, image, patches, P)
    stored = texts < S
    if LSE is not None:
        lse = tl.load(LSE + image * S + texts, mask=stored, other=float("inf"))
        a = tl.exp2(scaled - lse[:, None] * _LOG2E).to(A.dtype.element_ty)
    else:
        peak = tl.ceil(tl.max(scaled, axis=1))
        a = tl.exp2(scaled - peak[:, None]).to(A.dtype.element_ty)
        as_stored = a.to(tl.float32)
        here = (image * tl.num_programs(1) + tl.program_id(1)) * S + texts
        tl.store(PEAK + here, peak, mask=stored)
        tl.store(TOTAL + here, tl.sum(as_stored, axis=1), mask=stored)
        tl.store(MEAN + here, tl.sum(as_stored * C, axis=1), mask=stored)
    a_at = A + (image * S + texts)[:, None] * PITCH + patches[None, :]
    tl.store(a_at, a, mask=stored[:, None] & (patches < PITCH)[None, :])


@triton.jit
def pool(
    A,
    V,
    FACTOR,
    COEFFICIENT,
    SQUARES,
    N,
    S,
    P,
    D,
    PITCH,
    TILE: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of m = sum_k a_k v_k, of which forward keeps the squared length and backward n = COEFFICIENT m.

    The grid is (text blocks, width blocks, images).  FACTOR [I tiles S] brings A, stored in tiles of TILE patches, to
    one peak; SQUARES is [I width blocks S], N [I S D].
    """
    texts, dims, image = _block(0, BS), _block(1, BD), tl.program_id(2).to(tl.int64)
    step = tl.arange(0, BK)
    a_at = _rows(A + image * S * PITCH, texts, S, PITCH) + step[None, :]
    v_at = V + image * P * D + step[:, None] * D + dims[None, :]
    wide = (dims < D)[None, :]
    M = tl.zeros((BS, BD), dtype=tl.float32)
    for start in range(0, P, BK):
        a = tl.load(a_at + start, mask=(start + step < PITCH)[None, :], other=0.0)
        v = tl.load(v_at, mask=(start + step < P)[:, None] & wide, other=0.0)
        if FACTOR is not None:
            tile = image * tl.cdiv(P, TILE) + start // TILE
            factor = tl.load(FACTOR + tile * S + texts, mask=texts < S, other=0.0)
            a = (a.to(tl.float32) * factor[:, None]).to(v.dtype)
        M = _added(M, a, v, PRECISION)
        v_at += BK * D
    if SQUARES is not None:
        here = (image * tl.num_programs(1) + tl.program_id(1)) * S + texts
        tl.store(SQUARES + here, tl.sum(M * M, axis=1), mask=texts < S)
    else:
        here = image * S + texts
        coefficient = tl.load(COEFFICIENT + here, mask=texts < S, other=0.0)
        n = (M * coefficient[:, None]).to(N.dtype.element_ty)
        tl.store(N + here[:, None] * D + dims[None, :], n, mask=(texts < S)[:, None] & wide)


@triton.jit
def exchange(
    T,
    V,
    N,
    NOWHERE,
    BETA,
    LSE,
    U_R,
    MEAN,
    E,
    D_BETA,
    S,
    IMAGES,
    P,
    D,
    PITCH,
    BS: tl.constexpr,
    BP: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of E, what text and patch give each other in the gradient, and its part of dL/dbeta (one a program).

    The grid is (text blocks, patch blocks, images).
    """
    texts, patches, image = _block(0, BS), _block(1, BP), tl.program_id(2).to(tl.int64)
    depth = tl.arange(0, BK)
    t_at = _rows(T, texts, S, D) + depth[None, :]
    n_at = _rows(N + image * S * D, texts, S, D) + depth[None, :]
    v_at = _rows(V + image * P * D, patches, P, D) + depth[None, :]
    C = tl.zeros((BS, BP), dtype=tl.float32)
    Q = tl.zeros((BS, BP), dtype=tl.float32)
    for start in range(0, D, BK):
        within = (start + depth < D)[None, :]
        v = tl.trans(tl.load(v_at + start, mask=within, other=0.0))
        C = _added(C, tl.load(t_at + start, mask=within, other=0.0), v, PRECISION)
        Q = _added(Q, tl.load(n_at + start, mask=within, other=0.0), v, PRECISION)
    stored = texts < S
    here = image * S + texts
    beta = tl.load(BETA)
    lse = tl.load(LSE + here, mask=stored, other=float("inf"))[:, None]  # a = 0 beyond the last text
    u_r = tl.load(U_R + here, mask=stored, other=0.0)[:, None]
    mean = tl.load(MEAN + here, mask=stored, other=0.0)[:, None]
    a = tl.exp2(_scaled(C, NOWHERE, BETA, image, patches, P) - lse * _LOG2E)
    w = a * (u_r * C + Q)
    e_at = E + (texts.to(tl.int64)[:, None] * IMAGES + image) * PITCH + patches[None, :]
    tl.store(e_at, (a * u_r + beta * w).to(E.dtype.element_ty), mask=stored[:, None] & (patches < PITCH)[None, :])
    # sum_k w_k = 0, so the mean cosine can be taken from c_k first, and its size out of the rounding.
    program = (image * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(D_BETA + program, tl.sum(tl.sum(w * (C - mean), axis=1), axis=0))


@triton.jit
def _transposed(total, X, pitch, patches, PITCH, Y, dims, S, D, BK: tl.constexpr, PRECISION: tl.constexpr):
    """The sum total + X^T Y over all texts, X [S pitch] at `patches`, Y [S D] at `dims`."""
    step = tl.arange(0, BK)
    x_at = step[:, None] * pitch + patches[None, :]
    y_at = step[:, None] * D + dims[None, :]
    narrow, wide = (patches < PITCH)[None, :], (dims < D)[None, :]
    for start in range(0, S, BK):
        below = (start + step < S)[:, None]
        x = tl.load(X + x_at, mask=below & narrow, other=0.0)
        y = tl.load(Y + y_at, mask=below & wide, other=0.0)
        total = _added(total, tl.trans(x), y, PRECISION)
        X += tl.cast(pitch, tl.int64) * BK
        Y += D * BK
    return total


@triton.jit
def collect(
    E,
    A,
    T,
    N,
    SCALE,
    D_V,
    S,
    IMAGES,
    P,
    D,
    PITCH,
    BP: tl.constexpr,
    BD: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of dL/dV = SCALE (E^T T + A^T n).  The grid is (patch blocks, width blocks, images)."""
    patches, dims, image = _block(0, BP), _block(1, BD), tl.program_id(2).to(tl.int64)
    total = tl.zeros((BP, BD), dtype=tl.float32)
    total = _transposed(total, E + image * PITCH, IMAGES * PITCH, patches, PITCH, T, dims, S, D, BK, PRECISION)
    total = _transposed(
        total, A + image * S * PITCH, PITCH, patches, PITCH, N + image * S * D, dims, S, D, BK, PRECISION
    )
    at = D_V + (image * P + patches)[:, None] * D + dims[None, :]
    tl.store(at, total * tl.load(SCALE), mask=(patches < P)[:, None] & (dims < D)[None, :])
