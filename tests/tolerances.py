"""How far a result may be from a float64 computation, by the dtype of the rows."""

import torch

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

# Relative to the largest entry; narrow rows are widened exactly and multiplied in float32.
PRODUCTS = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.float16: 2e-6,
    torch.bfloat16: 2e-6,
}

# Of a measure on well-conditioned rows.
MEASURES = {
    torch.float64: 1e-10,
    torch.float32: 1e-6,
    torch.float16: 1e-6,
    torch.bfloat16: 1e-6,
}


def name(dtype):
    return str(dtype).removeprefix("torch.")
