"""What an option of attention costs: the time of a training step beside that of plain attention, in one run.

    python benchmarks/option_cost.py [--device cuda] [--width 256] [--depth 4] [--context 256] [--batch 8] [--rounds 21]

Measured as `aotsearch time` does: every round takes a window of steps of every variant, in a new random order, so that what else the
machine does falls on all alike; a figure is the median over rounds of the ratio to plain attention within the round, with an interval that
holds for all variants at once. Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from aotsearch import yamlfile
from aotsearch.evidence.statistics import median_interval
from aotsearch.models.cost import cost
from aotsearch.study.loading import parse
from aotsearch.study.study import Study
from aotsearch.training.device import DeviceSettings
from aotsearch.training.environment import environment
from aotsearch.training.timing import side_by_side

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


STUDY = """
name: option_cost
task: {{language: {{data: python-stdlib, context: {context}}}}}
grammar: {{model: {{width: {width}, depth: {depth}, block: [{mixer}]}}}}
study: {{budget: {{batch: {batch}}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    for name, default in (("width", 256), ("depth", 4), ("context", 256), ("batch", 8), ("rounds", 21), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    hardware = DeviceSettings(a.threads, a.device)
    studies = {name: study(mixer, a) for name, mixer in VARIANTS.items()}
    plain, models = studies["plain"], {name: s.reference for name, s in studies.items()}
    plain.task.prepare()
    times = side_by_side(models, plain.task, plain.training(), hardware, a.rounds)
    made = environment(hardware)
    where = f"{made['device_name']} ({made['instruction_set']}, {hardware.precision(plain.training())}), torch {made['torch']}"
    settings = {k: v for k, v in vars(a).items() if k != "rounds"}
    print(f"{where}; {json.dumps(settings)}; attention-only stacks; medians of {a.rounds} rounds\n")  # noqa: T201
    print("| variant | step / plain | 95 % interval | FLOPs / plain | parameters / plain |\n|---|---|---|---|---|")  # noqa: T201
    costs = {name: cost(model) for name, model in models.items()}
    for name, timed in times.items():
        if timed.message:
            print(f"| {name} | {timed.message} | | | |")  # noqa: T201
            continue
        ratios = [t / p for t, p in zip(timed.seconds, times["plain"].seconds, strict=True)]
        ratio, low, high = median_interval(ratios, 0.95, len(models) - 1)
        span = "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        flops = costs[name].flops_per_token / costs["plain"].flops_per_token
        size = costs[name].parameters_without_embeddings / costs["plain"].parameters_without_embeddings
        print(f"| {name} | {ratio:.3f} | {span} | {flops:.3f} | {size:.3f} |")  # noqa: T201


def study(mixer: str, a: argparse.Namespace) -> Study:
    """A stack of one kind of attention, as a study of its own."""
    return parse(yamlfile.parse(STUDY.format(mixer=mixer, **vars(a)), mixer), Path())


if __name__ == "__main__":
    main()
