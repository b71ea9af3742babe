"""The table of speed: what the product trains per second, beside plain loops of the same recipes on the same machine in the same run.

    python benchmarks/speed.py [--short] [--rounds 3] [--only recipe replicas efficiency main]
    python benchmarks/speed.py --device cuda [--short]          torch alone: neither ray, optuna nor mlflow

recipe      tokens/s of the whole machine, nanoGPT's CPU recipe (4 layers, 4 heads, width 128, context 64, batch 12), by `aotsearch run`
            with all its costs, beside two plain float32 loops of one thread side by side
replicas    seconds of a step of several seeds as one program, beside one after another, for a narrow to a wide model
efficiency  `efficiency.py`
main        the main job of the README: wall, training FLOPs, the measure of the reference, verdicts decided

On a GPU: nanoGPT's shakespeare_char recipe (6 layers, width 384, context 256, batch 64) and a model of 1 M parameters, as a plain loop in
bfloat16, eager and compiled, and as one program of 2 and 8 seeds: milliseconds of a step, model FLOPs against the peak of the card.

The plain loops are written here, after nanoGPT: AdamW, warm-up and cosine, clipped at 1, tied head, no biases. A figure is the median over
rounds of a ratio within the round. Writes Markdown to standard output; `speed.md` has what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import efficiency
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.models.cost import cost
from aotsearch.models.model import build
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.training.device import DeviceSettings
from aotsearch.training.environment import processors
from aotsearch.training.rehearsal import step_seconds

HERE = Path(__file__).parent
MAIN = HERE.parent / "spaces" / "redundancy.yaml"
FORMER = {"flops": 3 * 73_728 * 32 * 32 * 600, "measure": 2.99}  # of the main job's reference when this table was begun: width 32
RECIPE = """
name: recipe
task: {{language: {{data: python-stdlib, context: {context}}}}}
grammar:
  model: {{width: {width}, depth: {depth}, positions: learned, norm: layernorm, block: [mixer, {{mlp: {{expand: 4}}}}]}}
  mixer: {{attention: {{heads: {heads}}}}}
study:
  seeds: {seeds}
  budget: {{steps: {steps}, batch: {batch}, evaluations: 1}}
  learning_rate: 1e-3
  optimiser: {{warmup: 0.05, beta2: 0.99}}
  diagnostics: none
"""
CPU = {"width": 128, "depth": 4, "heads": 4, "context": 64, "batch": 12}
GPU = {"width": 384, "depth": 6, "heads": 6, "context": 256, "batch": 64}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, by the makers' data sheets


class Block(nn.Module):
    """nanoGPT's block, without biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, length, width = x.shape
        q, k, v = (t.view(b, length, self.heads, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, length, width)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Plain(nn.Module):
    """nanoGPT, for bytes."""

    def __init__(self, width: int, depth: int, heads: int, context: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * depth) if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tokens(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return F.linear(self.norm(h), self.tokens.weight)


def plain_loop(sizes: dict[str, int], steps: int, device: str = "cpu", compiled: bool = False, warm: int = 5) -> float:
    """Seconds of so many steps of a plain loop, after some that warm up; float32 on a processor, bfloat16 autocast on a GPU."""
    study = recipe(sizes, steps, 1)
    text = study.task._train
    model: Any = Plain(sizes["width"], sizes["depth"], sizes["heads"], sizes["context"]).to(device)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model
    began = time.perf_counter()
    for step in range(steps + warm):
        if step == warm:
            _wait(device)
            began = time.perf_counter()
        starts = torch.randint(len(text) - sizes["context"], (sizes["batch"],))
        windows = torch.stack([torch.from_numpy(text[i : i + sizes["context"] + 1].astype(np.int64)) for i in starts])
        windows = windows.pin_memory().to(device, non_blocking=True) if device != "cpu" else windows
        with torch.autocast(device, torch.bfloat16) if device != "cpu" else contextlib.nullcontext():
            loss = F.cross_entropy(run(windows[:, :-1]).flatten(0, 1).float(), windows[:, 1:].flatten())
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = 1e-3 * min(1.0, step / 100)
        adam.step()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def recipe(sizes: dict[str, int], steps: int, seeds: int) -> Study:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(RECIPE.format(**sizes, steps=steps, seeds=seeds))
        return load(path)


def flops(study: Study) -> float:
    """Of one training step: forward and twice that backward."""
    return 3.0 * cost(study.reference).flops_per_token * study.settings.budget.batch * study.reference.to_dict()["sizes"]["context"]


# ---- rows of a processor


def row_recipe(short: bool, rounds: int) -> Iterator[str]:
    steps, seeds = (60, 2) if short else (1000, 4)
    cores = processors()
    tokens = CPU["batch"] * CPU["context"]
    ratios, ours, theirs = [], [], []
    for _ in range(rounds):
        theirs.append(_side_by_side(cores, min(steps, 200)) * tokens)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(RECIPE.format(**CPU, steps=steps, seeds=seeds))
            began = time.perf_counter()
            efficiency.command("run", str(path), "--out", f"{folder}/run")
            ours.append(seeds * steps * tokens / (time.perf_counter() - began))
        ratios.append(ours[-1] / theirs[-1])
    found = f"{statistics.median(ours):,.0f} | {statistics.median(theirs):,.0f} (plain loops)"
    yield f"| recipe, tokens/s of {cores} cores | {found} | {_spread(ratios)} |"


def _side_by_side(cores: int, steps: int) -> float:
    """Steps per second of a plain loop on every core at once."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import speed; print(speed.plain_loop(speed.CPU, {steps}))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    loops = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) for _ in range(cores)]
    return sum(steps / float(loop.communicate()[0]) for loop in loops)


def row_replicas(short: bool, rounds: int) -> Iterator[str]:
    for width in (16, 32, 64, 128):
        sizes = {**CPU, "width": width, "depth": 2}
        yield _replicas(f"width {width}, depth 2", sizes, 4, "cpu", rounds)


def _replicas(name: str, sizes: dict[str, int], replicas: int, device: str, rounds: int) -> str:
    study, hardware, pairs = recipe(sizes, 1000, 1), DeviceSettings(1, device), []
    for _ in range(max(3, rounds)):
        with hardware.use():
            models = [build(study.reference, seed) for seed in range(replicas)]
            alone = min(step_seconds(models[:1], study.task, study.training(), hardware, fused=False, steps=5))
            fused = min(step_seconds(models, study.task, study.training(), hardware, fused=True, steps=5)) / replicas
        pairs.append((alone, fused))
    alone, fused = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [a / f for a, f in pairs]
    return f"| {replicas} seeds fused, {name}, ms of a seed's step | {fused:.2f} | {alone:.2f} (one after another) | {_spread(ratios)} |"


def row_efficiency(short: bool, rounds: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        slots = processors()
        runs, walls, commands = efficiency.measure(Path(folder), 8 if short else 24, 1.0 if short else 10.0, rounds, slots)
    yield "\n" + efficiency.table(runs, walls, commands) + "\n"


def row_main(short: bool, rounds: int) -> Iterator[str]:
    overrides = ["--set", "study.budget.steps=100", "--set", "study.seeds=2"] if short else []
    study = load(MAIN)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        efficiency.command("run", str(MAIN), "--out", f"{folder}/run", *overrides)
        wall = time.perf_counter() - began
        told = json.loads(efficiency.command("report", f"{folder}/run", "--json").stdout)
        status = json.loads(efficiency.command("status", f"{folder}/run", "--json").stdout)
    verdicts = [c["verdict"] for c in told["contrasts"]]
    decided = sum(v != "undecided" for v in verdicts)
    yield f"| main job, seconds ({status['done']} trials) | {wall:.0f} | | |"
    mine, former = flops(study) * study.settings.budget.steps, FORMER["flops"]
    yield f"| main job, training FLOPs of a trial | {mine:.3g} | {former:.3g} (width 32) | {mine / former:.1f} |"
    value, before = told["reference_value"]["mean"], FORMER["measure"]
    yield f"| main job, the reference, {told['unit']} | {value:.2f} | {before} (width 32) | {value / before:.2f} |"
    yield f"| main job, verdicts decided | {decided} of {len(verdicts)} | | |"


ROWS: dict[str, Callable[[bool, int], Iterator[str]]] = {
    "recipe": row_recipe,
    "replicas": row_replicas,
    "efficiency": row_efficiency,
    "main": row_main,
}


# ---- rows of a GPU


def on_gpu(short: bool, rounds: int, device: str) -> Iterator[str]:
    """Steps per second of plain loops and of the product, for three sizes of model."""
    models = {
        "1 M": {"width": 128, "depth": 5, "heads": 4, "context": 128, "batch": 32},
        "shakespeare_char (10.6 M)": GPU,
    }
    steps = 10 if short else 100
    for name, sizes in models.items():
        work = flops(recipe(sizes, steps, 1))
        for compiled in (False, True):
            seconds = statistics.median(plain_loop(sizes, steps, device, compiled) for _ in range(rounds)) / steps
            how = "compiled" if compiled else "eager"
            yield f"| plain loop, {how}, {name}: ms of a step, share of the peak | {1e3 * seconds:.2f} | | {_share(work / seconds)} |"
        for replicas in (2, 8):
            yield _replicas(name, sizes, replicas, device, rounds)


def _share(rate: float) -> str:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((value for name, value in PEAK.items() if name in card), None)
    return f"{rate / peak:.1%}" if peak else f"{rate / 1e9:.0f} GFLOP/s"


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    a = parser.parse_args()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if a.device != "cpu" else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {where}, {torch.backends.cpu.get_cpu_capability()}; medians of {a.rounds} rounds\n")  # noqa: T201
    print("| measure | ours | against | ratio |\n|---|---|---|---|", flush=True)  # noqa: T201
    if a.device != "cpu":
        rows = on_gpu(a.short, a.rounds, a.device)
    else:
        rows = (row for name in a.only for row in ROWS[name](a.short, a.rounds))
    for row in rows:
        print(row, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
