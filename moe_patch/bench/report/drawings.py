"""The drawings of a report, as SVG elements; each is left out where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_patch.bench.along import FIGURES
from moe_patch.bench.report.figures import SCORES
from moe_patch.bench.report.runs import Group, Section
from moe_patch.io.figure import svg_element
from moe_patch.io.plain_text import plain_text

COLOURS = (
    *("#2b7fd0", "#c9641f", "#2f9150", "#cc4455", "#8a63d2"),
    *("#8f6a4e", "#c2509e", "#6f7a86", "#87801f", "#1c8fa0"),
)
"""Of the arms: each can be told from white and from near black."""

MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★", "<": "◀", ">": "▶"}
"""matplotlib's markers, and what looks like them in text."""

_WIDTH, _HEIGHT = 4.2, 2.9  # inches
_BAR = 0.26  # inches


@dataclass(frozen=True, slots=True)
class Style:
    """How an arm looks in all drawings."""

    colour: str
    marker: str

    @property
    def mark(self) -> str:
        """The marker in text."""
        return MARKS[self.marker]


@dataclass(frozen=True, slots=True)
class Drawing:
    """An SVG element and what it shows."""

    title: str
    svg: str


Styles = Mapping[str, Style]


def arm_styles(arms: Sequence[str]) -> dict[str, Style]:
    """A style for each arm; colours and markers come around with different periods, so no two arms are alike.

    With more than a hundred arms they repeat.
    """
    markers, count = list(MARKS), len(COLOURS)
    return {
        arm: Style(COLOURS[i % count], markers[(i + i // count) % count])
        for i, arm in enumerate(dict.fromkeys(arms))
    }


def drawings_of(section: Section, styles: Styles) -> list[Drawing]:
    """All drawings of a section that there is something for.

    Raises:
        ConfigError: matplotlib is missing.
    """
    makers: tuple[Callable[[Section, Styles], Iterator[Drawing]], ...] = (
        _scatter,
        _along,
        _routing,
        _sweeps,
        _convergence,
        _costs,
        _bars,
        _buckets,
    )
    return [drawing for maker in makers for drawing in maker(section, styles)]


def drawings_across(groups: Sequence[Group], styles: Styles) -> list[Drawing]:
    """Times against the experts of the models, if the runs are of several; one line an arm.

    Raises:
        ConfigError: matplotlib is missing.
    """
    found = []
    for title, figure in (("Build", "seconds.build"), ("Solve", "seconds.solve")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for group in groups:
            if (seconds := group.value(figure)) is not None:
                lines.setdefault(group.arm, []).append((float(group.first.base.experts), seconds))
        lines = {arm: sorted(points) for arm, points in lines.items() if len({x for x, _ in points}) > 1}
        if lines:
            found.append(
                _lines(
                    f"{title} against experts", "experts in a layer of the model", "seconds", lines, styles
                )
            )
    return found


def _draw(title: str, draw: Callable[[Any], None], height: float = _HEIGHT) -> Drawing:
    return Drawing(title, svg_element(_WIDTH, height, draw))


def _lines(
    title: str,
    x: str,
    y: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    styles: Styles,
    **axes: Any,
) -> Drawing:
    """One line an arm; `lines` has points by the arms' names."""
    places = [place for points in lines.values() for place, _ in points]

    def draw(panel: Any) -> None:
        for arm, points in lines.items():
            style = styles[arm]
            panel.plot(*zip(*points, strict=True), color=style.colour, marker=style.marker, markersize=4)
        panel.set(xlabel=x, ylabel=y, **axes)
        if panel.get_xscale() == "log":
            _plain_log(panel.xaxis)
        else:
            panel.xaxis.get_major_locator().set_params(integer=all(each == int(each) for each in places))

    return _draw(title, draw)


def _plain_log(axis: Any) -> None:
    """Labels such as 0.01 on a logarithmic axis, where powers would be formulas; few, so none overlap."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415  (an extra)

    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _is_wide(values: Sequence[float]) -> bool:
    """Whether values are better seen on a logarithmic axis."""
    return min(values) > 0 and max(values) / min(values) > 50


def _percent(lines: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """The range of an axis in percent: all of it, or its upper part where all points are high."""
    least = min(value for points in lines.values() for _, value in points)
    room = max(1.0, 0.06 * (100 - least))
    return (-4, 104) if least < 50 else (least - room, 100 + room)


def _scatter(section: Section, styles: Styles) -> Iterator[Drawing]:
    """Reliability against locality, the corner at the top right being the best."""
    names = {"efficacy": "reliability (efficacy), %", "locality": "locality, %"}
    if not any(group.value("locality") is not None for group in section.groups):
        names = {"efficacy": names["efficacy"], "specificity": "specificity, %"}
    (first, across), (second, up) = names.items()
    points = {g.arm: (g.value(first), g.value(second)) for g in section.groups}
    there = {arm: (x, y) for arm, (x, y) in points.items() if x is not None and y is not None}
    if not there:
        return

    def draw(panel: Any) -> None:
        for arm, (x, y) in there.items():
            style = styles[arm]
            panel.plot([x], [y], style.marker, color=style.colour, markersize=8, alpha=0.85)
        panel.set(xlabel=across, ylabel=up, xlim=(-4, 104), ylim=(-4, 104))

    yield _draw("Reliability against locality", draw)


def _along(section: Section, styles: Styles) -> Iterator[Drawing]:
    """Scores and routing after so many facts, of the first seed."""
    for name in FIGURES:
        lines = {
            group.arm: [
                (float(point["facts"] or 0), float(value))
                for point in group.first.curve
                if (value := point.get(name)) is not None
            ]
            for group in section.groups
        }
        lines = {arm: points for arm, points in lines.items() if len(points) > 1}
        if lines:
            title = f"Along the edits: {name.replace('_', ' ')}"
            yield _lines(title, "facts edited", "%", lines, styles, ylim=_percent(lines))


def _routing(section: Section, styles: Styles) -> Iterator[Drawing]:
    """Routing similarity by layer."""
    for kind, prompts in (("edited", "edited prompts"), ("preserved", "neighbours")):
        lines = {group.arm: _by_layer(group, kind) for group in section.groups}
        lines = {arm: points for arm, points in lines.items() if points}
        if lines:
            title = f"Routing by layer, {prompts}"
            yield _lines(title, "layer", "similarity, %", lines, styles, ylim=_percent(lines))


def _by_layer(group: Group, kind: str) -> list[tuple[float, float]]:
    routing = (group.first.evaluation or {}).get("routing")
    shift = routing.get(kind) if isinstance(routing, dict) else None
    layers = shift.get("layers") if isinstance(shift, dict) else None
    if not isinstance(layers, list):
        return []
    return [
        (float(each["layer"]), float(each["similarity"]))  # type: ignore[arg-type]  # numbers in every record
        for each in layers
        if isinstance(each, dict)
        and isinstance(each.get("layer"), int)
        and isinstance(each.get("similarity"), int | float)
    ]


def _sweeps(section: Section, styles: Styles) -> Iterator[Drawing]:
    """Scores against an option that a sweep has varied, one line a method's arm without its value."""
    for option in dict.fromkeys(name for group in section.groups for name in group.first.varied):
        swept = [group for group in section.groups if _number(group, option) is not None]
        if len({_number(group, option) for group in swept}) < 2:
            continue
        for score in SCORES:
            lines: dict[str, list[tuple[float, float]]] = {}
            for group in swept:
                value, figure = _number(group, option), group.value(score)
                if value is not None and figure is not None:
                    lines.setdefault(_without(group, option, swept), []).append((value, figure))
            values = [value for points in lines.values() for value, _ in points]
            if not values:
                continue
            scale = "log" if _is_wide(values) else "linear"
            yield _lines(
                f"{score} by {option}",
                option,
                "%",
                {arm: sorted(points) for arm, points in lines.items()},
                styles,
                xscale=scale,
                ylim=(-4, 104),
            )


def _number(group: Group, option: str) -> float | None:
    """The value of a swept option; of a list of one layer, the layer."""
    value = group.first.varied.get(option)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _without(group: Group, option: str, swept: Sequence[Group]) -> str:
    """The first arm that differs from this one in the option alone: it gives its line the style."""
    others = {name: value for name, value in group.first.varied.items() if name != option}

    def alike(other: Group) -> bool:
        left = {name: value for name, value in other.first.varied.items() if name != option}
        return other.first.method == group.first.method and left == others

    return next(other.arm for other in swept if alike(other))


def _convergence(section: Section, styles: Styles) -> Iterator[Drawing]:
    """The objective of iterative solvers by pass: of the first batch at the highest edited layer."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for group in section.groups:
        found = group.first.convergence
        if found:
            batches = found[max(found, key=int)]
            lines[group.arm] = [
                (float(step), value) for step, value in enumerate(batches[0] if batches else [])
            ]
    lines = {arm: points for arm, points in lines.items() if len(points) > 1}
    if lines:
        yield _lines("Convergence of the solver", "pass", "objective", lines, styles)


def _costs(section: Section, styles: Styles) -> Iterator[Drawing]:
    """The time of a build against the experts that it changes."""
    points = {g.arm: (g.value("size.experts"), g.value("seconds.build")) for g in section.groups}
    there = {arm: (x, y) for arm, (x, y) in points.items() if x and y}
    if len({x for x, _ in there.values()}) < 2:
        return

    def draw(panel: Any) -> None:
        for arm, (x, y) in there.items():
            panel.plot([x], [y], styles[arm].marker, color=styles[arm].colour, markersize=8)
        panel.set(xlabel="experts changed", ylabel="seconds of the build")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if _is_wide([y for _, y in there.values()]):
            panel.set_yscale("log")
            _plain_log(panel.yaxis)

    yield _draw("Cost against experts", draw)


def _bars(section: Section, styles: Styles) -> Iterator[Drawing]:
    """Times, sizes and memory, one bar an arm."""
    for title, figure, scale in (
        ("Build, seconds", "seconds.build", 1.0),
        ("Patch, MB", "size.bytes", 1e-6),
        ("Memory that the build added, MiB", "memory.host_added", 1 / 2.0**20),
    ):
        values = {g.arm: value * scale for g in section.groups if (value := g.value(figure)) is not None}
        if values and max(values.values()) > 0:
            yield _bar_drawing(title, values, styles)


def _bar_drawing(title: str, values: Mapping[str, float], styles: Styles) -> Drawing:
    arms = list(values)[::-1]  # the first at the top
    wide = _is_wide(list(values.values()))

    def draw(panel: Any) -> None:
        places = range(len(arms))
        panel.barh(places, [values[arm] for arm in arms], color=[styles[arm].colour for arm in arms])
        panel.set_yticks(places, [_short(arm) for arm in arms])
        panel.grid(axis="y", visible=False)
        if wide:
            panel.set_xscale("log")
            _plain_log(panel.xaxis)

    return _draw(title, draw, height=0.7 + _BAR * len(arms))


def _short(arm: str) -> str:
    """A name that leaves room for a bar."""
    shown = plain_text(arm)
    return shown if len(shown) <= 28 else f"{shown[:26]}…"


def _buckets(section: Section, styles: Styles) -> Iterator[Drawing]:
    """Scores by knowledge frequency, the most frequent first."""
    for score in SCORES[:3]:
        lines = {group.arm: list(_bucket_points(group, score)) for group in section.groups}
        lines = {arm: points for arm, points in lines.items() if len(points) > 1}
        if lines:
            title = f"By knowledge frequency: {score}"
            yield _lines(title, "bucket, rarer to the right", "%", lines, styles, ylim=(-4, 104))


def _bucket_points(group: Group, score: str) -> Iterator[tuple[float, float]]:
    for number, bucket in enumerate(group.first.buckets, start=1):
        scores = bucket.get("scores")
        found = scores.get(score) if isinstance(scores, dict) else None
        value = found.get("value") if isinstance(found, dict) else None
        if isinstance(value, int | float):
            yield float(number), float(value)
