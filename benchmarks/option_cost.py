"""What an option of attention costs: the time of a training step beside that of plain attention, in one run.

    python benchmarks/option_cost.py [--device cuda] [--width 256] [--depth 4] [--context 256] [--batch 8] [--rounds 15]

Every round takes one step of every variant, in a new random order, so that what else the machine does falls on all alike; a figure is
the median over rounds of the ratio to plain attention within the round. Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time

import torch

from aotsearch import yamlfile
from aotsearch.grammar.space import Space
from aotsearch.models.cost import cost
from aotsearch.models.model import build
from aotsearch.training.device import DeviceSettings, autocast

VARIANTS: dict[str, str] = {
    "plain": "attention",
    "plain again (the noise)": "attention",
    "minus identity": "{attention: {identity: -1}}",
    "learned identity, per head": "{attention: {identity: {learned: {per: head}}}}",
    "tied (MSSA)": "{attention: {qkv: tied}}",
    "tied, transposed output": "{attention: {qkv: tied, output: transposed}}",
    "multi-query": "{attention: {kv_heads: 1}}",
    "minus uniform": "{attention: {uniform: -1}}",
    "squared map": "{attention: {squared_map: 0.1}}",
    "differential": "{attention: {second_map: differential, head_norm: rms}}",
    "values of the first layer": "{attention: {identity: -0.6, first_values: 0.6}}",
    "exclusive": "{attention: {exclusive: 1}}",
    "output gate, per element": "{attention: {gate: element}}",
    "16 memory vectors": "{attention: {persistent_kv: 16}}",
    "sink (written out)": "{attention: {score: sink}}",
    "sigmoid (written out)": "{attention: {score: sigmoid}}",
    "token statistics (TSSA)": "tssa",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    for name, default in (("width", 256), ("depth", 4), ("context", 256), ("batch", 8), ("rounds", 15), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    sizes = {"vocabulary": 256, "context": a.context}
    models, costs = {}, {}
    for name, mixer in VARIANTS.items():
        text = f"model: {{width: {a.width}, depth: {a.depth}, block: [{mixer}]}}"
        architecture = Space.parse(yamlfile.parse(text, name), sizes).reference
        models[name] = build(architecture).to(a.device)
        costs[name] = cost(architecture)
    tokens = torch.randint(0, 256, (a.batch, a.context + 1), device=a.device)
    times: dict[str, list[float]] = {name: [] for name in models}
    hardware = DeviceSettings(a.threads, a.device)
    with hardware.use():
        for round_ in range(a.rounds + 2):
            for name in random.Random(round_).sample(list(models), len(models)):
                seconds = step(models[name], tokens, hardware)
                if round_ >= 2:  # the first are warm-up
                    times[name].append(seconds)
    settings = {k: v for k, v in vars(a).items() if k != "rounds"}
    where = torch.cuda.get_device_name() if a.device.startswith("cuda") else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {where}; {json.dumps(settings)}; attention-only stacks; medians of {a.rounds} rounds\n")  # noqa: T201
    print("| variant | step / plain | quartiles | FLOPs / plain | parameters / plain |\n|---|---|---|---|---|")  # noqa: T201
    plain = costs["plain"]
    for name, measured in times.items():
        ratios = [t / p for t, p in zip(measured, times["plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        flops = costs[name].flops_per_token / plain.flops_per_token
        size = costs[name].parameters_without_embeddings / plain.parameters_without_embeddings
        print(f"| {name} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {flops:.3f} | {size:.3f} |")  # noqa: T201


def step(model: torch.nn.Module, tokens: torch.Tensor, hardware: DeviceSettings) -> float:
    """Seconds of one forward and backward pass."""
    if hardware.device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    with autocast(hardware.device, hardware.precision({})):
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
    torch.autograd.backward(loss)
    model.zero_grad(set_to_none=True)
    if hardware.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
