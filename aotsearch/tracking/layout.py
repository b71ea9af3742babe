"""How MLflow's pages of an experiment are laid out: columns, groups and charts, as the UI itself keeps a view that is shared.

The UI reads such a view from a tag of the experiment, `mlflow.sharedViewState.KEY`, where its address names KEY. Nothing else of its
layout can be set from outside: it is kept in each reader's browser. Text only, no mlflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aotsearch.study.study import Study
from aotsearch.tracking.wording import COST, key_of

TAG = "mlflow.sharedViewState."
ARMS, FACTORS = "arms", "factors"  # the views: trials grouped by arm; every trial as a line through its factors
AXES = 12  # of parallel coordinates, more cannot be read
NAME, DATE = "attributes.`Run Name`", "runDateAndNestInfo"  # the first columns
CHARTS = "&compareRunsMode=CHART"
RUNS = 1000  # that a chart shows at most

State = dict[str, Any]


def views(study: Study, factors: Mapping[str, str], parent: Iterable[str] = ()) -> dict[str, str]:
    """Tag -> value: the views of an experiment.

    Args:
        factors: Decision -> its param.
        parent: Metrics that only the parent run has, which are not drawn.
    """
    measure = key_of(study.task.measure)
    varied = varied_factors(study, factors)
    # in another order than this, or that of a search, the UI folds the trials below their parent run; groups are sorted by their mean
    order = {"orderByKey": f"metrics.`final/{measure}`", "orderByAsc": True}
    made = {ARMS: _arms(study, measure, varied, parent), FACTORS: _factors(study, measure, varied, parent)}
    return {f"{TAG}{key}": json.dumps(_SHARED | order | state, separators=(",", ":")) for key, state in made.items()}


def varied_factors(study: Study, factors: Mapping[str, str]) -> list[str]:
    """The params of what differs between arms; of a search, which has no arms yet, of all that may."""
    arms = _arms_decisions(study)
    differs = {a for a in factors if len({json.dumps(arm.get(a), default=str) for arm in arms}) > 1} if len(arms) > 1 else {*factors}
    return [param for address, param in factors.items() if address in differs]


def mixed_factors(study: Study) -> set[str]:
    """Decisions that are numbers in some trials and words, or not there, in others: in such a column the UI drops what is no number."""
    arms = _arms_decisions(study)
    found = set()
    for address, decision in study.space.decisions().items():
        numbers = {_number(value) for value in (*(decision.values or ()), *(arm.get(address) for arm in arms))}
        if len(numbers) > 1:
            found.add(address)
    return found


def spelled(value: Any) -> Any:
    """A value of a mixed factor, so that no column holds both numbers and words."""
    return f"={value}" if _number(value) else value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arms_decisions(study: Study) -> list[Mapping[str, Any]]:
    return [arm.architecture.decisions for arm in study.base_design.arms]


def pages(experiment: str) -> dict[str, str]:
    """The views by what they show, the first to be opened first: their addresses below that of the UI."""
    shown = {"runs by arm": (ARMS, ""), "curves by arm": (ARMS, CHARTS), "factors": (FACTORS, CHARTS)}
    # without the last part the UI opens on its pages for agents
    return {
        name: f"#/experiments/{experiment}/runs?viewStateShareKey={view}{mode}&workflowType=machine_learning"
        for name, (view, mode) in shown.items()
    }


def _arms(study: Study, measure: str, varied: Sequence[str], parent: Iterable[str]) -> State:
    """The table with a fold for each arm, which shows means over its seeds, and the arms' mean curves before all other charts."""
    s = study.settings
    keys = [("param", "arm")] + [("param", "equalise")] * (len(s.modes) > 1) + [("tag", "aot.rate")] * (s.tuning is not None)
    keys += [("tag", "aot.verdict")]
    arm, seed, verdict, final = "params.`arm`", "params.`seed`", "tags.`aot.verdict`", f"metrics.`final/{measure}`"
    columns = [arm, seed, final, "metrics.`final/difference`", verdict, "metrics.`parameters`", *_columns(varied)]
    return {
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": mode, "groupByData": key} for mode, key in keys]},
        "selectedColumns": columns,
        "columnOrder": [NAME, DATE, *columns],
        "columnWidths": {NAME: 400, DATE: 120, arm: 170, seed: 60, final: 150, "metrics.`final/difference`": 150, verdict: 100},
        "compareRunSections": _sections(shown=True),
        "compareRunCharts": _charts(measure, parent),
    }


def _factors(study: Study, measure: str, varied: Sequence[str], parent: Iterable[str]) -> State:
    """Parallel coordinates: the UI draws factors in words only of single runs, so nothing is grouped here."""
    columns = ["tags.`aot.verdict`", f"metrics.`final/{measure}`", *_columns(varied)]
    lines = _chart("PARALLEL", "", "factors") | {"displayName": "A line for each trial, through its factors to its measure"}
    lines |= {"selectedParams": list(varied[:AXES]), "selectedMetrics": [f"final/{measure}"], "showAllRuns": True, "isGenerated": False}
    wide = _section("factors", "Factors and measure") | {"columns": 1, "cardHeight": 560}
    return {
        "groupBy": None,
        "selectedColumns": columns,
        "columnOrder": [NAME, DATE, *columns],
        "columnWidths": {NAME: 300},
        "compareRunSections": [wide, *_sections(shown=False)],
        "compareRunCharts": [lines, *_charts(measure, parent)],
    }


def _columns(params: Sequence[str]) -> list[str]:
    return [f"params.`{param}`" for param in params[:AXES]]


def _sections(shown: bool) -> list[State]:
    return [_section("curves", "Curves by arm", shown), _section("finals", "final", shown), _section("cost", "Cost", shown=False)]


def _charts(measure: str, parent: Iterable[str]) -> list[State]:
    """Charts of what every trial has; the UI adds those of other metrics after them."""
    curves = dict.fromkeys((f"validation/{measure}", "validation/loss", "train/loss"))
    finals = dict.fromkeys((f"final/{measure}", "final/difference", "final/loss"))
    charts = [_chart("LINE", key, "curves") for key in curves] + [_chart("BAR", key, "finals") for key in finals]
    charts += [_chart("BAR", key, "cost") for key in (*COST, "tokens_per_second")]
    return charts + [_chart("BAR", key, "cost") | {"deleted": True} for key in parent]


_SHARED: State = {
    "runsHiddenMode": "SHOW_ALL",  # else charts are of the ten newest runs
    "hideEmptyCharts": True,
    "isAccordionReordered": True,  # else sections are sorted by name
    "useGroupedValuesInCharts": True,
}


def _section(key: str, name: str, shown: bool = True) -> State:
    return {"uuid": key, "name": name, "display": shown, "isReordered": True, "columns": 2}


def _chart(kind: str, metric: str, section: str) -> State:
    """A chart as the UI would make it, which then makes no other of that metric."""
    line: State = {"selectedMetricKeys": [metric], "xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "range": {}}
    line |= {"lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "yAxisKey": "metric", "yAxisExpressions": []}
    return {
        "type": kind,
        "uuid": f"{section} {metric}",
        "metricSectionId": section,
        "metricKey": metric,
        "displayName": metric,
        "runsCountToCompare": RUNS,
        "isGenerated": True,
        "deleted": False,
        **(line if kind == "LINE" else {}),
    }
