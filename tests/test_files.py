"""A file is there whole, or as it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aotsearch.files import written


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file"
    for text in ("first", "second"):
        with written(path) as beside:
            beside.write_text(text)
            assert path.exists() == (text == "second")
        assert path.read_text() == text and list(path.parent.iterdir()) == [path]


def test_a_file_that_fails_leaves_the_one_before_it_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), written(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_another_name_of_the_same_file_is_not_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("same")
    with written(path) as beside:
        os.link(path, beside)
    assert list(tmp_path.iterdir()) == [path]
