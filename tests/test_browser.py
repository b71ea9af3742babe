"""What a reader sees who opens `aotsearch ui`: the pages of MLflow, in a real browser."""

from __future__ import annotations

import contextlib
import html
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_tracking import ARMS, Tracker, analysis, contrast, fill, load, record

pytest.importorskip("mlflow")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the pages with")
QUIET = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync".split()
WORDS = {"positions=rope": "better", "channel=mlp(expand=4)": "worse", "attention minus I": "undecided"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of a UI that serves a small run, started as a user starts it."""
    from conftest import STUDY

    folder = tmp_path_factory.mktemp("seen")
    run = folder / "run"
    fill(run, [record(arm, seed) for arm in ARMS for seed in (0, 1)])
    study = run / "study.yaml"
    study.write_text(STUDY.replace("corpus.txt", str(folder / "corpus.txt")))
    (folder / "corpus.txt").write_text("a b c\n" * 4000)
    tracker = Tracker(run, load(study), "")
    tracker.publish(analysis(*(contrast(arm, verdict=word) for arm, word in WORDS.items())), "", [], study)
    tracker.close()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    from aotsearch.tracking.view import ENVIRONMENT, ui_addresses, ui_command

    server = subprocess.Popen(
        ui_command(run, port), env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            break
    yield ui_addresses(run, port)
    os.killpg(server.pid, 15)
    _, said = server.communicate(timeout=30)
    assert b"GET /" not in said and len(said) < 300, "server logs do not fill the terminal"


@pytest.fixture
def seen(tmp_path: Path) -> Callable[[str], str]:
    """The words of the page at an address, as the browser has it after its scripts ran."""

    def look(address: str) -> str:
        options = [f"--{word}" for word in ("headless", *QUIET, "dump-dom", "virtual-time-budget=20000", "window-size=1800,1400")]
        command = [str(CHROMIUM), *options, f"--user-data-dir={tmp_path}", address]
        page = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False).stdout
        return " ".join(html.unescape(re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)).split())

    return look


def test_the_first_page_shows_each_arm_with_its_verdict_and_its_trials(site: dict[str, str], seen: Callable[[str], str]) -> None:
    page = seen(site["MLflow"])
    for arm, word in WORDS.items():
        assert f"arm: {arm}, aot.verdict: {word}" in page
        assert f"{arm} seed 0" in page, "trials are not folded away"
    for column in ("seed", "final/bits_per_byte", "final/difference", "aot.verdict"):
        assert column in page
    assert "Model training" in page


def test_charts_begin_with_curves_by_arm(site: dict[str, str], seen: Callable[[str], str]) -> None:
    page = seen(site["curves by arm"])
    assert 0 < page.index("Curves by arm") < page.index("Cost")
    assert "noise_floor" not in page, "it would be a chart of one bar"


def test_factors_are_parallel_coordinates_of_every_trial(site: dict[str, str], seen: Callable[[str], str]) -> None:
    page = seen(site["factors"])
    assert "Factors and measure (1)" in page
    assert "positions=rope seed 1" in page
