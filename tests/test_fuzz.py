"""A short form of the fuzzing in fuzz.py; the long form is `python tests/fuzz.py --inputs 20000`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import fuzz


def test_four_hundred_hostile_and_mutated_files_are_accepted_or_refused_in_words(tmp_path: Path) -> None:
    hang = 5 * fuzz.LIMIT  # the long form measures on a quiet machine; here another job may have the processor
    figures, violations = fuzz.campaign(400, seed=1, folder=tmp_path, limit=hang)
    assert not violations, violations[0]
    assert figures.accepted > 30
