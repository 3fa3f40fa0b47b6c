"""The chart: throughput of each peer as a share of the direct connection's, drawn as SVG by hand."""

from xml.sax.saxutils import escape

COLOURS = {"direct": "#c9ced6", "HAProxy": "#4e79a7", "Router": "#f0a030", "Changeover": "#2a9d5c"}
BAR, GAP, GROUP_GAP, LEFT, WIDTH, RIGHT, TOP = 15, 2, 16, 150, 470, 130, 84


def svg(results, setting):
    """A panel a transport, a group a case, a bar a peer."""
    panel_width = LEFT + WIDTH + RIGHT
    group = len(results.peers) * (BAR + GAP) + GROUP_GAP
    height = TOP + len(results.cases) * group + 24
    width = panel_width * max(1, len(results.transports))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1f2933">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(16, 24, "Throughput through each proxy, as a share of a direct connection", size=16, weight="600"),
        text(16, 42, setting.one_line, fill="#66707c"),
    ]
    for number, transport in enumerate(results.transports):
        parts += panel(results, transport, number * panel_width)
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(results, transport, left):
    parts = [text(left + 16, 68, {"plain": "Plain TCP", "tls": "TLS"}[transport], size=14, weight="600")]
    x = left + LEFT
    for peer in results.peers:
        parts.append(f'<rect x="{x}" y="58" width="11" height="11" rx="2" fill="{COLOURS[peer]}"/>')
        parts.append(text(x + 16, 68, peer))
        x += 100
    y = TOP
    for case in results.cases:
        values = [(peer, results.value(transport, case, peer, "per_s")) for peer in results.peers]
        # Without a direct connection among the peers the fastest of them is the whole.
        whole = dict(values).get("direct") or max((value for _, value in values if value), default=None)
        middle = y + len(values) * (BAR + GAP) / 2 + 4
        parts.append(text(left + LEFT - 10, middle, case.name, anchor="end"))
        for peer, value in values:
            parts += bar(left + LEFT, y, peer, value, whole)
            y += BAR + GAP
        y += GROUP_GAP
    return parts


def bar(x, y, peer, value, whole):
    if value is None or not whole:
        return [text(x + 4, y + 12, "not measured", fill="#66707c", size=11)]
    # A proxy can't well be faster than none; where noise says so, the bar must stay in its panel.
    length = min(value / whole, 1.08) * WIDTH / 1.08
    label = f"{value:,.0f}/s" + ("" if peer == "direct" else f"  {100 * value / whole:.0f} %")
    return [
        f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{COLOURS[peer]}"/>',
        text(x + length + 6, y + 12, label, size=11),
    ]


def text(x, y, content, size=12, weight="400", anchor="start", fill="#1f2933"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(content)}</text>'
    )
