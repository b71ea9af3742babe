"""A trained trial of a run folder as a folder that `transformers` reads: `config.json` and `model.safetensors`, written without it.

`aotsearch.models.exchange` knows what each class can be; what it cannot hold is refused there, by the first part that differs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch

from aotsearch.eject.trained import load_trained, put
from aotsearch.models.exchange.families import GPT2, LLAMA, VIT
from aotsearch.models.model import Model

CLASSES = {"gpt2": (GPT2, "GPT2LMHeadModel"), "llama": (LLAMA, "LlamaForCausalLM"), "vit": (VIT, "ViTForImageClassification")}
TYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16"}


def write(folder: Path, arm: str, seed: int, out: Path) -> list[Path]:
    """Write a trial into the folder `out`, which `from_pretrained` of its class then reads. Returns both files.

    Raises:
        InputError: the run folder holds no such trial, or no class holds its model.
        RunError: the disk refused it.
    """
    model = load_trained(folder, arm, seed)
    kind = kind_of(model)
    layout, name = CLASSES[kind]
    config = {"architectures": [name], "model_type": kind, **layout.config(model)}
    weights = layout.export(model)
    if model.tied:
        del weights[layout.tied]  # the class ties it to the embedding itself
    text = json.dumps(config, indent=2) + "\n"
    return [put(out / "config.json", text.encode()), put(out / "model.safetensors", safetensors(weights))]


def kind_of(model: Model) -> str:
    """The class that comes nearest to a model: by its tokens, and how it knows their places."""
    architecture = model.architecture
    if architecture.embedding.word == "patch":
        return "vit"
    return "llama" if architecture.positions.word == "rope" else "gpt2"


def safetensors(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors in the format of that name: the length of a header, the header as JSON, the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    parts, start = [], 0
    for name, tensor in weights.items():
        flat = tensor.detach().cpu().contiguous()
        content = flat.view(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": TYPES[flat.dtype], "shape": list(flat.shape), "data_offsets": [start, start := start + len(content)]}
        parts.append(content)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    return b"".join([struct.pack("<Q", len(text)), text, *parts])
