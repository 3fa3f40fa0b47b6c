"""`benches/compare cutover`: what an application feels of cutovers and rollbacks, back and forth under load."""

import asyncio
import itertools
import json
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import load
import machine
from choices import names
from dots import dots
from idle import IdleClients
from migration import Migration
from process import Trouble, bound_in_time, free_ports, kill_group, raise_open_files, say, tail
from report import configurations, facts, table
from servers import PASSWORD, SCHEMA, USER, MariaDb, MySql97, make_certificates
from workplace import output_of, workplace

SCRIPT = Path(__file__).resolve().parent / "write_transactions.lua"
# sysbench says once a second how long the longest transaction of that second took.
TICK = re.compile(r"^\[ (\d+)s \] thds: \d+ tps: ([\d.]+) .* lat \(ms,100%\): ([\d.]+) err/s: ([\d.]+) reconn/s: ([\d.]+)")
# What the script says of a transaction that took long.
LONG = re.compile(r"^long: ([\d.]+) ([\d.]+)$")
# Seconds of load before anything counts; without a switch, for the usual; and between a switch that has ended and the next.
WARM_UP_S, USUAL_S, REST_S = 5, 30, 3
CASES = ["plain", "tls", "silent", "silent-tls"]
P50_MAX_MS, WORST_MAX_MS = 50, 250


def add_arguments(parser):
    """The flags; their defaults are a run of about twenty-five minutes."""
    parser.add_argument("--cutovers", type=int, default=50, metavar="N", help="cutovers and rollbacks of each case [50]")
    parser.add_argument("--rate", type=int, default=2000, metavar="N", help="write transactions a second [2000]")
    parser.add_argument("--threads", type=int, default=64, metavar="N", help="connections that write [64]")
    parser.add_argument("--idle", type=int, default=1000, metavar="N", help="silent connections beside them [1000]")
    parser.add_argument("--cases", type=names(CASES), default=CASES, metavar="A,B", help=f"of {','.join(CASES)}")
    parser.add_argument("--engine", choices=("mariadb", "mysql97"), default="mariadb", help="the servers [mariadb]")


@dataclass
class Case:
    """One kind of application, and what was measured of it."""

    name: str
    tls: bool
    idle: int
    tps: list = field(default_factory=list)
    # Of each switch: the longest transaction, and how long that is without a switch, in as many seconds.
    felt_ms: list = field(default_factory=list)
    usual_ms: list = field(default_factory=list)
    gate_ms: list = field(default_factory=list)
    whole_ms: list = field(default_factory=list)
    steps: dict = field(default_factory=dict)
    undone: list = field(default_factory=list)
    # Of the longest transaction of each switch: where it was, and its ms.
    longest: list = field(default_factory=list)
    errors: float = 0

    def beyond_ms(self):
        """What was felt beyond the usual."""
        return [max(0, felt - usual) for felt, usual in zip(self.felt_ms, self.usual_ms)]


def compare(arguments, repo):
    """The whole run. Answers the exit code."""
    output = output_of(repo)
    bound_in_time(600 + 4 * arguments.cutovers * 20)
    raise_open_files(4 * arguments.idle + 4000)
    cases = [
        Case(f"{arguments.threads} writers{f', {idle:,} silent beside them' if idle else ''}, {'TLS' if tls else 'plain'}", tls, idle)
        for key, (idle, tls) in zip(CASES, itertools.product((0, arguments.idle), (False, True)))
        if key in arguments.cases
    ]
    setting = None
    for case in cases:
        with workplace(output) as (folder, processes):
            setting = Bench(arguments, repo, folder, processes, case).measure()
    text = markdown(cases, setting)
    (output / "cutover.md").write_text(text)
    rows = [(case.name, case.felt_ms) for case in cases]
    title = "The longest that a transaction took in the second of a cutover or rollback, in ms"
    (output / "cutover.svg").write_text(dots(title, setting.one_line, rows, {"p50 target": P50_MAX_MS, "worst": WORST_MAX_MS}))
    (output / "cutover.json").write_text(json.dumps([vars(case) for case in cases], indent=1))
    print(text)
    say("written: cutover.md, cutover.svg, cutover.json and logs.txt in target/compare/")
    return 0


class Bench:
    """Two servers, Changeover between them, the writers, and the operator who goes back and forth."""

    def __init__(self, arguments, repo, folder, processes, case):
        self.arguments, self.repo, self.folder, self.processes, self.case = arguments, repo, folder, processes, case
        self.ticks = []

    def measure(self):
        say(f"{self.case.name}: servers, tables, and a migration up to following")
        tls = make_certificates(self.folder / "tls")
        ports = free_ports(5)
        MySql97.root = self.repo / "target/servers/mysql97"
        kind = {"mariadb": MariaDb, "mysql97": MySql97}[self.arguments.engine]
        servers = []
        for number, name in enumerate(("source", "target")):
            server = kind(name, self.folder / name, ports[number], number + 1, tls, 4 * self.arguments.idle + 500)
            server.start(self.processes)
            server.make_accounts()
            servers.append(server)
        source, target = servers
        load.prepare(source, tls)
        target.sql(f"DROP DATABASE {SCHEMA}")
        migration = Migration(ports[2:], source, target, tls, self.repo / "target/release/changeover", self.folder)
        migration.start(self.processes, self.folder)
        migration.admin("START MIGRATION")
        migration.wait("following, everything verified", is_verified, 300)
        asyncio.run(self.back_and_forth(migration, tls))
        told = [
            ("load", f"{load.version()}, {self.arguments.threads} connections, BEGIN, UPDATE by key, COMMIT, {self.arguments.rate}/s wanted"),
        ]
        hidden = [(self.folder, "FOLDER"), (self.repo, "REPO")]
        shown = [(each.name, each.configuration()) for each in (source, migration)]
        how = f"{self.arguments.cutovers} cutovers and rollbacks a case"
        return machine.describe(source, told, how, shown, self.repo, hidden)

    async def back_and_forth(self, migration, tls):
        """The writers write, the silent ones are there, and the operator switches."""
        silent = IdleClients(migration.port, self.case.tls)
        try:
            await silent.connect(self.case.idle)
            with self.writers(migration.port, tls) as writers:
                await asyncio.to_thread(self.switch_all, migration, writers)
            await silent.alive()
        finally:
            await silent.close()

    def writers(self, port, tls):
        case, arguments = self.case, self.arguments
        command = [
            "setpriv", "--pdeathsig", "KILL", "--", "sysbench", str(SCRIPT), "--mysql-host=127.0.0.1", f"--mysql-port={port}",
            f"--mysql-user={USER}", f"--mysql-password={PASSWORD}", f"--mysql-db={SCHEMA}",
            f"--mysql-ssl={'on' if case.tls else 'off'}", f"--threads={arguments.threads}", f"--rate={arguments.rate}",
            *load.SIZE, "--time=7200", "--events=0", "--report-interval=1", "--percentile=100", "run",
        ]  # fmt: skip
        return Writers(command, tls, self.folder / "sysbench.log")

    def switch_all(self, migration, writers):
        time.sleep(WARM_UP_S)
        warm = time.monotonic()
        time.sleep(USUAL_S)
        spans = []
        for number in range(self.arguments.cutovers):
            verb = "ROLLBACK CUTOVER" if number % 2 else "CUTOVER"
            began = time.monotonic()
            try:
                row = migration.admin_row(verb)
            except Trouble as trouble:
                row = {"outcome": "refused", "reason": str(trouble).splitlines()[-1]}
            ended = time.monotonic()
            writers.must_live()
            if row.get("outcome") != "switched":
                self.case.undone.append(f"{verb} {number + 1}: {row.get('outcome')}: {row.get('reason')}")
                say(self.case.undone[-1])
                if number % 2 == 0 and row.get("outcome") == "refused":
                    raise Trouble(f"it can't go on: {self.case.undone[-1]}")
            else:
                spans.append((began, ended))
                self.case.gate_ms.append(float(row["pause_ms"]))
                self.case.whole_ms.append(1000 * (ended - began))
                say(f"{verb} {number + 1}: gate closed {row['pause_ms']} ms, {1000 * (ended - began):.0f} ms in all")
            time.sleep(REST_S)
        self.case.steps = medians(migration.steps())
        self.take([tick for tick in writers.ticks if tick[0] - 1 > warm], spans)
        self.place(writers.long, spans, migration.moments())

    def place(self, long, spans, moments):
        """Where the longest transaction of each switch was, seen from the gate."""
        for began, ended in spans:
            of_one = next((each for each in moments.values() if began < each.get("close", 0) and each.get("open", 0) < ended), None)
            during = [(to - since, since, to) for since, to in long if to > began and since < ended + 0.2]
            if of_one and during:
                took, since, to = max(during)
                where = "before" if to < of_one["close"] else "behind" if since > of_one["open"] else "across"
                self.case.longest.append((where, 1000 * took))

    def take(self, ticks, spans):
        """Sorts the seconds into those with a switch in them and the others. A switch that takes three seconds is held against
        three seconds without one: the longest of many transactions is longer than that of few."""
        case = self.case
        quiet = [[]]
        for at, tps, ms, errors in ticks:
            case.errors += errors
            if any(began < at + 1 and at - 2 < ended for began, ended in spans):
                quiet.append([])
            else:
                quiet[-1].append(ms)
                case.tps.append(tps)
        for began, ended in spans:
            # A second is told when it is over; a transaction that waited is told in the second in which it ended.
            during = [ms for at, _, ms, _ in ticks if began < at and at - 1 < ended + 0.2]
            if during:
                case.felt_ms.append(max(during))
                case.usual_ms.append(usual(quiet, len(during)))


def usual(quiet, seconds):
    """The median, over all stretches of so many seconds without a switch, of the longest transaction in each."""
    longest = [max(run[at : at + seconds]) for run in quiet for at in range(len(run) - seconds + 1)]
    if not longest:
        raise Trouble(f"a switch took {seconds} s, and there are no {seconds} s without one to hold it against")
    return median(longest)


class Writers:
    """sysbench, whose words are read as they come."""

    def __init__(self, command, folder, log):
        self.command, self.folder, self.log = command, folder, log
        self.ticks, self.long = [], []

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, bufsize=1, start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return self

    def __exit__(self, *_):
        kill_group(self.process)
        self.process.wait()
        self.reader.join(10)

    def read(self):
        with open(self.log, "w") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if found := LONG.match(line):
                    self.long.append((float(found[1]), float(found[2])))
                elif found := TICK.match(line):
                    _, tps, ms, errors, reconnects = map(float, found.groups())
                    self.ticks.append((time.monotonic(), tps, ms, errors + reconnects))

    def must_live(self):
        """An error that a connection sees ends sysbench, and with it the measurement."""
        if self.process.poll() is not None:
            raise Trouble(f"a writer saw an error:\n{tail(self.log, 12)}")


def is_verified(status):
    return status["phase"] == "following" and int(status["rows_verified"]) >= 4 * load.TABLE_ROWS


def medians(steps):
    """The median of each step, in the order in which they come."""
    names = list(dict.fromkeys(name for of_one in steps.values() for name in of_one))
    return {name: median(of_one[name] for of_one in steps.values() if name in of_one) for name in names}


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def spread(values):
    """p50, p95 and the worst."""
    if not values:
        return ["", "", ""]
    return [f"{value:.0f}" for value in (percentile(values, 0.5), percentile(values, 0.95), max(values))]


def markdown(cases, setting):
    """The report."""
    head = ["application", "switches", "writes/s", "usual p50", "felt p50", "felt p95", "felt worst", "beyond p50", "beyond worst", "gate p50", "gate p95", "gate worst", "done p50", "done worst", "errors"]
    rows = []
    for case in cases:
        whole = spread(case.whole_ms)
        usual = spread(case.usual_ms)[0]
        beyond = spread(case.beyond_ms())
        tps = f"{median(case.tps):,.0f}" if case.tps else ""
        rows.append([case.name, str(len(case.gate_ms)), tps, usual, *spread(case.felt_ms), beyond[0], beyond[2], *spread(case.gate_ms), whole[0], whole[2], f"{case.errors:.0f}"])
    names = list(dict.fromkeys(name for case in cases for name in case.steps))
    steps = [[name, *(f"{case.steps[name]:.0f}" if name in case.steps else "" for case in cases)] for name in names]
    parts = [
        f"# `benches/compare cutover`: {setting.date}",
        *facts(setting),
        "## Milliseconds",
        table(head, rows),
        "*felt*: the longest that a transaction took in the seconds of the switch. *usual*: the same in as many seconds without one. "
        "*beyond*: felt, less the usual's median, which the targets are for. *gate*: what "
        "SHOW CUTOVERS says. *done*: from the statement to its answer, preparation and settling included.",
        "## Steps, median in ms",
        table(["step", *(case.name for case in cases)], steps),
        "## Where the longest transaction of a switch was: how many, median and worst ms",
        table(["application", "before the gate closed", "across the closed gate", "behind it"], [placed(case) for case in cases]),
        "## Targets",
        table(["application", "beyond p50 < 50 ms", "beyond worst < 250 ms", "no error"], [verdict(case) for case in cases]),
    ]
    undone = [f"- {case.name}: {line}" for case in cases for line in case.undone]
    if undone:
        parts += ["## Undone", "\n".join(undone)]
    return "\n\n".join([*parts, "## Configurations", *configurations(setting)]) + "\n"


def placed(case):
    """One cell for each place."""
    cells = [case.name]
    for place in ("before", "across", "behind"):
        of_it = [ms for where, ms in case.longest if where == place]
        cells.append(f"{len(of_it)}: {median(of_it):.0f}, {max(of_it):.0f}" if of_it else "")
    return cells


def verdict(case):
    word = lambda met: "met" if met else "**missed**"
    felt = case.beyond_ms()
    return [
        case.name,
        word(bool(felt) and percentile(felt, 0.5) < P50_MAX_MS),
        word(bool(felt) and max(felt) < WORST_MAX_MS),
        word(case.errors == 0 and bool(felt)),
    ]
