"""`benches/compare proxy`: one run, side by side, of every way to the same server."""

import json
import time
from itertools import product

import chart
import idle
import load
import machine
import report
from choices import names
from peers import Changeover, Direct, HaProxy, Router
from process import Trouble, bound_in_time, free_ports, raise_open_files, say, tail
from results import Results
from servers import MariaDb, MySql97, make_certificates
from workplace import output_of, workplace

TRANSPORTS = ("plain", "tls")
PEERS = ("direct", "HAProxy", "Router", "Changeover")
# Room for the load and the services' own connections beside the idle ones.
SPARE_CONNECTIONS = 600
# How long idle connections are idle before the memory is read.
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
    parser.add_argument("--cases", type=names(keys), default=keys, metavar="A,B", help=f"of {','.join(keys)}; none: -")


def compare(arguments, repo):
    """The whole run. Answers the exit code."""
    output = output_of(repo)
    bound_in_time(time_limit_s(arguments))
    with workplace(output) as (folder, processes):
        run = Run(arguments, repo, folder, processes)
        run.set_up()
        if arguments.idle > 0:
            run.measure_idle()
        run.measure_load()
    run.write(output)
    return 0


def time_limit_s(arguments):
    """Far more than a run should take."""
    measurements = arguments.rounds * len(arguments.cases) * len(arguments.transports) * len(arguments.peers)
    return 900 + 3 * measurements * (arguments.seconds + 2)


class Run:
    """Servers, peers and what was measured of them."""

    def __init__(self, arguments, repo, folder, processes):
        self.arguments, self.repo, self.folder, self.processes = arguments, repo, folder, processes
        self.cases = [case for case in load.CASES if case.key in arguments.cases]
        transports = arguments.transports if self.cases else []
        self.results = Results(self.cases, transports, arguments.peers)
        self.tls = self.setting = None
        self.peers = []

    def set_up(self):
        """Servers with tables in them, and every peer that can be had."""
        connections_max = self.connections_max()
        self.tls = make_certificates(self.folder / "tls")
        ports = free_ports(6)
        source = self.start_server("source", ports[0], 1, connections_max)
        # Only Changeover knows of the second server; it is there for all of them, so that none has the machine
        # more to itself than another.
        target = self.start_server("target", ports[1], 2, connections_max)
        say("filling the tables")
        load.prepare(source, self.tls)
        servers = self.repo / "target/servers"
        binary = self.repo / "target/release/changeover"
        every = {
            "direct": Direct(source),
            "HAProxy": HaProxy(ports[2], source, connections_max),
            "Router": Router(ports[3], source, connections_max, servers / "mysqlrouter97"),
            "Changeover": Changeover(ports[4], ports[5], source, target, connections_max, self.tls, binary, self.folder),
        }
        for name in self.arguments.peers:
            self.start_peer(every[name])
        hidden = [(servers, "SERVERS"), (self.folder, "FOLDER"), (self.repo, "REPO")]
        versions = [version for version in (peer.version() for peer in self.peers) if version]
        how = f"{self.arguments.rounds} rounds of {self.arguments.seconds} s"
        told = [("proxies", ", ".join(versions)), ("load", f"{load.version()}, {how} a case, the proxies in turn")]
        configurations = [(each.name, each.configuration()) for each in (source, *self.peers)]
        self.setting = machine.describe(source, told, f"median of {how}", configurations, self.repo, hidden)

    def connections_max(self):
        """The limit for every server and proxy; fewer idle connections where the system allows fewer files."""
        arguments = self.arguments
        wanted = arguments.idle + SPARE_CONNECTIONS
        # A proxy needs two files for each connection, a server somewhat more than one.
        files = raise_open_files(2 * wanted + 4000)
        if files < 2 * wanted + 400:
            wanted = (files - 400) // 2
            arguments.idle = wanted - SPARE_CONNECTIONS
            say(f"only {files} open files are allowed here, so there will be only {arguments.idle} idle connections")
        return wanted

    def start_server(self, name, port, number, connections_max):
        say(f"starting the {name} server")
        MySql97.root = self.repo / "target/servers/mysql97"
        kind = {"mariadb": MariaDb, "mysql97": MySql97}[self.arguments.engine]
        server = kind(name, self.folder / name, port, number, self.tls, connections_max)
        server.start(self.processes)
        server.make_accounts()
        return server

    def start_peer(self, peer):
        """One that can't be had is left out, and the report says why."""
        try:
            peer.start(self.processes, self.folder)
            self.peers.append(peer)
        except (Trouble, OSError) as error:
            self.miss(peer.name, error)
            if peer.process:
                self.processes.stop(peer.process)

    def measure_idle(self):
        """Before any load, and each proxy is started anew afterwards, since memory that ten thousand logins left
        behind would hide what comes next."""
        count = self.arguments.idle
        for peer in (peer for peer in self.peers if peer.process):
            say(f"{count} idle connections through {peer.name}")
            try:
                before, with_them = idle.measure_idle(peer, count, SETTLE_S)
                self.results.idle[peer.name] = (count, before, with_them)
                say(f"{peer.name}: {self.results.idle_kb(peer.name):.1f} KB each")
            except Trouble as error:
                self.miss(f"{peer.name}, idle connections", error)
            peer.restart(self.processes, self.folder)

    def measure_load(self):
        """Rounds in turn: case by case each peer once, the next round begun by the next peer, so that what the
        machine does besides hits all alike."""
        rounds, peers = self.arguments.rounds, self.peers
        total = rounds * len(self.cases) * len(self.results.transports) * len(peers)
        began, done = time.monotonic(), 0
        for number in range(rounds):
            first = number % len(peers)
            for transport, case, peer in product(self.results.transports, self.cases, peers[first:] + peers[:first]):
                what = f"{transport} {case.name} {peer.name}"
                try:
                    sample = load.measure(case, peer, transport == "tls", self.arguments.seconds, self.tls)
                    self.results.add(transport, case, peer.name, number, sample)
                    said = told(sample, case)
                except Trouble as error:
                    self.miss(f"{what}, round {number + 1}", error)
                    said = "FAILED"
                self.revive(peer)
                self.processes.must_live()
                done += 1
                left = (time.monotonic() - began) / done * (total - done)
                say(f"[{done}/{total}, {left / 60:.0f} min left] {what}: {said}")

    def revive(self, peer):
        """A proxy that ended by itself is started again for the cases after, and the report says so."""
        if peer.process and peer.process.poll() is not None:
            self.miss(peer.name, f"ended by itself ({peer.process.returncode}), and was started again")
            say(tail(peer.process.log))
            peer.restart(self.processes, self.folder)

    def miss(self, what, why):
        """Notes a figure that there won't be."""
        say(f"{what}: {why}")
        self.results.missing.append((what, str(why).splitlines()[0]))

    def write(self, output):
        """The report, the chart and the raw figures."""
        text = report.markdown(self.results, self.setting)
        (output / "proxy.md").write_text(text)
        if self.cases:
            (output / "proxy.svg").write_text(chart.svg(self.results, self.setting))
        raw = {"facts": self.setting.facts, "idle": self.results.idle, "load": self.results.everything()}
        (output / "proxy.json").write_text(json.dumps(raw, indent=1))
        print(text)
        say("written: proxy.md, proxy.svg, proxy.json and logs.txt in target/compare/")


def told(sample, case):
    """A sample in a line."""
    cpu = "" if sample.cpu_us is None else f", {sample.cpu_us:.1f} µs CPU each"
    # Deadlocks are part of read_write; anywhere else an error is strange.
    strange = f", {sample.errors} ERRORS" if sample.errors and "read_write" not in case.name else ""
    return f"{sample.per_s:,.0f}/s, p95 {sample.p95_ms:.2f} ms{cpu}{strange}"
