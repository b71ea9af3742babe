"""What the workers of a cluster are given, which may lack it: our code, the packages with words, and the variables that a worker reads.

Ray carries all of it (its runtime environment); what those packages import besides themselves has to be installed there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aotsearch.grammar.library import GROUPS

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in which `ray job submit` tells of the environment that it has made
CACHE = "AOTSEARCH_CACHE"


def workers_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """The runtime environment of a run on a cluster; what the job that it is part of has settled stays as it is.

    Args:
        variables: That each worker is to have.
    """
    variables = {**variables, **({CACHE: str(Path(os.environ[CACHE]).expanduser().resolve())} if os.environ.get(CACHE) else {})}
    made: dict[str, Any] = {"py_modules": [str(Path(__file__).parents[1]), *sorted(_packages())], "excludes": ["__pycache__"]}
    of_job = (json.loads(os.environ.get(JOB) or "{}").get("runtime_env")) or {}
    made = {name: value for name, value in made.items() if name not in of_job}
    return made | {"env_vars": {name: value for name, value in variables.items() if name not in of_job.get("env_vars", {})}}


def _packages() -> set[str]:
    """The packages with words, and their metadata, by which they are found: folders, or files of one module."""
    found: set[str] = set()
    for entry in (e for group in GROUPS for e in importlib.metadata.entry_points(group=group)):
        metadata = Path(getattr(entry.dist, "_path", ""))
        spec = importlib.util.find_spec(entry.module.partition(".")[0])
        if spec is None or spec.origin is None or not entry.dist or not metadata.is_dir():
            continue
        found |= {str(metadata), str(Path(spec.origin).parent) if spec.submodule_search_locations else spec.origin}
    return found
