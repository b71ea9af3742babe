from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aotsearch.errors import InputError
from aotsearch.tasks import images
from aotsearch.tasks.vision import Vision
from aotsearch.training.device import DeviceSettings
from aotsearch.training.evaluation import evaluate
from aotsearch.training.train import train

TRAINING = {"steps": 150, "batch": 64, "evaluations": 1, "learning_rate": 3e-2, "warmup": 0.1, "floor": 0.1, "clip": 1.0}
TRAINING |= {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95}


def colours(count: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Small colour images (N, 4, 4, 3) whose class is their brightest channel."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    pictures = rng.integers(0, 150, (count, 4, 4, 3))
    pictures[np.arange(count), :, :, labels] += 100
    return pictures.astype(np.uint8), labels


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    (x, y), (z, t) = colours(200), colours(50, seed=1)
    np.savez(tmp_path / "colours.npz", x_train=x, y_train=y, x_test=z, y_test=t[:, None])
    return tmp_path


def make(folder: Path, **options: Any) -> Vision:
    return Vision(folder, **{"data": {"arrays": "colours.npz"}, "image": 4, "channels": 3, "classes": 3, **options})


def test_digits_are_split_in_60_20_and_20_percent_with_all_classes_alike() -> None:
    task = Vision(Path())
    facts = task.prepare()
    assert facts["images"] == {"train": 1079, "validation": 359, "test": 359}
    for split in (task.validation(), task.test()):
        assert set(np.bincount(split[1]).tolist()) <= {35, 36, 37}
    assert facts["baselines"]["class frequencies"] == pytest.approx(np.log(10), abs=0.01)
    assert 0.2 < facts["baselines"]["nearest mean"] < 0.5
    wrong = Vision(Path(), measure="error").prepare()
    assert wrong["unit"] == "error rate" and 0.05 < wrong["baselines"]["nearest mean"] < 0.15 and wrong["manifest"] == facts["manifest"]


def test_training_images_are_normalised_and_every_epoch_meets_each_of_them_once() -> None:
    task = Vision(Path())
    x, y = task.batch(0, 0, 1079)
    assert abs(x.mean()) < 1e-4 and x.std() == pytest.approx(1, abs=1e-4)
    assert len({picture.tobytes() for picture in x}) == 1079
    again, labels = task.batch(0, 1, 1079)
    assert not np.array_equal(x, again) and np.array_equal(np.sort(y), np.sort(labels))
    pieces = [task.batch(0, step, 300)[0] for step in range(4)]  # the last runs over into the next epoch
    assert np.array_equal(np.concatenate(pieces), np.concatenate([x, again])[:1200])
    assert task.batch(0, 0, 3000)[0].shape == (3000, 1, 8, 8)


def test_flip_mirrors_half_of_the_training_images_and_nothing_else(arrays: Path) -> None:
    plain, flipped = make(arrays), make(arrays, flip=True)
    (x, y), (z, t) = plain.batch(0, 0, 100), flipped.batch(0, 0, 100)
    mirrored = [not np.array_equal(a, b) for a, b in zip(x, z, strict=True)]
    assert np.array_equal(y, t) and 25 < sum(mirrored) < 75
    assert np.array_equal(x[mirrored][..., ::-1], z[mirrored])
    assert np.array_equal(plain.validation()[0], flipped.validation()[0])


def test_arrays_are_read_whichever_axis_has_the_channels(arrays: Path) -> None:
    x, y = colours(200)
    task = make(arrays)
    assert task.prepare()["images"] == {"train": 179, "validation": 21, "test": 50}
    assert task.test()[0].shape == (50, 3, 4, 4)
    z, t = colours(50, seed=1)
    np.savez(arrays / "first.npz", x_train=x.transpose(0, 3, 1, 2), y_train=y, x_test=z.transpose(0, 3, 1, 2), y_test=t)
    assert make(arrays, data={"arrays": "first.npz"}).prepare()["manifest"] == task.prepare()["manifest"]
    grey = {"x_train": x[..., 0] / 255, "x_test": z[..., 0] / 255, "y_train": y, "y_test": t}
    np.savez(arrays / "grey.npz", **grey)
    found = make(arrays, data={"arrays": "grey.npz"}, channels=1).test()[0]
    assert found.shape == (50, 1, 4, 4) and found.dtype == np.float32


def test_channels_are_normalised_each_by_itself(arrays: Path) -> None:
    x, y = colours(200)
    scaled = x * [1.0, 100.0, 0.0] + [0, 7, 9]
    np.savez(arrays / "scaled.npz", x_train=scaled, y_train=y, x_test=scaled, y_test=y)
    batch, _ = make(arrays, data={"arrays": "scaled.npz"}).batch(0, 0, 179)
    np.testing.assert_allclose(batch.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(batch.std((0, 2, 3)), [1, 1, 0], atol=1e-4)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200))
def test_a_cut_is_stratified_and_loses_no_image(labels: list[int]) -> None:
    found = images.cut(np.array(labels), {"validation": 0.2, "test": 0.3})
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(len(labels)))
    for label in set(labels):
        count = labels.count(label)
        assert abs((np.array(labels)[found["validation"]] == label).sum() - 0.2 * count) <= 0.5
        assert abs((np.array(labels)[found["test"]] == label).sum() - 0.3 * count) <= 0.5


def test_the_nearest_mean_baseline_is_what_its_formula_says() -> None:
    x = np.array([0, 2, 10, 12], np.uint8).reshape(4, 1, 1, 1)
    y = np.array([0, 0, 1, 1])
    found = images.baselines((x, y), (np.array([3, 7], np.uint8).reshape(2, 1, 1, 1), np.array([0, 0])), 2)
    assert found["class frequencies"]["loss"] == pytest.approx(np.log(2)) and found["nearest mean"]["error"] == 0.5
    t = 1 * 2.0**-8  # the mean images are 1 and 11, and every training image is at distance 1 of its own
    assert found["nearest mean"]["loss"] == pytest.approx(((36 - 16) / t) / 2)


def test_moments_are_those_of_the_pixels() -> None:
    x = np.random.default_rng(0).integers(0, 256, (5000, 2, 3, 3)).astype(np.uint8)
    mean, std = images.moments(x)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)))
    np.testing.assert_allclose(std, x.std((0, 2, 3)))


def test_a_linear_model_learns_digits_and_both_measures_are_recorded() -> None:
    task = Vision(Path())
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    point = train(model, task, TRAINING, 0, DeviceSettings(1), lambda _: None)[-1]
    assert point["error"] < 0.08 and point["loss"] < task.prepare()["baselines"]["nearest mean"]
    assert point["accuracy"] == 1 - point["error"]
    x, y = task.test()
    right = (model(torch.from_numpy(x)).argmax(-1).numpy() == y).mean()
    assert evaluate(model, task, (x, y), "cpu")["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"data": "digits", "image": 16}, "digits have image 8, channels 1 and classes 10, not 16, 1, 10"),
        ({"data": {"array": "a"}}, r"data is digits, .* or \{hub: NAME\}"),
        ({"data": {}}, "data is digits"),
        ({"data": {"arrays": 3}}, "arrays takes a path"),
        ({"data": {"arrays": "~nobody-of-that-name/a"}}, "arrays takes a path"),
        ({"data": {"hub": {"nme": "x"}}}, "hub takes NAME or a mapping of config, image_column"),
        ({"data": {"hub": {"config": "x"}}}, "hub takes NAME"),
        ({"data": {"hub": {"name": 3}}}, "hub takes NAME"),
        ({"data": {"hub": "x"}, "channels": 2}, "channels 1 .* or 3"),
    ],
)
def test_a_source_that_is_none_of_the_forms_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Vision(Path(), **options)


def test_arrays_that_are_not_what_they_should_be_are_one_line(tmp_path: Path) -> None:
    (x, y), (z, t) = colours(60), colours(20, seed=1)
    good = {"x_train": x, "y_train": y, "x_test": z, "y_test": t}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"y_test": None}, "y_test is missing"),
        ({"x_test": z[:, :3]}, r"with image 4 and channels 3, but test is (20, 3, 4, 3)"),
        ({"y_train": y + 1}, "train has the label 3, but labels are 0 to classes - 1 = 2"),
        ({"y_train": y[:-1]}, "train has 60 images and needs as many whole numbers as labels, not int64 (59,)"),
        ({"y_train": y / 2}, "whole numbers as labels, not float64"),
        ({"x_train": x.astype(int)}, "images are uint8 or float arrays, not int64"),
        ({"x_train": x * np.nan}, "the train images hold values that are not finite"),
        ({"x_train": np.float64(1)}, "x_train has the shape ()"),
        ({"x_test": z[:0], "y_test": t[:0]}, "test holds no images"),
        ({"x_train": x[:2], "y_train": y[:2]}, "the validation split is empty"),
        ({"x_train": np.array([{}])}, "is not an .npz file of plain arrays"),
    ]
    for i, (change, words) in enumerate(cases):
        np.savez(tmp_path / f"{i}.npz", **{k: v for k, v in (good | change).items() if v is not None})
        with pytest.raises(InputError, match=re.escape(words)) as e:
            make(tmp_path, data={"arrays": f"{i}.npz"}).prepare()
        assert "\n" not in str(e.value)
    np.save(tmp_path / "x.npz.npy", x)
    (tmp_path / "text.npz").write_text("no zip file")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "0.npz").read_bytes()[:-300])
    for name in ("x.npz.npy", "text.npz", "broken.npz"):
        with pytest.raises(InputError, match=r"is not an \.npz file"):
            make(tmp_path, data={"arrays": name}).prepare()
    with pytest.raises(InputError, match=r"none\.npz: cannot be read: No such file"):
        make(tmp_path, data={"arrays": "none.npz"}).prepare()


# ---- the hub, by a stand-in


def dataset(count: int, column: str = "image", size: tuple[int, int] = (6, 4)) -> Any:
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    labels = [i % 3 for i in range(count)]
    pictures = [image.new("RGB", size, tuple(200 * (channel == label) + i % 5 for channel in range(3))) for i, label in enumerate(labels)]
    features = datasets.Features({column: datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    return datasets.Dataset.from_dict({column: pictures, "label": labels}, features=features)


def test_hub_images_are_cut_to_a_square_resized_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"train": dataset(60, "img"), "valid": dataset(21, "img")}
    asked = []

    def load(name: str, config: str | None, split: str) -> Any:
        asked.append((name, config, split))
        return rows[split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub = {"name": "a/b", "config": "small", "split_test": "valid", "image_column": "img"}
    task = Vision(tmp_path, data={"hub": hub}, image=2, channels=3, classes=3)
    assert task.prepare()["images"] == {"train": 54, "validation": 6, "test": 21}
    assert asked == [("a/b", "small", "train"), ("a/b", "small", "valid")]
    x, y = task.test()
    assert x.shape == (21, 3, 2, 2) and np.array_equal(x.mean((2, 3)).argmax(1), y) and y.tolist() == [i % 3 for i in range(21)]
    grey = Vision(tmp_path, data={"hub": hub}, image=8, channels=1, classes=3)
    assert grey.test()[0].shape == (21, 1, 8, 8)
    again = Vision(Path(), **task.to_plain()["vision"])
    monkeypatch.setattr(images, "_decoded", None)  # found in the cache
    assert again.prepare() == task.prepare()


def test_hub_data_that_is_not_what_it_should_be_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: dataset(30))

    def refused(words: str, **options: Any) -> None:
        with pytest.raises(InputError, match=words) as e:
            Vision(tmp_path, **{"data": {"hub": "a/c"}, "image": 2, "channels": 3, "classes": 3, **options}).prepare()
        assert "\n" not in str(e.value)

    refused("data hub a/c: no column 'img'; did you mean 'image'", data={"hub": {"name": "a/c", "image_column": "img"}})
    refused("the column 'label' holds int, not images", data={"hub": {"name": "a/c", "image_column": "label"}})
    refused("train has the label 2, but labels are 0 to classes - 1 = 1", classes=2)

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    refused(r"data hub a/c cannot be fetched .*use local arrays: data: \{arrays: FILE.npz\}")


def test_arrays_as_people_save_them_are_read_right_or_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, yt = np.arange(400) % 4, np.arange(80) % 4
    x, xt = (rng.integers(0, 256, (n, 8, 8)).astype(np.uint8) for n in (400, 80))
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "labels from 1": ({"y_train": y + 1, "y_test": yt + 1}, "train has the label 4, but labels are 0 to classes - 1 = 3; subtract 1$"),
        "labels as floats": ({"y_train": y.astype(float)}, r"whole numbers as labels, not float64 \(400,\); y.astype\(int\)"),
        "one-hot": ({"y_train": np.eye(4)[y]}, r"not float64 \(400, 4\); y.argmax\(1\)"),
        "wide pixels": ({"x_train": x.astype(np.int64)}, r"uint8 or float arrays, not int64; x.astype\('uint8'\)"),
        "not finite": ({"x_train": np.where(x == 3, np.nan, x)}, "the train images hold values that are not finite"),
        "two types": ({"x_train": (x / 255).astype(np.float32)}, "one scale, not train float32 up to 1, test uint8 up to 255; save both"),
        "two scales": ({"x_train": x / 255.0, "x_test": xt * 1.0}, "one scale, not train float32 up to 1, test float32 up to 255"),
        "flat": ({"x_train": x.reshape(400, 64)}, r"but train is \(400, 64\)"),
        "colour": ({"x_train": np.repeat(x[..., None], 3, -1)}, r"but train is \(400, 8, 8, 3\)"),
        "an unseen class": ({"y_train": np.where(y == 1, 0, y)}, "test has the label 1, which no training image has"),
        "one class": ({"y_train": y * 0, "y_test": yt * 0}, "every training image has the label 0, so there is nothing to learn"),
    }
    for name, (changed, words) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **({"x_train": x, "y_train": y, "x_test": xt, "y_test": yt} | changed))
        with pytest.raises(InputError, match=words) as e:
            Vision(tmp_path, data={"arrays": f"{name}.npz"}, image=8, channels=1, classes=4).prepare()
        assert "\n" not in str(e.value)
