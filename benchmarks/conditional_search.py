"""Does the search find the winning branch of a conditional space faster than random? Prints a Markdown table.

    python benchmarks/conditional_search.py [--seeds 20] [--trials 60]

Two of the three decisions at the top open decisions of their own, so most of a score is reached only inside the right branch. The score
of an architecture is the sum of what each decision costs that differs from the best; one that is not met costs what a wrong one does.
No model is trained; neither sampler repeats an architecture.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from aotsearch import yamlfile
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.running.search import Proposer
from aotsearch.study.settings import Search

ATTENTION = "heads: {any: [1, 2, 4, 8]}, qkv: {any: [free, tied]}, identity: {any: [0, -1, 1, learned]}, norm: {any: [layernorm, none]}"
GRAMMAR = f"""
model: {{width: 8, depth: 1, positions: {{any: [learned, rope, none]}}, block: [mixer, channel]}}
mixer: {{any: [{{attention: {{{ATTENTION}}}}}, none]}}
channel: {{any: [{{mlp: {{expand: {{any: [1, 2, 3, 4]}}, activation: {{any: [gelu, relu, relu2]}}}}}}, none]}}
"""
BEST = {
    "mixer": "attention",
    "mixer.attention.heads": 8,
    "mixer.attention.qkv": "tied",
    "mixer.attention.identity": "learned",
    "mixer.attention.norm": "none",
    "channel": "mlp",
    "channel.mlp.expand": 3,
    "channel.mlp.activation": "relu2",
    "model.positions": "rope",
}
COST = {"mixer": 3.0, "channel": 2.0}


def score(architecture: Architecture) -> float:
    """0 for the best architecture; a decision that is not met costs what a wrong one does."""
    return sum(COST.get(address, 1.0) for address, value in BEST.items() if architecture.decisions.get(address) != value)


def tpe(space: Space, seed: int, trials: int) -> list[float]:
    proposer = Proposer(space, Search(seed=seed, trials=trials), "score")
    scores = []
    for _ in range(trials):
        architecture = proposer.ask()
        assert architecture is not None
        scores.append(score(architecture))
        proposer.tell({"digest": architecture.digest, "outcome": "done", "measures": {"score": scores[-1]}, "curve": []})
    return scores


def random(space: Space, seed: int, trials: int) -> list[float]:
    seen: dict[str, float] = {}
    draw = seed * 1_000_000
    while len(seen) < trials:
        architecture = space.sample(draw)
        seen.setdefault(architecture.digest, score(architecture))
        draw += 1
    return list(seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    given = parser.parse_args()
    space = Space.parse(yamlfile.parse(GRAMMAR, "grammar"), {"vocabulary": 256, "context": 8})
    lines = [
        f"{space.count():,} architectures, {given.trials} trials without repetition, {given.seeds} seeds; lower is better, 0 is best.",
        "",
    ]
    lines.append("| sampler | median best after 20 | after 40 | after all | runs that found the best | median trials to a score of 2 |")
    lines.append("|---|---|---|---|---|---|")
    for name, sampler in (("TPE", tpe), ("random", random)):
        runs = [sampler(space, seed, given.trials) for seed in range(given.seeds)]
        best = [statistics.median(min(run[:n]) for run in runs) for n in (20, 40, given.trials)]
        found = sum(min(run) == 0 for run in runs)
        reached = [next((i + 1 for i, s in enumerate(run) if s <= 2), given.trials + 1) for run in runs]
        lines.append(f"| {name} | {best[0]:g} | {best[1]:g} | {best[2]:g} | {found} of {given.seeds} | {statistics.median(reached):g} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
