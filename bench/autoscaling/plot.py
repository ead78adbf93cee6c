"""A trace and what each policy made of it, as an SVG without script or font of its own. Knows no simulation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, PANEL, GAP, TOP, BOTTOM = 860, 48, 12, 120, 34, 58, 34
COLORS = ("#1d4ed8", "#d97706", "#0f766e")
DASHES = ("", "5 3", "1.5 2.5")
GREY = "#6b7280"
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart: its title, and lines by name; `area` fills below the first. Steps hold their value until the next."""

    title: str
    lines: tuple[tuple[str, Points], ...]
    area: bool = False


def draw(title: str, seconds: float, panels: Sequence[Panel]) -> str:
    """The whole picture; all panels share the axis of time."""
    height = TOP + len(panels) * (PANEL + GAP) + BOTTOM - GAP
    names = [name for name, _ in panels[-1].lines]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="11" fill="#111827">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_legend(names),
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + index * (PANEL + GAP), seconds)
    parts += _times(seconds, height - BOTTOM + 14)
    return "\n".join([*parts, "</svg>", ""])


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = list[str](), LEFT
    for name, color, dash in zip(names, COLORS, DASHES, strict=False):
        parts.append(f'<path d="M{x} 34h22" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(f'<text x="{x + 27}" y="38">{escape(name)}</text>')
        x += 50 + 7 * len(name)
    return parts


def _panel(panel: Panel, top: int, seconds: float) -> list[str]:
    most = max(value for _, points in panel.lines for _, value in points) or 1.0
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100) if most / step <= 5)
    most = step * (int(most / step) + 1)
    bottom = top + PANEL

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time / seconds

    def y(value: float) -> float:
        return bottom - PANEL * value / most

    parts = [f'<text x="{LEFT}" y="{top - 5}" fill="{GREY}">{escape(panel.title)}</text>']
    for tick in range(int(most / step) + 1):
        level = y(tick * step)
        parts.append(f'<path d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end" fill="{GREY}">{tick * step:g}</text>')
    for index, (_, points) in enumerate(panel.lines):
        path = _steps(points, x, y, seconds)
        if panel.area:
            parts.append(f'<path d="{path}V{bottom}H{LEFT}Z" fill="#d1d5db"/>')
            continue
        style = f'stroke="{COLORS[index]}" stroke-width="1.6" stroke-dasharray="{DASHES[index]}"'
        parts.append(f'<path d="{path}" fill="none" {style}/>')
    return parts


def _steps(points: Points, x: Callable[[float], float], y: Callable[[float], float], seconds: float) -> str:
    path = f"M{x(points[0][0]):.1f} {y(points[0][1]):.1f}"
    for time, value in points[1:]:
        path += f"H{x(time):.1f}V{y(value):.1f}"
    return f"{path}H{x(seconds):.1f}"


def _times(seconds: float, level: int) -> list[str]:
    unit, name = (3600, "h") if seconds > 4 * 3600 else (60, "min")
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60) if seconds / unit / step <= 12)
    scale = (WIDTH - LEFT - RIGHT) * unit / seconds
    return [
        f'<text x="{LEFT + tick * scale:.1f}" y="{level}" text-anchor="middle" fill="{GREY}">{tick} {name}</text>'
        for tick in range(0, int(seconds / unit) + 1, step)
    ]
