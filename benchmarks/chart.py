"""The results as a bar chart: an SVG that is readable on white and on black."""

from html import escape

BAR, LABELS, WIDTH = 22, 380, 800


def svg(results):
    """One bar a result: the peer's cost is the full width, ours the filled part; shorter is better."""
    rows = [row for result, number in zip(results, range(len(results)), strict=True) for row in _row(result, number)]
    height = BAR * len(results) + 40
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"',
            '  font-family="sans-serif" font-size="12" fill="#808080">',
            f'<text x="{LABELS}" y="16">cost as a share of the other\'s: shorter is better</text>',
            *rows,
            "</svg>",
            "",
        ]
    )


def _row(result, number):
    top = 28 + BAR * number
    full = WIDTH - LABELS - 60
    label = escape(f"{result.what}, against {result.against}")
    yield f'<text x="{LABELS - 8}" y="{top + 13}" text-anchor="end">{label}</text>'
    yield f'<rect x="{LABELS}" y="{top}" width="{full}" height="{BAR - 6}" fill="#808080" opacity="0.3"/>'
    yield f'<rect x="{LABELS}" y="{top}" width="{full * min(result.ratio, 1):.0f}" height="{BAR - 6}" fill="#2a7de1"/>'
    yield f'<text x="{LABELS + full + 8}" y="{top + 13}">{result.ratio:.2f}</text>'
