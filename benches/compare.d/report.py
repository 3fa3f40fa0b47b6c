"""The report as Markdown."""

from results import OURS, verdicts


def markdown(results, setting):
    """The whole report. `setting` is what was run on what: (title, text) pairs and the configurations."""
    parts = [f"# `benches/compare proxy`: {setting.date}", *facts(setting)]
    for transport in results.transports:
        parts += [f"## {transport_title(transport)}", *throughput_tables(results, transport)]
    if results.idle:
        parts += ["## Memory of idle connections", idle_table(results)]
    if OURS in results.peers:
        parts += ["## Targets", target_table(results)]
    if results.missing:
        parts += ["## Missing", "\n".join(f"- {what}: {why}" for what, why in results.missing)]
    parts += ["## Configurations", *configurations(setting)]
    return "\n\n".join(parts) + "\n"


def facts(setting):
    return ["\n".join(f"- {title}: {text}" for title, text in setting.facts)]


def transport_title(transport):
    return {
        "plain": "Plain TCP",
        "tls": "TLS (HAProxy and Router pass it through to the server; Changeover ends it and is plain to the server)",
    }[transport]


def throughput_tables(results, transport):
    """Throughput, latency and CPU: a row a case, a column a peer, the ratios at the right."""
    tables = []
    for field, title, form in (
        ("per_s", "Throughput, a second (median)", lambda value: f"{value:,.0f}"),
        ("p95_ms", "p95 of an event in ms (median)", lambda value: f"{value:.2f}"),
        ("cpu_us", "CPU of the proxy in µs a query, result or connection (median)", lambda value: f"{value:,.1f}"),
    ):
        peers = [peer for peer in results.peers if field != "cpu_us" or peer != "direct"]
        tables += [f"**{title}**", figure_table(results, transport, field, form, peers)]
    return tables


def figure_table(results, transport, field, form, peers):
    against = [peer for peer in ("HAProxy", "Router") if peer in peers and OURS in peers]
    head = ["case", *peers, *(f"{OURS} / {peer}" for peer in against)]
    rows = []
    for case in results.cases:
        cells = [results.value(transport, case, peer, field) for peer in peers]
        ratios = [results.ratio(transport, case, field, peer) for peer in against]
        unit = f" ({plural(case.unit)})" if field == "per_s" else ""
        rows.append([case.name + unit, *(shown(cell, form) for cell in cells), *(shown(ratio, two) for ratio in ratios)])
    return table(head, rows)


def idle_table(results):
    rows = []
    for peer, (count, before, with_them) in results.idle.items():
        kb = results.idle_kb(peer)
        rows.append([peer, f"{count:,}", f"{before / 1024:.1f}", f"{with_them / 1024:.1f}", f"{kb:.1f}"])
    return table(["proxy", "connections", "RSS before, MB", "RSS with them, MB", "KB a connection"], rows)


def target_table(results):
    found = verdicts(results)
    rows = [[each.transport, each.what, each.wanted, shown(each.measured, two), each.word] for each in found]
    lines = [table(["transport", "what", "target", "measured", ""], rows)]
    for transport in dict.fromkeys(each.transport for each in found):
        of_it = [each for each in found if each.transport == transport and each.met is not None]
        lines.append(f"{transport}: {sum(each.met for each in of_it)} of {len(of_it)} measured targets met.")
    return "\n\n".join(lines)


def configurations(setting):
    return [f"{name}:\n\n```\n{text.strip()}\n```" for name, text in setting.configurations if text]


def table(head, rows):
    """A Markdown table, its columns as wide as they must be."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    line = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def shown(value, form):
    return "" if value is None else form(value)


def two(value):
    return f"{value:.2f}"


def plural(unit):
    return {"query": "queries"}.get(unit, unit + "s")
