"""Fashion-MNIST as arrays, from the files as they are published; Debian's package dataset-fashion-mnist carries them.

python studies/linear_reduction_at_initialisation/fashion.py /usr/share/datasets/fashion-mnist fashion.npz
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np


def read(path: Path, header: int) -> np.ndarray:
    """The bytes of a file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:])
    arrays = {}
    for name, prefix in (("train", "train"), ("test", "t10k")):
        arrays[f"x_{name}"] = read(folder / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        arrays[f"y_{name}"] = read(folder / f"{prefix}-labels-idx1-ubyte.gz", 8)
    np.savez(out, **arrays)
