"""Tables -> pictures; the only package that imports matplotlib.

forest(analysis), curves(material), ... -> Figure;  to_svg(figure) -> str, to_png(figure) -> bytes, to_pdf(figure) -> bytes;
pictures(material) -> all of them
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from aotsearch.evidence.layers import Knocked, Profile
from aotsearch.evidence.places import by_place
from aotsearch.evidence.tables import searched
from aotsearch.report.data import Material
from aotsearch.report.figures.canvas import to_pdf, to_png, to_svg
from aotsearch.report.figures.depth import depths
from aotsearch.report.figures.effects import forest, interactions, knock_outs
from aotsearch.report.figures.learning import curves
from aotsearch.report.figures.places import places
from aotsearch.report.figures.size import front

__all__ = [
    "SAYS", "Figure", "curves", "depths", "forest", "front", "interactions", "knock_outs", "pictures", "places", "to_pdf",
    "to_png", "to_svg",
]  # fmt: skip

SAYS = {  # what each picture shows, for those who do not see it
    "forest": "Difference of each change to what it is compared with, with its interval and verdict",
    "interactions": "Means of the four models of each pair of changes",
    "curves": "Learning curves of each arm over the reference",
    "loss-against-parameters": "Quality of each arm against its parameters",
    "loss-against-flops": "Quality of each arm against its FLOPs per token",
    "diagnostics": "Diagnostics along the depth of the models",
    "places": "What the best models of the search have at each layer",
    "knock-out": "Increase of the loss when a part is switched off after training",
}


def pictures(m: Material, profiles: Sequence[Profile], knocked: Sequence[Knocked]) -> dict[str, Figure]:
    """Every picture that there is something to show in, by name, in the order of the report."""
    found = {
        "forest": forest(m.analysis, m.distinct),
        "interactions": interactions(m),
        "places": places(by_place(searched(m.records, m.study), m.study)) if m.search else None,
        "curves": curves(m),
        "loss-against-parameters": front(m, "parameters"),
        "loss-against-flops": front(m, "flops_per_token"),
        "diagnostics": depths(profiles),
        "knock-out": knock_outs(knocked, m.analysis),
    }
    return {name: figure for name, figure in found.items() if figure is not None}
