"""A study and a run folder that exists -> whether and how it goes on there."""

from __future__ import annotations

import dataclasses

from aotsearch import yamlfile
from aotsearch.errors import AotsearchError, InputError, RunError
from aotsearch.evidence.declaration import COPY, STUDY_FILE, History, Replaced, differences, event, history
from aotsearch.evidence.ledger import Ledger
from aotsearch.files import written
from aotsearch.running.journal import Journal, unfinished
from aotsearch.running.status import planned
from aotsearch.study.study import Study


def former(ledger: Ledger, study: Study) -> History | None:
    """What a run folder declared before this start; None where it is a new one, or one in which nothing was declared and nothing ended.

    Raises:
        InputError: it belongs to another task, training, reference or data: other settings need another folder.
    """
    folder, records, lost = ledger.folder, ledger.records().values(), ledger.last("data") is None
    if ledger.last("declared") is None and (lost or not records):
        return None
    try:
        found = history(ledger)
    except Replaced:
        raise
    except AotsearchError as e:
        raise InputError(f"{folder} holds a study this version cannot read ({e}); choose another --out") from None
    if lost:  # its line is damaged; what the trials were trained on, they say themselves
        trained_on = {known for r in records if (known := (r.get("environment") or {}).get("data"))}
        same = all(study.manifest.startswith(known) for known in trained_on)
        found = dataclasses.replace(found, manifest=study.manifest if same else min(trained_on))
    old = found.study
    if not old.manifest:  # the line that told it is lost
        old = dataclasses.replace(old, manifest=study.manifest)
    changed = differences(old.plain, study.plain)
    if old.digest != study.digest and (old.manifest == study.manifest or old.training() != study.training()):
        raise InputError(f"{folder} holds results of other settings ({changed}); choose another --out, or restore them")
    if old.manifest != study.manifest:
        said = f"; {changed}" if changed else ""
        raise InputError(f"{folder} holds results on other data (its manifest hash differs{said}); choose another --out")
    if old.reference != study.reference:
        raise InputError(f"{folder} holds results of another reference ({changed}); choose another --out")
    return found


def anything_left(ledger: Ledger, study: Study, before: History | None, retry_failed: bool) -> bool:
    """Whether this start will train, as far as it is known before it: open verdicts may ask for more."""
    if before is None:
        return True
    records = before.place(ledger.records().values())
    return planned(ledger, study, records) > len(records) or (retry_failed and any(map(unfinished, records)))


def declare(journal: Journal, study: Study, before: History | None) -> History:
    """Keep the declaration, and each that changes it, with how much had been seen by then."""
    ledger, records = journal.ledger, journal.records.values()
    if records and before is not None and not before.last.arms:  # an older version kept none
        journal.append("declared", **event(before.study, before.study.arms(), ()))
    last, fresh = ledger.last("declared"), event(study, study.arms(), records)
    if before is not None and last is not None and all(last[name] == fresh[name] for name in ("study", "arms")):
        return dataclasses.replace(before, edited="")  # the copy was written since
    if last is None or any(last[name] != fresh[name] for name in ("study", "arms")):
        journal.append("declared", **fresh)
    return history(ledger)


def further_measures(study: Study, before: History | None, ended: int) -> list[str]:
    """A note where more is asked for now than was when the trials so far were trained."""
    if not ended or before is None:
        return []
    old, new = before.study.settings, study.settings
    further = [name for name in new.measured if name not in old.measured] + ["knock_out"] * (new.knock_out and not old.knock_out)
    return [f"{', '.join(further)}: measured of trials from here on; the {ended} that have ended are not trained again"] * bool(further)


def write_study(study: Study, ledger: Ledger) -> None:
    """The resolved study, whole or not at all; it names its ledger, where that has a name.

    Raises:
        RunError: the folder cannot be written.
    """
    head = COPY.format(ledger.id) if ledger.id else ""
    path, text = ledger.folder / STUDY_FILE, (head + yamlfile.dump(dict(study.plain))).encode()
    try:
        if path.is_file() and path.read_bytes() == text:
            return
        with written(path) as made:
            made.write_bytes(text)
    except OSError as e:
        raise RunError(f"{path} cannot be written: {e.strerror}") from None
