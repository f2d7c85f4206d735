"""Histograms as inline SVG. Colors are CSS variables of the page, so that charts follow its light, dark and print styles."""

import re
from collections.abc import Mapping
from typing import Any

from labeling.statistics import Histogram

_WIDTH, _HEIGHT = 272, 74  # pixels at which text has its size; the page scales charts to their cards
_MARKS = {"p05": [2, 3], "p50": [1, 0], "p95": [2, 3]}  # quantile -> dashes of its line
_AXIS_STYLE = {
    "labelColor": "var(--soft)",
    "tickColor": "var(--line)",
    "domainColor": "var(--line)",
    "labelFontSize": 10,
    "labelFont": "inherit",
}


def histogram_svg(bars: Histogram, quantiles: Mapping[str, float], title: str) -> str:
    """SVG of a histogram: dashed marks at the 5th and 95th percentile, a solid one at the median.

    A paler bar at an end holds all that lies beyond the axis.
    """
    import vl_convert

    svg = vl_convert.vegalite_to_svg(_spec(bars, quantiles))
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML needs no namespaces, and so the page names no address at all
    svg = re.sub(r'="[^"]*"', lambda value: re.sub(r"(\.\d\d)\d+", r"\1", value[0]), svg)  # a hundredth of a pixel
    svg = re.sub(r' (aria-\w+|role|pointer-events|class)="[^"]*"', "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_escaped(title)}" ', 1)


def _spec(bars: Histogram, quantiles: Mapping[str, float]) -> dict[str, Any]:
    """The chart in Vega-Lite, as plain data: building it with altair would take ten times as long as drawing it."""
    low, high = bars.edges[0], bars.edges[-1]
    beyond = [bars.open_low, *[False] * (len(bars.counts) - 2), bars.open_high]
    columns = [
        {"low": start, "high": end, "count": count, "fill": "var(--beyond)" if outer else "var(--bar)"}
        for start, end, count, outer in zip(bars.edges[:-1], bars.edges[1:], bars.counts, beyond, strict=True)
    ]
    marks = [{"at": min(max(quantiles[name], low), high), "dash": dash} for name, dash in _MARKS.items()]
    scale = {"domain": [low, high], "nice": False}
    axis = {
        "title": None,
        "grid": False,
        "tickCount": 5,
        "labelExpr": f"format(datum.value, '{'~s' if high - low >= 10_000 else '~g'}')",
        "labelOverlap": True,
        "labelFlush": True,
        **({"tickMinStep": 1} if bars.whole else {}),
    }
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "padding": 2,
        "background": "transparent",
        "config": {"view": {"stroke": None}, "axis": _AXIS_STYLE},
        "layer": [
            {
                "data": {"values": columns},
                "mark": {"type": "bar", "binSpacing": 1},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative", "bin": "binned", "scale": scale, "axis": axis},
                    "x2": {"field": "high"},
                    "y": {"field": "count", "type": "quantitative", "axis": None},
                    "color": {"field": "fill", "type": "nominal", "scale": None},
                },
            },
            {
                "data": {"values": marks},
                "mark": {"type": "rule", "color": "var(--mark)", "strokeWidth": 1.2},
                "encoding": {
                    "x": {"field": "at", "type": "quantitative"},
                    "strokeDash": {"field": "dash", "type": "nominal", "scale": None},
                },
            },
        ],
    }


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
