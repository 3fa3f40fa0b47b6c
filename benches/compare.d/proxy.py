"""`benches/compare proxy`: one run, side by side, of every way to the same server."""

import json
import sys
import tempfile
import time
from pathlib import Path

import chart
import idle
import load
import machine
import report
from peers import Changeover, Direct, HaProxy, Router
from process import Processes, Trouble, free_ports, raise_open_files, tail
from results import Results
from servers import MariaDb, MySql97, make_certificates, remove

TRANSPORTS = ("plain", "tls")
PEERS = ("direct", "HAProxy", "Router", "Changeover")
SPARE_CONNECTIONS = 600
SETTLE_S = 3


def add_arguments(parser):
    """The flags; their defaults are a run of about twenty minutes."""
    parser.add_argument("--seconds", type=int, default=5, metavar="N", help="of each measurement [5]")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="in each of which every peer has its turn [3]")
    parser.add_argument("--idle", type=int, default=10_000, metavar="N", help="idle connections; 0 leaves them out [10000]")
    parser.add_argument("--engine", choices=("mariadb", "mysql97"), default="mariadb", help="the server [mariadb]")
    parser.add_argument("--peers", type=names(PEERS), default=list(PEERS), metavar="A,B", help=f"of {','.join(PEERS)}")
    parser.add_argument("--transports", type=names(TRANSPORTS), default=list(TRANSPORTS), metavar="A,B", help="of plain,tls")
    keys = [case.key for case in load.CASES]
    parser.add_argument("--cases", type=names(keys), default=keys, metavar="A,B", help=f"of {' '.join(keys)}; none: -")


def names(known):
    """A parser for a list of names, in the order of the known ones."""

    def parse(text):
        wanted = [] if text == "-" else [each.casefold() for each in text.replace("10,000", "10000").split(",")]
        fold = lambda name: name.casefold().replace("10,000", "10000")
        strange = [each for each in wanted if each not in map(fold, known)]
        if strange:
            raise ValueError(strange)
        return [name for name in known if fold(name) in wanted]

    parse.__name__ = "name"
    return parse


def compare(arguments, repo):
    """The whole run. Answers the exit code."""
    output = repo / "target" / "compare"
    output.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="changeover-compare-"))
    try:
        with Processes() as processes:
            results, setting = run_in(arguments, repo, folder, processes)
    finally:
        keep_logs(folder, output)
        remove(folder)
    write(results, setting, output, arguments)
    return 0


def run_in(arguments, repo, folder, processes):
    """Sets up, measures, answers results and what they are of."""
    connections_max = max(arguments.idle, 0) + SPARE_CONNECTIONS
    files = raise_open_files(2 * connections_max + 4000)
    if files < 2 * connections_max + 200:
        connections_max = (files - 400) // 2
        arguments.idle = min(arguments.idle, connections_max - SPARE_CONNECTIONS)
        say(f"only {files} open files are allowed here: {arguments.idle} idle connections")
    tls = make_certificates(folder / "tls")
    ports = free_ports(6)
    source = start_server(arguments.engine, "source", folder, ports[0], 1, tls, connections_max, repo, processes)
    target = None
    if "Changeover" in arguments.peers:
        target = start_server(arguments.engine, "target", folder, ports[1], 2, tls, connections_max, repo, processes)
    load.prepare(source, tls)
    peers = make_peers(arguments, repo, folder, tls, ports[2:], source, target, connections_max)
    cases = [case for case in load.CASES if case.key in arguments.cases]
    results = Results(cases, arguments.transports if cases else [], [peer.name for peer in peers])
    started = start_peers(peers, results, processes, folder)
    setting = machine.describe(arguments, source, started, hidden_paths(repo, folder))
    if arguments.idle > 0:
        measure_idle(arguments, started, results, processes, folder)
    measure_load(arguments, started, results, tls, processes)
    return results, setting


def start_server(engine, name, folder, port, number, tls, connections_max, repo, processes):
    MySql97.root = repo / "target/servers/mysql97"
    kind = {"mariadb": MariaDb, "mysql97": MySql97}[engine]
    say(f"starting the {name} server")
    server = kind(name, folder / name, port, number, tls, connections_max)
    server.start(processes)
    server.make_accounts()
    return server


def make_peers(arguments, repo, folder, tls, ports, source, target, connections_max):
    makers = {
        "direct": lambda: Direct(source),
        "HAProxy": lambda: HaProxy(ports[0], source, connections_max),
        "Router": lambda: Router(ports[1], source, connections_max, tls, repo / "target/servers/mysqlrouter97"),
        "Changeover": lambda: Changeover(
            ports[2], ports[3], source, target, connections_max, tls, repo / "target/release/changeover", folder
        ),
    }
    return [makers[name]() for name in arguments.peers]


def start_peers(peers, results, processes, folder):
    """Starts each; one that can't be had is left out, and the report says why."""
    started = []
    for peer in peers:
        try:
            peer.start(processes, folder)
            started.append(peer)
        except (Trouble, OSError) as error:
            say(f"{peer.name} is left out: {error}")
            results.absent[peer.name] = str(error).splitlines()[0]
    return started


def measure_idle(arguments, peers, results, processes, folder):
    """Before any load and each proxy freshly started afterwards, since memory that a load or ten thousand logins
    left behind would hide what comes next."""
    for peer in (peer for peer in peers if peer.process):
        say(f"{arguments.idle} idle connections through {peer.name}")
        try:
            before, with_them = idle.measure_idle(peer, arguments.idle, SETTLE_S)
            results.idle[peer.name] = (arguments.idle, before, with_them)
            say(f"{peer.name}: {results.idle_kb(peer.name):.1f} KB each")
        except Trouble as error:
            say(f"no figure: {error}")
            results.absent[f"{peer.name}'s figure of idle connections"] = str(error).splitlines()[0]
        peer.restart(processes, folder)


def measure_load(arguments, peers, results, tls, processes):
    """Rounds in turn: case by case each peer once, the next round begun by the next peer, so that what the
    machine does besides hits all alike."""
    total = arguments.rounds * len(results.cases) * len(results.transports) * len(peers)
    began, done = time.monotonic(), 0
    for number in range(arguments.rounds):
        turn = peers[number % len(peers) :] + peers[: number % len(peers)]
        for transport in results.transports:
            for case in results.cases:
                for peer in turn:
                    sample = load.measure(case, peer, transport == "tls", arguments.seconds, tls)
                    processes.must_live()
                    results.add(transport, case, peer.name, sample)
                    done += 1
                    left = (time.monotonic() - began) / done * (total - done)
                    cpu = "" if sample.cpu_us is None else f", {sample.cpu_us:.1f} µs CPU each"
                    strange = f", {sample.errors} ERRORS" if sample.errors and case.unit != "query" else ""
                    say(
                        f"[{done}/{total}, {left / 60:.0f} min left] {transport} {case.name} {peer.name}: "
                        f"{sample.per_s:,.0f}/s, p95 {sample.p95_ms:.2f} ms{cpu}{strange}"
                    )


def hidden_paths(repo, folder):
    return [(repo / "target/servers", "SERVERS"), (folder, "FOLDER"), (repo, "REPO")]


def keep_logs(folder, output):
    """The ends of the logs, for when something looked odd."""
    kept = [f"== {path.name} of {path.parent.name}\n{tail(path, 200)}\n" for path in sorted(folder.glob("**/*log"))]
    (output / "logs.txt").write_text("\n".join(kept))


def write(results, setting, output, arguments):
    text = report.markdown(results, setting)
    (output / "proxy.md").write_text(text)
    (output / "proxy.svg").write_text(chart.svg(results, setting))
    raw = [
        {"transport": transport, "case": case, "peer": peer, "samples": [vars(sample) for sample in samples]}
        for (transport, case, peer), samples in results._samples.items()
    ]
    (output / "proxy.json").write_text(json.dumps({"facts": setting.facts, "idle": results.idle, "load": raw}, indent=1))
    print(text)
    say("written: target/compare/proxy.md, proxy.svg, proxy.json, logs.txt")


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)
