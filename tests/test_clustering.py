"""The clustering task: sets of images as tokens, how they are scored, and what an untrained block makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar.space import Space
from aotsearch.models.model import build
from aotsearch.tasks.cluster import Cluster, scores

GRAMMAR = """
model:
  {width: 48, embedding: {projection: {radius: 0.4}}, norm: {sphere: {radius: 0.4}}, place: post, final_norm: none, positions: none,
  head: none, initialisation: identity, join: {step: {size: 0.8}}, blocks: {repeat: 3, of: BLOCK, tied: true}}
"""
ATTENTION = "{attention: {heads: 1, qkv: tied, output: identity, scale: 187.5, mask_self: true, identity: SIGN}}"


def outputs(block: str, pixels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    task = Cluster(Path())
    space = Space.parse(yamlfile.parse(GRAMMAR.replace("BLOCK", block), "f"), task.sizes)
    with torch.no_grad():
        made: torch.Tensor = build(space.reference, seed)(pixels)
    return made


def test_tokens_that_lie_by_class_are_pure_and_others_are_as_chance_has_it() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    apart = np.eye(5)[labels] + 0.01 * rng.standard_normal((200, 5))
    assert scores(apart, labels, 10) == pytest.approx({"impurity": 0, "nmi_gap": 0, "ari_gap": 0}, abs=1e-12)
    noise = scores(rng.standard_normal((200, 5)), labels, 10)
    assert noise["impurity"] == pytest.approx(1 - 39 / 199, abs=0.03) and noise["nmi_gap"] > 0.9 and noise["ari_gap"] > 0.95


def test_scores_know_no_scale_and_tokens_that_are_none_have_none() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), 20)
    tokens = rng.standard_normal((60, 4)) + 2 * np.eye(4)[labels]
    assert scores(1e200 * tokens, labels, 5) == pytest.approx(scores(tokens, labels, 5))
    tokens[3, 1] = np.nan
    assert all(np.isnan(v) for v in scores(tokens, labels, 5).values())


def test_tokens_that_have_become_one_point_are_as_impure_as_the_draw() -> None:
    _, labels = Cluster(Path()).validation()
    found = scores(np.ones((300, 4)), labels[0], 10)
    assert found["impurity"] == pytest.approx(0.9, abs=0.05) and found["nmi_gap"] == pytest.approx(1)


def test_a_set_has_as_many_images_of_every_class_in_an_order_that_says_nothing() -> None:
    task = Cluster(Path(), images=100, sets=3)
    for pixels, labels in (task.validation(4), task.test(4), task.batch(4, 0, 2)):
        assert pixels.shape == (len(labels), 100, 64)
        for own in labels:
            assert np.array_equal(np.bincount(own), [10] * 10) and not np.array_equal(own, np.sort(own))
    assert not np.array_equal(task.validation(4)[0], task.validation(5)[0])
    images = [
        {image.tobytes() for image in split.reshape(-1, 64)} for split in (task.validation()[0], task.test()[0], task.batch(0, 0, 9)[0])
    ]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_what_needs_no_model_is_told_under_the_measure_of_the_study() -> None:
    impurity, gap = (Cluster(Path(), measure=measure).prepare() for measure in ("impurity", "nmi_gap"))
    assert impurity["baselines"].keys() == gap["baselines"].keys() == {"pixels", "PCA", "Laplacian eigenmaps"}
    assert impurity["baselines"]["Laplacian eigenmaps"] < impurity["baselines"]["PCA"] < 0.25
    assert gap["baselines"] != impurity["baselines"] and impurity["unit"] == "impurity" and gap["unit"] == "1 - NMI"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 55}, "multiple of classes"),
        ({"images": 10}, "at least two of each"),
        ({"images": 20, "neighbours": 20}, "no 20 neighbours"),
        ({"data": "mnist"}, "unknown data"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(Path(), **options)  # type: ignore[arg-type]


def test_a_set_larger_than_a_split_is_an_error_that_says_the_most() -> None:
    with pytest.raises(InputError, match=r"a set has 60 images of each class, but the train split has 34 of class 8; images: 340"):
        Cluster(Path(), images=600).prepare()


def test_the_first_steps_of_an_untrained_block_bring_classes_together() -> None:
    task = Cluster(Path())
    pixels, labels = (torch.from_numpy(a) for a in task.validation(3))
    before = task.totals(outputs("{attention: {heads: 1, map: 0, identity: 1, qkv: tied, output: identity}}", pixels), labels)
    for sign in ("0", "-1"):
        after = task.totals(outputs(ATTENTION.replace("SIGN", sign), pixels), labels)
        assert after["impurity"][0] < before["impurity"][0] and after["nmi_gap"][0] < before["nmi_gap"][0]


def test_the_authors_second_sublayer_does_not_subtract_the_identity() -> None:
    pixels = torch.from_numpy(Cluster(Path()).validation()[0])
    plain, minus = (outputs(ATTENTION.replace("SIGN", sign), pixels) for sign in ("0", "-1"))
    author = outputs(f"[{ATTENTION.replace('SIGN', '0')}, {{linear: {{join: {{step: {{size: -0.8}}}}}}}}]", pixels)
    torch.testing.assert_close(author, plain, rtol=1e-4, atol=1e-5)
    assert (minus - plain).norm() > 0.1 * plain.norm()


def test_tokens_of_a_projection_keep_mean_0_through_attention_so_that_the_sphere_is_layernorm() -> None:
    pixels = torch.from_numpy(Cluster(Path()).validation()[0])
    made = outputs(ATTENTION.replace("SIGN", "-1"), pixels)
    assert made.mean(-1).abs().max() < 1e-6
    torch.testing.assert_close(made.norm(dim=-1), torch.full(made.shape[:2], 0.4))
