"""What the kernels reach on this machine's GPU, as shares of what it reaches in plain products.

`python benchmarks/gpu.py` prints one row for each measurement and adds them to
`benchmarks/results/gpu.jsonl` with the device's name. Equality comes first: a row whose sums are
wrong is not written. Counted: 2 n d^2 flops for (x, y), n d (d + 1) for the upper triangle of
(x, x), for every row map, and thrice that where factors are multiplied in three pieces; bytes that
must be read and written once. A row with a target has its ratio to a row before it.
"""

import json
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
import triton

from bertft import Moments, ops
from bertft.blocks import find_blocks
from bertft.capture import RowBlock, capture
from bertft.ops import Cross, MappedSums, PairedRows
from bertft.ops.triton.tilings import TILINGS, Precision, using
from bertft.rows import Batch

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
DEVICE = torch.device("cuda")
# Widths, layers, heads and inner widths of BERT-base and BERT-large.
SIZES = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}


def time_ms(call):
    """Median, and 20 and 80 % quantiles, in ms."""
    return triton.testing.do_bench(call, warmup=25, rep=100, quantiles=[0.5, 0.2, 0.8])


def row(name, times, **about):
    """One row: times in ms, rates from what is counted, and what they are to be beside another."""
    median = times[0]
    rates = {}
    if "flops" in about:
        rates["tflops"] = about["flops"] / median / 1e9
    if "bytes" in about:
        rates["gbs"] = about["bytes"] / median / 1e6
    return {"name": name, "ms": median, "ms_q20": times[1], "ms_q80": times[2], **about, **rates}


def ceilings(n=8192, copied=2**28):
    """Products of torch in bfloat16 and TF32, and a copy."""
    for dtype, allowed in ((torch.bfloat16, False), (torch.float32, True)):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
        name = "torch.mm bfloat16" if dtype == torch.bfloat16 else "torch.mm tf32"
        yield row(name, time_ms(lambda a=a, b=b: torch.mm(a, b)), flops=2 * n**3)
        torch.backends.cuda.matmul.allow_tf32 = False
    x = torch.empty(copied, device=DEVICE)
    y = torch.empty_like(x)
    yield row("copy", time_ms(lambda: y.copy_(x)), bytes=2 * x.nbytes)


def sums_of(rows, kinds):
    """Empty sums of the last pair of one or two sides."""

    def zeros(*shape):
        return torch.zeros(shape, dtype=torch.float64, device=DEVICE)

    d, last = rows[0].shape[1], len(rows) - 1
    maps = [
        MappedSums(
            kind,
            [x.mean(dim=0).double() if kind == "raw" else zeros(d) for x in rows],
            [zeros(d) for _ in rows],
            [zeros(1) for _ in rows],
            [Cross(zeros(d, d), zeros(d), zeros(d), zeros(1))],
        )
        for kind in kinds
    ]
    return rows, [(0, last)], maps, zeros(len(rows)), zeros(1)


def require_equal(rows, kinds, bound):
    """Refuse to time sums that the reference does not have."""
    few = [x[:3000] for x in rows]
    found, expected = sums_of(few, kinds), sums_of(few, kinds)
    ops.accumulate(*found, backend="triton")
    ops.accumulate(*expected, backend="reference")
    for own, other in zip(found[2], expected[2], strict=True):
        error = (own.crosses[0].product - other.crosses[0].product).abs().max()
        assert error <= bound * other.crosses[0].product.abs().max(), float(error)


def cross_moments(n=16_384, widths=(768, 1024)):
    """Sides of the widths of BERT-base and BERT-large, in every type and precision."""
    cases: list[tuple[str, Precision, float, int]]
    cases = [
        ("float32", "tf32x3", 2e-6, 3),
        ("float32", "tf32", 2e-3, 1),
        ("bfloat16", "tf32x3", 2e-6, 3),
    ]
    fault = torch.full((), -1, dtype=torch.int64, device=DEVICE)
    major, minor = torch.cuda.get_device_capability()
    for d in widths:
        for dtype, precision, bound, pieces in cases:
            kind = getattr(torch, dtype)
            beside = "torch.mm bfloat16" if dtype == "bfloat16" else "torch.mm tf32"
            target = {"beside": beside, "of": "tflops", "least": 0.7}
            x, y = (torch.randn(n, d, device=DEVICE).to(kind) for _ in range(2))
            for pair, rows in (("xy", [x, y]), ("xx", [x])):
                for maps in (["raw"], ["raw", "unit"]):
                    flops = pieces * len(maps) * n * d * (2 * d if pair == "xy" else d + 1)
                    for tiling in TILINGS[kind]:
                        if not tiling.suits(10 * major + minor):
                            continue
                        with using(precision, tiling):
                            require_equal(rows, maps, bound)
                            sums = sums_of(rows, maps)
                            times = time_ms(lambda sums=sums: ops.accumulate(*sums, fault=fault))
                        name = f"cross moments {pair} {dtype} {precision} n={n} d={d} {maps}"
                        yield row(name, times, flops=flops, tiling=str(tuple(tiling)), **target)


def row_pooling(tokens=65_536, d=768):
    """Words of one or two pieces."""
    x = torch.randn(tokens, d, device=DEVICE, dtype=torch.bfloat16)
    lengths = 1 + (torch.rand(tokens // 2, device=DEVICE) < 0.5).long()
    stops = lengths.cumsum(0)
    starts, out = stops - lengths, torch.empty(len(stops), d, device=DEVICE)
    assert ops.pool_rows(x, starts, stops, out)
    torch.testing.assert_close(out[0], x[: int(stops[0])].float().mean(dim=0))
    read = int(stops[-1]) * d * 2 + out.nbytes
    times = time_ms(lambda: ops.pool_rows(x, starts, stops, out))
    yield row("row pooling", times, bytes=read, beside="copy", of="gbs", least=0.8)


def second_order(n=5000, d=768):
    """RSA over all pairs of rows."""
    x, y = (
        PairedRows(
            torch.nn.functional.normalize(torch.randn(n, d, device=DEVICE)),
            torch.zeros(n, dtype=torch.float64, device=DEVICE),
            1.0,
        )
        for _ in range(2)
    )
    for correlation in ("pearson", "spearman", "kendall"):
        times = time_ms(lambda c=correlation: ops.correlate_pairs(x, y, c))
        yield row(f"correlate_pairs {correlation} n={n} d={d}", times, flops=2 * n * n * d)


def bert(d, depth, heads, inner):
    """A BERT of random weights in bfloat16."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": d, "num_hidden_layers": depth, "num_attention_heads": heads}
    model = BertModel(BertConfig(**sizes, intermediate_size=inner))
    return model.eval().to(DEVICE, torch.bfloat16)


def bare(models, ids, mask):
    """Two forward passes of every batch, and nothing else."""
    for batch in ids:
        for model in models:
            model(input_ids=batch.to(DEVICE), attention_mask=mask.to(DEVICE))


def whole(models, ids, mask):
    """The pass of a comparison: raw and unit sums of same-numbered layers, a row for each token."""
    blocks = [find_blocks(model) for model in models]
    d, depth = models[0].config.hidden_size, blocks[0].depth
    sides = {f"{m}.{layer}": d for m in range(2) for layer in range(depth + 1)}
    pairs = [(f"0.{layer}", f"1.{layer}") for layer in range(depth + 1)]
    moments = Moments(sides, pairs, device=DEVICE)
    fault = torch.full((), -1, dtype=torch.int64, device=DEVICE)
    starts = torch.arange(mask.numel())

    def add(rows, numbers):
        moments.update(rows, fault=fault)

    block = RowBlock(sides, mask.numel(), torch.float32, add, None, DEVICE)
    for batch in ids:
        block.open(Batch(batch, mask, starts, starts + 1, starts))
        for m, model in enumerate(models):

            def receive(layer, hidden, m=m):
                block.receive(f"{m}.{layer}", hidden)

            capture(model, blocks[m], batch, mask, receive)
        block.close()
    block.finish()
    moments.require_usable(fault)


def passes(batches=24, texts=64, length=128, sizes=SIZES):
    """A comparison's pass beside the two bare forward passes that it needs."""
    ids = [torch.randint(1000, 20_000, (texts, length)) for _ in range(batches)]
    mask = torch.ones(texts, length, dtype=torch.int64)
    tokens = batches * texts * length
    for name, (d, depth, heads, inner) in sizes.items():
        models = [bert(d, depth, heads, inner) for _ in range(2)]
        counted = {
            "forward_flops": 2 * tokens * depth * 2 * (4 * d * d + 2 * d * inner),
            "sums_flops": 2 * tokens * (depth + 1) * (2 * d * (d + 1) + 2 * d * d),
        }
        counted["flops_ratio"] = 1 + counted["sums_flops"] / counted["forward_flops"]
        with torch.inference_mode():
            bare_name = f"BERT-{name} bfloat16, bare forward passes"
            target = {"beside": bare_name, "of": "ms", "most": 1.3}
            for who, call, aim in (
                (bare_name, bare, {}),
                (f"BERT-{name} bfloat16, pass of compare", whole, target),
            ):
                call(models, ids[:1], mask)
                times = sorted(time_once_ms(call, models, ids, mask) for _ in range(3))
                yield row(who, (times[1], times[0], times[2]), **counted, **aim)


def time_once_ms(call, *arguments):
    """Time one call to the end of its work on the GPU."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    call(*arguments)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


def spectra(pairs=625, d=1024, looped=10):
    """Nuclear norms of all pairs of 25 layers, beside loops over single matrices."""
    some = [torch.randn(d, d, dtype=torch.float64, device=DEVICE) for _ in range(looped)]
    expected = torch.stack([torch.linalg.svdvals(x).sum() for x in some])
    matrices = [some[i % looped] for i in range(pairs)]
    norms = torch.empty(pairs, dtype=torch.float64, device=DEVICE)
    ops.nuclear_norms(some, norms[:looped])
    torch.testing.assert_close(norms[:looped], expected, rtol=1e-12, atol=0)
    loops = {"torch.linalg.svdvals": torch.linalg.svdvals}
    if find_spec("cupy"):
        import cupy

        loops["cupy.linalg.svd"] = lambda x: cupy.linalg.svd(cupy.asarray(x), compute_uv=False)
    for name, call in loops.items():
        taken = time_once_ms(lambda call=call: [call(x) for x in some])
        yield row(f"{name}, a loop over {looped} of {d} columns, each", (taken / looped,) * 3)
    ours = time_once_ms(ops.nuclear_norms, matrices, norms)
    beside = f"torch.linalg.svdvals, a loop over {looped} of {d} columns, each"
    name = f"nuclear norms, {pairs} of {d} columns, each"
    yield row(name, (ours / pairs,) * 3, beside=beside, of="ms", most=0.2)


def small_spectra(batch=256, sizes=(32, 128)):
    """Symmetric matrices in one launch, beside torch's own batches."""
    for d in sizes:
        x = torch.randn(batch, d, d, dtype=torch.float64, device=DEVICE)
        x = x + x.mT
        matrices, vectors = list(x), list(torch.empty_like(x))
        values = [x.new_empty(d) for _ in matrices]
        ops.eigh(matrices, values, vectors)
        torch.testing.assert_close(torch.stack(values), torch.linalg.eigvalsh(x))
        problem = (matrices, values, vectors)
        yield row(f"eigh, {batch} of {d}", time_ms(lambda p=problem: ops.eigh(*p)))
        yield row(f"torch.linalg.eigh, {batch} of {d}", time_ms(lambda x=x: torch.linalg.eigh(x)))


def probe_bank(rows=1024, probes=65, classes=50):
    """The losses of a bank of linear probes, 5 seeds of 13 layers, and its step of Adam."""
    columns, float64 = probes * classes, torch.float64
    offsets = torch.arange(probes + 1, device=DEVICE) * classes
    logits = torch.randn(columns, rows, device=DEVICE)
    classes_of = torch.randint(classes, (probes, rows), device=DEVICE)
    labels = torch.randint(2, (columns, rows), device=DEVICE, dtype=torch.uint8)
    # Weights, gradients and three moments of Adam, each a list of one parameter.
    weights, gradients, first, second, largest = (
        [x] for x in torch.rand(5, probes, classes * 768, device=DEVICE)
    )
    rates = torch.full((1, probes), 1e-3, device=DEVICE)
    calls = {
        "softmax_gradient": lambda z, lost, name: ops.softmax_gradient(
            z, offsets, classes_of, lost, backend=name
        ),
        "sigmoid_gradient": lambda z, lost, name: ops.sigmoid_gradient(
            z, offsets, labels, lost, backend=name
        ),
    }
    for operation, call in calls.items():
        found, lost = {}, {}
        for name in ("triton", "eager"):
            found[name], lost[name] = logits.clone(), torch.zeros(probes, dtype=float64).to(DEVICE)
            call(found[name], lost[name], name)
        torch.testing.assert_close(found["triton"], found["eager"], rtol=0, atol=1e-6)
        torch.testing.assert_close(lost["triton"], lost["eager"], rtol=1e-6, atol=0)
        for name in found:
            z, own = found[name], lost[name]
            times = time_ms(lambda c=call, z=z, own=own, n=name: c(z, own, n))
            counted = 2 * logits.nbytes
            yield row(f"{operation} {columns} x {rows}, {name}", times, bytes=counted)
    for name in ("triton", "eager"):
        times = time_ms(
            lambda n=name: ops.adam(
                weights, gradients, first, second, largest, rates[0], rates, 1, backend=n
            )
        )
        yield row(f"adam {columns} x 768, {name}", times, bytes=9 * weights[0].nbytes)


BENCHMARKS = (
    ceilings,
    cross_moments,
    row_pooling,
    second_order,
    spectra,
    small_spectra,
    probe_bank,
    passes,
)


def measured(benchmarks):
    """Yield the rows of all benchmarks, those with a target with their ratio to another row."""
    rows = {}
    for benchmark in benchmarks:
        for found in benchmark():
            rows[found["name"]] = found
            if "beside" in found:
                found["ratio"] = found[found["of"]] / rows[found["beside"]][found["of"]]
            yield found


def told(found):
    """A row as a line, with its rates and whether its target is met."""
    parts = [f"{found['name']:72} {found['ms']:10.3f} ms"]
    parts += [f"{found[key]:9.1f} {key}" for key in ("tflops", "gbs") if key in found]
    for key, word in (("least", "at least"), ("most", "at most")):
        if key in found:
            excess = found["ratio"] - found[key]
            parts.append(f"{found['ratio']:6.2f} of {found['beside']}, target {word} {found[key]}")
            parts.append("met" if (excess if key == "least" else -excess) >= 0.0 else "MISSED")
    return " ".join(parts)


def main():
    """Run all, print them and add them to the results."""
    if not torch.cuda.is_available():
        sys.exit("[gpu] a GPU must be there, got none; run where torch.cuda.is_available().")
    about = {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(DEVICE),
        "torch": torch.__version__,
        "triton": version("triton"),
    }
    with RESULTS.open("a") as file:
        for found in measured(BENCHMARKS):
            print(told(found), flush=True)
            file.write(json.dumps({**about, **found}) + "\n")


if __name__ == "__main__":
    main()
