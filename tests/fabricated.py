"""Run folders of made-up trials: records as trials write them, with numbers of our choice, so that reports need no training."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from aotsearch.diagnostics.catalogue import catalogue
from aotsearch.evidence.ledger import Ledger
from aotsearch.study.design import REFERENCE
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.training import trial

TEXT = """
name: everything
question: Which <parts> of a small & made-up model are needed?
task: {language: {data: python-stdlib, context: 16}}
grammar:
  model: {width: 16, depth: 2, positions: positions, norm: norm, block: [{attention: {heads: heads, qkv: qkv}}, channel]}
  channel: {any: [{mlp: {expand: 2}}, none]}
  norm: {any: [layernorm, rmsnorm, none]}
  heads: {any: [4, 1]}
  qkv: {any: [free, tied]}
  positions: {any: [learned, rope]}
study: {STUDY}
"""
EVERYTHING = (
    "seeds: 4, margin: 0.05, equalise: [none, parameters], tolerance: 0.2, knock_out: true, "
    "learning_rate: {tune: [3e-3, 6e-3, 1.2e-2]}, arms: {plain_100%: {channel: none, norm: none}}"
)
EFFECTS = {"channel=none": 0.35, "norm=rmsnorm": 0.001, "norm=none": 0.04, "heads=1": 0.02, "qkv=tied": 0.09, "positions=rope": -0.08}
MEASURED = ("hidden-rms", "token-cosine", "attention-entropy")  # of the stream, and of mixers with attention alone


def effect(arm: str, equal: bool, own: bool) -> float:
    """Additive, but for no norm without a channel operation, which is worth less at equal size; all is worth less at an own rate."""
    parts = arm.split("@")[0].split(",")
    total = sum(EFFECTS.get(part, 0.3) for part in parts) + 0.12 * ({"channel=none", "norm=none"} <= set(parts))
    return total * (0.2 if equal and "channel=none" in parts else 1) * (0.1 if own else 1)


class Run:
    """A run folder that is filled trial by trial."""

    def __init__(self, folder: Path, settings: str = EVERYTHING, text: str = TEXT):
        folder.mkdir(parents=True)
        (folder / "study.yaml").write_text(text.replace("STUDY", settings))
        self.folder, self.ledger, self.count = folder, Ledger(folder), 0
        self.study: Study = load(folder / "study.yaml")
        versions, machine = {"aotsearch": "0.1.0", "torch": "2.13.0"}, {"host": "h", "cpus": 2, "platform": "Linux"}
        self.ledger.append(
            "run",
            command="aotsearch run made.yaml",
            started="2026-01-01T00:00:00+00:00",
            versions=versions,
            machine=machine,
            executor="local",
        )
        sizes = {"train": 4000, "validation": 300, "test": 300}
        self.ledger.append("data", manifest="cf06", documents=3, bytes=sizes, baselines={"unigram": 4.7, "bigram": 3.6}, unit="bits/byte")

    def finish(self, plan: dict[str, Any], loss: float, outcome: str = "done", **more: Any) -> None:
        steps, noise = plan["training"]["steps"], random.Random(plan["key"])
        curve = [{"step": steps * k // 10, "train_loss": loss + 2 * math.exp(-k / 2) + noise.gauss(0, 0.02)} for k in range(1, 11)]
        curve[-1] |= {"bits_per_byte": loss, "loss": loss * 0.7}
        curve = {"done": curve, "diverged": curve[:3]}.get(outcome, [])
        self.count += 1
        facts = {"message": "" if outcome == "done" else f"{outcome} </td><script>", "traceback": "", "seconds": 1.5, "device": "cpu"}
        facts |= {
            "precision": "float32",
            "threads": 1,
            "host": "h",
            "finished": f"2026-01-01T{self.count // 60:02d}:{self.count % 60:02d}:00+00:00",
        }
        self.ledger.append("finished", **trial.record(plan, outcome, curve) | facts | (more if outcome == "done" else {}))

    def tune(self) -> dict[str, float]:
        """Every arm likes the middle rate, but tied heads the highest, at the end of the list; returns each arm's own."""
        tuning = self.study.settings.tuning
        assert tuning is not None
        arms, rates = self.study.arms(), tuning.tune
        own = {a.name: rates[-1] if "qkv=tied" in a.name else rates[1] for a in arms}
        for plan in trial.plans(self.study, [(a, 20_000, rate) for a in arms for rate in rates], "tune"):
            gap = abs(math.log(plan["training"]["learning_rate"] / own[plan["arm"]]))
            fails = "norm=none" in plan["arm"] and plan["training"]["learning_rate"] == rates[-1]
            self.finish(plan, 3.0 + effect(plan["arm"], False, False) + gap / 20, "diverged" if fails else "done")
        return own

    def train(self, seeds: int | None = None, broken: bool = True) -> None:
        """All arms of the design under the first seeds; some trials of three arms end badly."""
        arms, settings = self.study.arms(), self.study.settings
        own = self.tune() if settings.tuning else {}
        cells = [
            (a, seed, rate)
            for seed in settings.first_seeds[:seeds]
            for a in arms
            for rate in dict.fromkeys((own.get(REFERENCE), own.get(a.name)))
        ]
        for plan in trial.plans(self.study, cells, "design"):
            self._trial(plan, own, broken)

    def _trial(self, plan: dict[str, Any], own: dict[str, float], broken: bool) -> None:
        arm, seed = plan["arm"], plan["seed"]
        noise = random.Random(plan["key"])
        tuned = bool(own) and plan["training"]["learning_rate"] != own[REFERENCE]
        loss = 3.0 + seed / 32
        if arm != REFERENCE:
            loss += effect(arm, plan["equalise"] != "none", tuned) + noise.gauss(0, 0.004)
        bad = {("norm=none", 1): "diverged", ("heads=1", 2): "out-of-memory", ("norm=rmsnorm", 3): "failed"} if broken else {}
        more: dict[str, Any] = {"test": {"bits_per_byte": loss + 0.03, "loss": 2.0}, "diagnostics": self._diagnostics(plan, noise)}
        if plan["knock_out"]:
            more["knock_out"] = self._knock_out(plan, loss, noise)
        self.finish(plan, loss, bad.get((arm, seed), "done"), **more)

    def _diagnostics(self, plan: dict[str, Any], noise: random.Random) -> dict[str, list[float | None]]:
        """They rise with depth, more so with tied heads."""
        sublayers, found = plan["architecture"]["sublayers"], {}
        for name in MEASURED:
            depth = len(sublayers) + catalogue()[name].per_point
            values = [1 + i / depth * (2 if "qkv=tied" in plan["arm"] else 1) + noise.gauss(0, 0.004) for i in range(depth)]
            has = [catalogue()[name].kind != "map" or "attention" in str(sublayers[i]) for i in range(depth)]
            found[name] = [v if there else None for v, there in zip(values, has, strict=True)]
        return found

    def _knock_out(self, plan: dict[str, Any], loss: float, noise: random.Random) -> list[dict[str, Any]]:
        words = [
            next(iter(s["operation"])) if isinstance(s["operation"], dict) else s["operation"] for s in plan["architecture"]["sublayers"]
        ]
        parts = [(f"{word}_{i}", [i]) for i, word in enumerate(words)]
        parts += [
            ("mixers", [i for i, w in enumerate(words) if w == "attention"]),
            ("channels", [i for i, w in enumerate(words) if w == "mlp"]),
        ]
        rows = []
        for part, places in parts:
            for way, size in (("zero", 1.0), ("mean", 0.7), ("identity", 1.6)):
                increase = size * len(places) + noise.gauss(0, 0.05)
                rows.append({"part": part, "sublayers": places, "way": way, "loss": loss + increase, "increase": increase})
        return rows
