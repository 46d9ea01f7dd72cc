"""A plot of an index check as SVG, by hand: a dozen points need no library. Pure."""

from collections.abc import Iterator
from html import escape

from pg_qwen_embed.domain.index_check import IndexCheck, Point

WIDTH, HEIGHT, MARGIN = 640, 400, 60


def svg(name: str, check: IndexCheck, width_name: str) -> str:
    """Recall against the median time of a query, a point for each width; exact search is at its time, with recall 1."""
    return "\n".join(_lines(name, check, width_name)) + "\n"


def _lines(name: str, check: IndexCheck, width_name: str) -> Iterator[str]:
    most = 1.1 * max(one.median for one in (*check.points, check.exact))
    least = min(0.9, *(one.recall for one in check.points), check.wanted)

    def x(one: Point) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * one.median / most

    def y(recall: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (recall - least) / (1 - least or 1)

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    yield _text(WIDTH / 2, MARGIN / 2, f"{name}: recall@{check.k} of {check.queries} queries", "middle")
    yield _text(WIDTH / 2, HEIGHT - 15, "milliseconds of a query, median", "middle")
    for step in range(6):
        recall, median = least + (1 - least) * step / 5, most * step / 5
        across = MARGIN + (WIDTH - 2 * MARGIN) * step / 5
        yield f'<path d="M{MARGIN} {y(recall):.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>'
        yield _text(MARGIN - 6, y(recall) + 4, f"{recall:.3f}", "end")
        yield _text(across, HEIGHT - MARGIN + 18, f"{median:.2f}", "middle")
    yield f'<path d="M{MARGIN} {y(check.wanted):.1f}H{WIDTH - MARGIN}" stroke="#c33" stroke-dasharray="4"/>'
    path = " ".join(f"{x(one):.1f},{y(one.recall):.1f}" for one in check.points)
    yield f'<polyline points="{path}" fill="none" stroke="#36c"/>'
    for one in check.points:
        chosen = one.width == check.width
        yield f'<circle cx="{x(one):.1f}" cy="{y(one.recall):.1f}" r="{5 if chosen else 3}" fill="{"#c33" if chosen else "#36c"}"/>'
        label = f"{width_name} {one.width}" if chosen else str(one.width)
        yield _text(x(one), y(one.recall) + 18, label, "middle")
    yield f'<circle cx="{x(check.exact):.1f}" cy="{y(1):.1f}" r="4" fill="#393"/>'
    yield _text(x(check.exact), y(1) - 8, "exact", "middle")
    yield "</svg>"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
