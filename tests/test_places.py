"""What the best models of a search over layers have at each place."""

from __future__ import annotations

import random

from aotsearch import yamlfile
from aotsearch.evidence.places import FEWEST, by_place
from aotsearch.evidence.tables import Record
from aotsearch.grammar.architecture import Architecture
from aotsearch.report.figures import places, to_svg
from aotsearch.study.study import Study

GRAMMAR = """
name: layers
task: {denoise: {subspaces: 2, dimension: 8, tokens: 16, sets: 2}}
grammar:
  model: {width: 16, norm: {any: [layernorm, rmsnorm]}, blocks: {each: 3, of: layer}}
  layer: [{attention: {heads: 2}}, channel]
  channel: {any: [{mlp: {expand: {any: [2, 4]}}}, none]}
study: {design: search, search: {trials: 12}, margin: 0.05}
"""
STUDY = Study.from_dict(yamlfile.parse(GRAMMAR, "layers").plain())


def tried(number: int) -> list[tuple[Record, Architecture]]:
    """So many architectures, of which those are best that have an MLP in the first layer and none in the last."""
    found = random.Random(0).sample(list(STUDY.space.enumerate()), number)

    def loss(a: Architecture) -> float:
        first, last = (a.decisions[f"model.blocks.{n}.channel"] for n in (0, 2))
        return (first == "none") + 10 * (last == "mlp") + a.decisions.get("model.blocks.0.channel.mlp.expand", 2) / 100

    return [({"outcome": "done", "measures": {"log_noise": loss(a)}}, a) for a in found]


def test_it_says_where_the_best_have_what_beside_what_all_have() -> None:
    channel, expand = by_place(tried(54), STUDY)  # all there are: of 14 that are best 12 have an MLP in the first layer, none in the last
    assert (channel.name, channel.values, channel.trials) == ("channel", ("mlp", "none"), 54)
    mlp, none = channel.best
    assert (mlp[0], none[2], mlp[2], none[0]) == (12 / 14, 1, 0, 2 / 14) and 0 < (mlp[1] or 0) < 1
    assert channel.all[0] == (2 / 3,) * 3
    assert all(abs((a or 0) + (b or 0) - 1) < 1e-12 for a, b in zip(mlp, none, strict=True))
    assert expand.name == "channel.mlp.expand" and expand.best[0][2] is None, "where no best model has an MLP nothing is said of its width"


def test_of_few_trials_nothing_is_said_and_of_decisions_made_once_neither() -> None:
    assert by_place(tried(FEWEST - 1), STUDY) == []
    assert "norm" not in {p.name for p in by_place(tried(20), STUDY)}


def test_the_picture_has_a_field_for_each_alternative_at_each_layer() -> None:
    figure = places(by_place(tried(48), STUDY))
    assert figure is not None and places([]) is None
    text = to_svg(figure)
    assert "100% vs" in text and "channel.mlp.expand" in text
