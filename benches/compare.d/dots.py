"""A chart of single measurements: a row a case, a dot a measurement, drawn as SVG by hand."""

from chart import text

ROW, LEFT, WIDTH, RIGHT, TOP = 46, 300, 560, 60, 84


def dots(title, subtitle, rows, marks):
    """`rows` are (name, values); `marks` are lines across all of them, by name."""
    most = 1.05 * max([*marks.values(), *(value for _, values in rows for value in values)])
    at = lambda value: LEFT + value / most * WIDTH
    width, height = LEFT + WIDTH + RIGHT, TOP + len(rows) * ROW + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1f2933">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(16, 24, title, size=16, weight="600"),
        text(16, 42, subtitle, fill="#66707c"),
    ]
    for name, value in marks.items():
        parts.append(
            f'<line x1="{at(value):.1f}" x2="{at(value):.1f}" y1="{TOP - 14}" y2="{height - 30}" stroke="#c0392b" stroke-dasharray="4 3"/>'
        )
        parts.append(text(at(value), TOP - 18, f"{name} {value}", anchor="middle", fill="#c0392b", size=11))
    for number, (name, values) in enumerate(rows):
        y = TOP + number * ROW + ROW / 2
        parts.append(text(LEFT - 12, y + 4, name, anchor="end"))
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}" stroke="#e3e7ec"/>')
        for index, value in enumerate(values):
            # Dots of like values lie beside each other, not on top.
            offset = (index % 5 - 2) * 5
            parts.append(f'<circle cx="{at(value):.1f}" cy="{y + offset:.1f}" r="3" fill="#2a9d5c" fill-opacity="0.6"/>')
    parts.append(text(LEFT, height - 12, "0 ms", fill="#66707c", size=11))
    parts.append(text(LEFT + WIDTH, height - 12, f"{most:.0f} ms", fill="#66707c", size=11, anchor="end"))
    return "\n".join([*parts, "</svg>"]) + "\n"
