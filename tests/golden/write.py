"""Writes the golden set: small studies as they were run, what is reported of them, digests of every shipped file, outputs of models.

    PYTHONPATH=. python tests/golden/write.py numbered

It stays: a folder that people have must be read, reported and continued by every later version. It was written by version 0.2.0, but for
`numbered`, which version 0.3.0 wrote with a ledger of format 2. Only the folder of the data and the name of the system were put in anew,
with the checksums of their lines.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import aotsearch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORDS = "the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were".split()
KEPT = ("ledger.jsonl", "study.yaml")  # of a run folder

LANGUAGE = """
name: {name}
question: Does a small model need its parts?
task: {{language: {{data: {{text: corpus.txt}}, context: 16}}}}
grammar:
  model: {{width: 16, depth: 2, positions: positions, norm: norm, block: [mixer, channel]}}
  mixer: {{attention: {{heads: 2, identity: identity, values: values}}}}
  channel: {{any: [{{mlp: {{expand: 2}}}}, none]}}
  identity: {{any: [0, -1, learned]}}
  values: {{any: [own, first]}}
  norm: {{any: [layernorm, none]}}
  positions: {{any: [learned, rope]}}
study: {{budget: {{steps: 6, batch: 4, evaluations: 3}}, margin: 0.05, {study}}}
"""
PER_LAYER = """
name: {name}
question: Which layer needs its parts?
task: {{language: {{data: {{text: corpus.txt}}, context: 16}}}}
grammar:
  model: {{width: 16, positions: rope, norm: rmsnorm, blocks: {{each: 2, of: layer}}}}
  layer: [{{attention: {{heads: 2, memory: 1}}}}, channel]
  channel: {{any: [{{mlp: {{expand: 2}}}}, none]}}
study: {{budget: {{steps: 6, batch: 4, evaluations: 2}}, {study}}}
"""
DENOISE = """
name: {name}
question: Do blocks denoise?
task: {{denoise: {{subspaces: 2}}}}
grammar:
  model: {{width: 16, depth: 2, block: [mixer]}}
  mixer: {{attention: {{heads: 2, qkv: {{any: [tied, free]}}, output: free}}}}
study: {{budget: {{steps: 6, batch: 4, evaluations: 2}}, {study}}}
"""
VISION = """
name: {name}
question: Which blocks read digits?
task: {{vision: {{data: digits}}}}
grammar:
  model: {{width: 16, depth: 1, embedding: {{patch: {{size: 4}}}}, pooling: pooling, block: [mixer, mlp]}}
  mixer: {{attention: {{heads: 2, diagonal: {{any: [true, false]}}}}}}
  pooling: {{any: [mean, class-token]}}
study: {{budget: {{steps: 6, batch: 4, evaluations: 2}}, {study}}}
"""

STUDIES = {
    "one_at_a_time": (LANGUAGE, "seeds: 3, learning_rate: 1e-2, diagnostics: all"),
    "factorial": (LANGUAGE, "seeds: 3, learning_rate: 1e-2, design: factorial, factors: [channel, identity]"),
    "pairs": (LANGUAGE, "seeds: 2, learning_rate: 1e-2, design: pairs, factors: [channel, positions, norm]"),
    "add_one_in": (LANGUAGE, "seeds: 2, learning_rate: 1e-2, design: add-one-in, stripped: {channel: none, norm: none}"),
    "tuned": (LANGUAGE, "seeds: 2, learning_rate: {tune: [1e-3, 3e-3, 1e-2]}, factors: [channel, values]"),
    "equal": (LANGUAGE, "seeds: 2, learning_rate: 1e-2, equalise: [none, parameters], tolerance: 0.3, factors: [channel]"),
    "adaptive": (LANGUAGE, "seeds: {min: 3, max: 6}, learning_rate: 1e-2, factors: [channel, norm]"),
    "search": (LANGUAGE, "seeds: 2, learning_rate: 1e-2, design: search, search: {trials: 8, confirm: 2}"),
    "per_layer": (PER_LAYER, "seeds: 2, learning_rate: 1e-2"),
    "denoise": (DENOISE, "seeds: 2, learning_rate: 1e-2"),
    "vision": (VISION, "seeds: 2, learning_rate: 1e-2"),
    "numbered": (LANGUAGE, "seeds: 3, learning_rate: 1e-2, factors: [channel, identity]"),
}


def corpus(folder: Path) -> None:
    """The text that the language studies read."""
    rng = random.Random(0)
    (folder / "corpus.txt").write_text(" ".join(rng.choice(WORDS) for _ in range(5000)))


def write_study(name: str, folder: Path) -> Path:
    """A golden study as a file, beside its data."""
    corpus(folder)
    text, study = STUDIES[name]
    path = folder / f"{name}.yaml"
    path.write_text(text.format(name=name, study=study))
    return path


def command(*words: str | Path, folder: Path) -> str:
    """What a command of aotsearch prints."""
    line = [sys.executable, "-m", "aotsearch", *map(str, words)]
    return subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout


def report(folder: Path) -> dict[str, Any]:
    """The report of a run folder as JSON."""
    found: dict[str, Any] = json.loads(command("report", folder.name, "--json", folder=folder.parent))
    return found


def shipped() -> list[Path]:
    """Every study file that is shipped."""
    return sorted([*(ROOT / "spaces").rglob("*.yaml"), *(p for p in (ROOT / "studies").rglob("*.yaml") if p.name != "claims.yaml")])


def digests() -> dict[str, dict[str, str]]:
    """The digests of the arms of every shipped file."""
    found = {}
    for path in shipped():
        study = aotsearch.load(path)
        costly = study.settings.design == "search" or study.settings.modes != ["none"]  # arms that are not known before costs are
        arms = {} if costly else {arm.name: arm.architecture.digest for arm in study.arms()}
        found[str(path.relative_to(ROOT))] = {"reference": study.reference.digest, **arms}
    return found


def outputs(architecture: aotsearch.Architecture) -> list[float]:
    """Some outputs of a model away from its start, on inputs that are always the same."""
    with torch.no_grad():
        model = aotsearch.build(architecture, seed=3).eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
        found = model(example(architecture)).flatten()
    assert not any(map(math.isnan, found.tolist()))
    return [round(float(x), 6) for x in found[:: max(1, len(found) // 7)][:7]]


def example(architecture: aotsearch.Architecture) -> torch.Tensor:
    """Two short inputs of the kind that a model takes."""
    sizes, generator = dict(architecture.sizes), torch.Generator().manual_seed(0)
    if "image" in sizes:
        return torch.randn(2, sizes["channels"], sizes["image"], sizes["image"], generator=generator)
    tokens = min(sizes["context"], 24)
    if "inputs" in sizes:
        return torch.randn(2, tokens, sizes["inputs"], generator=generator)
    return torch.randint(sizes["vocabulary"], (2, tokens), generator=generator)


def models() -> dict[str, aotsearch.Architecture]:
    """The models whose outputs are held: all that the studies here trained, and the small ones of what is shipped."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in STUDIES:
            study = aotsearch.load(write_study(name, Path(folder)))
            found |= {f"{name}/{a.name}": a.architecture for a in study.arms()}
    for path in shipped():
        architecture = aotsearch.load(path).reference
        if architecture.width <= 64:
            found[str(path.relative_to(ROOT))] = architecture
    return found


def merge(name: str, found: dict[str, Any]) -> None:
    """Put what was found anew into a file of the set; what is there stays."""
    path = HERE / f"{name}.json"
    path.write_text(json.dumps({**found, **json.loads(path.read_text())}, indent=1) + "\n")


def main(studies: list[str]) -> None:
    reports = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for study in studies:
            path = write_study(study, scratch)
            command("run", path.name, "--local", "--out", study, folder=scratch)
            reports[study] = report(scratch / study)
            (HERE / study).mkdir(exist_ok=True)
            for file in KEPT:
                shutil.copy(scratch / study / file, HERE / study / file)
    merge("reports", reports)
    merge("digests", digests())
    merge("outputs", {name: outputs(a) for name, a in models().items()})


if __name__ == "__main__":
    main(sys.argv[1:])
