"""Compiles the Triton kernels ahead of time, without a GPU, and prints what they take.

`python -m tests.kernels` compiles one build of every kernel, with `--all` each of them. A process
of its own: Triton's interpreter, which the other tests run in, and its compiler do not share one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Shared memory of a program, at most (CUDA C++ Programming Guide, compute capabilities).
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORES = re.compile(r"^\s*((?:wgmma\.mma_async|mma\.sync)[\w.]*)", re.M)


def compiled(build, capability):
    """Compile one build and return its row of the table."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {**build.constants}
    arguments = {**build.signature, **dict.fromkeys(constants, "constexpr")}
    names = build.kernel.arg_names
    assert set(names) == set(arguments), f"{build.name}: {set(names) ^ set(arguments)}"
    signature = {name: arguments[name] for name in names}
    pointers = [name for name, kind in build.signature.items() if kind.startswith("*")]
    attributes = {
        (names.index(name),): [["tt.divisibility", 16]] for name in (*pointers, *build.aligned)
    }
    source = ASTSource(build.kernel, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": build.warps, "num_stages": build.stages}
    kernel = triton.compile(source, target=target, options=options)
    return {
        "kernel": build.name,
        "capability": capability,
        "warps": build.warps,
        **resources(kernel.asm["ptx"], capability),
        "shared": kernel.metadata.shared,
        "tensor_cores": sorted(set(TENSOR_CORES.findall(kernel.asm["ptx"]))),
    }


def resources(ptx, capability):
    """Registers and spilled bytes, as the assembler tells them."""
    from triton import knobs

    target = re.search(r"^\.target\s+(\w+)", ptx, re.M)[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", path.name]
        told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", told.stderr)
    registers = re.search(r"Used (\d+) registers", told.stderr)
    return {"registers": int(registers[1]), "spills": sum(map(int, spills))}


def chosen(every, capability):
    """The builds for an architecture: all, or the first of each kernel."""
    from bertft.ops.triton import BUILDS

    suitable = [build for build in BUILDS if build.capability <= capability]
    usual = {build.kernel: build for build in reversed(suitable)}
    return suitable if every else list(usual.values())


def table(rows):
    """The rows as text."""
    lines = [
        "| kernel | sm | warps | registers | spills | shared KiB | tensor cores |",
        "|-" * 7 + "|",
    ]
    for row in rows:
        products = ", ".join(dict.fromkeys(name.split(".sync")[0] for name in row["tensor_cores"]))
        lines.append(
            f"| {row['kernel']} | {row['capability']} | {row['warps']} | {row['registers']} | "
            f"{row['spills']} | {row['shared'] / 1024:.1f} | {products} |"
        )
    return "\n".join(lines)


def main():
    """Compile, print the table or its rows as JSON, and fail where a kernel does not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every build of every kernel")
    parser.add_argument("--json", action="store_true", help="rows for a test to read")
    options = parser.parse_args()
    os.environ["TRITON_INTERPRET"] = "0"
    rows = [compiled(build, sm) for sm in SHARED_BYTES for build in chosen(options.all, sm)]
    print(json.dumps(rows) if options.json else table(rows))
    unfit = [
        row for row in rows if row["spills"] or row["shared"] > SHARED_BYTES[row["capability"]]
    ]
    for row in unfit:
        print(f"{row['kernel']} spills or takes too much shared memory: {row}", file=sys.stderr)
    return 1 if unfit else 0


if __name__ == "__main__":
    sys.exit(main())
