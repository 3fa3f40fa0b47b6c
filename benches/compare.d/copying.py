"""`benches/compare copy`: a schema from one server to another, by Changeover and by what people use today."""

import json
import shlex
import shutil
import time
from statistics import median

import machine
from choices import names
from migration import Migration
from process import Trouble, bound_in_time, cpu_s, free_ports, most_resident_kb, run, say
from report import configurations, facts, table
from servers import PASSWORD, MariaDb, make_certificates
from workplace import output_of, workplace
from shapes import SCHEMA, SHAPES

PEERS = ("dump", "mydumper", "floor", "Changeover")
TITLES = {"dump": "mysqldump \\| mysql", "mydumper": "mydumper + myloader", "floor": "floor", "Changeover": "Changeover"}
AT_ONCE = 4
LIMIT_S = 600


def add_arguments(parser):
    """The flags; their defaults are a run of about half an hour."""
    keys = [shape.key for shape in SHAPES]
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="in each of which every peer has its turn [3]")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="of the number of rows; 1: 2,000,000 [1]")
    parser.add_argument("--shapes", type=names(keys), default=keys, metavar="A,B", help=f"of {','.join(keys)}")
    parser.add_argument("--peers", type=names(PEERS), default=list(PEERS), metavar="A,B", help=f"of {','.join(PEERS)}")
    parser.add_argument("--binlog", type=names(("on", "off")), default=["on", "off"], metavar="A,B", help="of the target: on,off")
    parser.add_argument("--autoinc-lock-mode", type=int, choices=(0, 1, 2), default=1, metavar="N", help="innodb_autoinc_lock_mode of the servers [1, their default]")


def compare(arguments, repo):
    """The whole run. Answers the exit code."""
    output = output_of(repo)
    measurements = arguments.rounds * len(arguments.shapes) * len(arguments.peers) * len(arguments.binlog)
    bound_in_time(900 + measurements * 120)
    with workplace(output) as (folder, processes):
        bench = Bench(arguments, repo, folder, processes)
        bench.measure()
    text = markdown(bench)
    (output / "copy.md").write_text(text)
    raw = [{"shape": shape, "binlog": binlog, "peer": peer, "s": values} for (shape, binlog, peer), values in bench.seconds.items()]
    (output / "copy.json").write_text(json.dumps(raw, indent=1))
    print(text)
    say("written: copy.md, copy.json and logs.txt in target/compare/")
    return 0


class Bench:
    """A source, a target with and one without binlog, and every way from one to the other."""

    def __init__(self, arguments, repo, folder, processes):
        self.arguments, self.repo, self.folder, self.processes = arguments, repo, folder, processes
        self.shapes = [shape for shape in SHAPES if shape.key in arguments.shapes]
        self.seconds, self.sizes, self.missing, self.inexact = {}, {}, [], set()
        # Of Changeover's runs: seconds before the first row, CPU seconds of each process, MB at most.
        self.stages = {}
        self.runs = 0

    def measure(self):
        self.tls = make_certificates(self.folder / "tls")
        ports = free_ports(6)
        self.ports = ports[3:]
        more = ["--max-allowed-packet=256M", "--innodb-buffer-pool-size=1G", "--local-infile=ON"]
        more.append(f"--innodb-autoinc-lock-mode={self.arguments.autoinc_lock_mode}")
        self.source = self.start("source", ports[0], 1, more)
        self.targets = {
            "on": self.start("target", ports[1], 2, more),
            "off": self.start("target-without-binlog", ports[2], 3, [*more, "--skip-log-bin"]),
        }
        for shape in self.shapes:
            self.fill(shape)
            for number in range(self.arguments.rounds):
                first = number % len(self.arguments.peers)
                for binlog in self.arguments.binlog:
                    for peer in self.arguments.peers[first:] + self.arguments.peers[:first]:
                        self.one(shape, binlog, peer)
        told = [
            ("rows", f"scale {self.arguments.scale}, {self.arguments.rounds} rounds, medians; {AT_ONCE} connections for all but mysqldump"),
            ("durability", "all servers: sync_binlog = 0, innodb_flush_log_at_trx_commit = 2"),
            ("floor", "SELECT piped into LOAD DATA LOCAL, 4 at once (the one table in 4 ranges), secondary index afterwards"),
        ]
        shown = [(each.name, each.configuration()) for each in (self.source, *self.targets.values())]
        hidden = [(self.folder, "FOLDER"), (self.repo, "REPO")]
        self.setting = machine.describe(self.source, told, f"median of {self.arguments.rounds} rounds", shown, self.repo, hidden)

    def start(self, name, port, number, more):
        server = MariaDb(name, self.folder / name, port, number, self.tls, 400, more)
        server.start(self.processes)
        server.make_accounts()
        return server

    def fill(self, shape):
        say(f"filling: {shape.title}")
        batch = []
        for statement in shape.statements(self.arguments.scale):
            batch.append(statement)
            if len(batch) == 100:
                self.source.sql(";\n".join(batch), LIMIT_S)
                batch.clear()
        self.source.sql(";\n".join([*batch, "RESET MASTER"]), LIMIT_S)
        size = self.source.sql(f"SELECT SUM(data_length) FROM information_schema.tables WHERE table_schema = '{SCHEMA}'")
        self.sizes[shape.key] = int(float(size.strip() or 0))

    def one(self, shape, binlog, peer):
        """One copy by one peer, checked."""
        target = self.targets[binlog]
        target.sql(f"DROP DATABASE IF EXISTS {SCHEMA}; DROP DATABASE IF EXISTS changeover", 120)
        if binlog == "on":
            target.sql("RESET MASTER")
        self.runs += 1
        place = self.folder / f"run-{self.runs}"
        place.mkdir()
        what = f"{shape.title}, binlog {binlog}, {peer}"
        try:
            took = getattr(self, peer.lower())(shape, target, place)
            if not self.check(shape, target):
                self.inexact.add((shape.key, peer))
            self.seconds.setdefault((shape.key, binlog, peer), []).append(took)
            say(f"{what}: {took:.2f} s")
        except Trouble as error:
            say(f"{what}: {error}")
            self.missing.append((what, str(error).splitlines()[0]))
        shutil.rmtree(place, ignore_errors=True)

    def check(self, shape, target):
        """What isn't the same afterwards is told beside the time it took."""
        every = shape.names(self.arguments.scale)
        some = every[:: max(1, len(every) // 8)]
        sql = f"CHECKSUM TABLE {', '.join(f'{SCHEMA}.{name}' for name in some)} EXTENDED"
        return self.source.sql(sql, LIMIT_S) == target.sql(sql, LIMIT_S)

    def client(self, server, program="mariadb"):
        return [program, "--no-defaults", f"--socket={server.socket}", "--user=root"]

    def shell(self, script):
        began = time.monotonic()
        run(["bash", "-c", f"set -euo pipefail\n{script}"], LIMIT_S)
        return time.monotonic() - began

    def dump(self, shape, target, place):
        """One after the other through one pipe."""
        dump = [*self.client(self.source, "mariadb-dump"), "--single-transaction", "--quick", "--databases", SCHEMA]
        return self.shell(f"{shlex.join(dump)} | {shlex.join([*self.client(target), '--max-allowed-packet=1G'])}")

    def mydumper(self, shape, target, place):
        """To files and from there, four threads each."""
        place = place / "dump"
        where = lambda server: ["--host=127.0.0.1", f"--port={server.port}", "--user=service", f"--password={PASSWORD}"]
        dump = ["mydumper", *where(self.source), f"--threads={AT_ONCE}", f"--database={SCHEMA}", f"--outputdir={place}", "--rows=100000", "--trx-consistency-only"]
        load = ["myloader", *where(target), f"--threads={AT_ONCE}", f"--directory={place}", "--overwrite-tables", "--queries-per-transaction=100"]
        if target is self.targets["on"]:
            load.append("--enable-binlog")
        return self.shell(f"{shlex.join(dump)} >/dev/null 2>&1 && {shlex.join(load)} >/dev/null 2>&1")

    def floor(self, shape, target, place):
        """What a shell can do at best: no protocol of ours, nothing to follow, nothing to survive."""
        made = [f"CREATE DATABASE {SCHEMA}", f"USE {SCHEMA}", *(shape.bare(name) for name in shape.names(self.arguments.scale))]
        (place / "make.sql").write_text(";\n".join(made))
        parts = self.parts(shape)
        lines = []
        read = shlex.join([*self.client(self.source), "--quick", "--batch", "--skip-column-names", "--default-character-set=binary", SCHEMA])
        write = shlex.join([*self.client(target), "--local-infile=1", "--default-character-set=binary", SCHEMA])
        for name, condition in parts:
            select, load = f"SELECT * FROM {name}{condition}", f"LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {name} CHARACTER SET binary"
            lines.append(f"{read} -e {shlex.quote(select)} | {write} -e {shlex.quote('SET unique_checks = 0, foreign_key_checks = 0; ' + load)}")
        (place / "lines").write_text("\n".join(lines) + "\n")
        indexes = [f"{write} -e {shlex.quote(f'ALTER TABLE {name} ADD {shape.index}')}" for name in shape.names(self.arguments.scale)] if shape.index else []
        (place / "indexes").write_text("\n".join(indexes) + ("\n" if indexes else ""))
        each = f"xargs -P {AT_ONCE} -d '\\n' -n 1 bash -o pipefail -c"
        return self.shell(
            f"{shlex.join(self.client(target))} < {place / 'make.sql'}\n{each} < {place / 'lines'}\n"
            + (f"{each} < {place / 'indexes'}" if indexes else "")
        )

    def parts(self, shape):
        """What is piped: tables, or four ranges where there is one table."""
        every = shape.names(self.arguments.scale)
        if len(every) > 1:
            return [(name, "") for name in every]
        rows = shape.rows_each(self.arguments.scale)
        bounds = [rows * number // AT_ONCE for number in range(AT_ONCE + 1)]
        return [("t1", f" WHERE id > {low} AND id <= {high}") for low, high in zip(bounds, bounds[1:])]

    def changeover(self, shape, target, place):
        """From START MIGRATION to the last chunk; what comes after it is the tail's."""
        binary = self.repo / "target/release/changeover"
        more = f"[snapshot]\nreaders = {AT_ONCE}\n"
        migration = Migration(self.ports, self.source, target, self.tls, binary, place, (SCHEMA,), more)
        migration.start(self.processes, place)
        processes = {"source": self.source.process, "target": target.process, "Changeover": migration.process}
        spent = lambda: {name: cpu_s(process.pid) for name, process in processes.items()}
        try:
            before, wall, began = spent(), time.time(), time.monotonic()
            migration.admin("START MIGRATION")
            migration.wait("the copy", lambda status: status["phase"] in ("catching_up", "following"), LIMIT_S)
            took, after = time.monotonic() - began, spent()
            cpu = {name: after[name] - before[name] for name in after}
            stage = {"before": migration.phases()["copying"] - wall, "took": took, "mb": most_resident_kb(migration.process.pid) / 1024, **cpu}
            self.stages.setdefault((shape.key, "on" if target is self.targets.get("on") else "off"), []).append(stage)
            migration.wait("following", lambda status: status["phase"] == "following", 60)
            return took
        finally:
            self.processes.stop(migration.process)


def markdown(bench):
    """The report."""
    parts = [f"# `benches/compare copy`: {bench.setting.date}", *facts(bench.setting)]
    for binlog in bench.arguments.binlog:
        parts += [f"## Binlog of the target {binlog}", of_binlog(bench, binlog)]
        if "Changeover" in bench.arguments.peers:
            parts += ["Where Changeover's time went (medians):", stages(bench, binlog)]
    if bench.inexact:
        said = "\\* The copy isn't what the source is, by CHECKSUM TABLE: text has fewer digits than a FLOAT."
        parts.append(said)
    if bench.missing:
        parts += ["## Missing", "\n".join(f"- {what}: {why}" for what, why in bench.missing)]
    return "\n\n".join([*parts, "## Configurations", *configurations(bench.setting)]) + "\n"


def of_binlog(bench, binlog):
    peers = bench.arguments.peers
    against = [peer for peer in ("mydumper", "floor") if peer in peers and "Changeover" in peers]
    head = ["shape", *(f"{TITLES[peer]}, s" for peer in peers), *(f"{TITLES[peer]} / Changeover" for peer in against), "MB/s", "rows/s"]
    rows = []
    for shape in bench.shapes:
        found = {peer: bench.seconds.get((shape.key, binlog, peer), []) for peer in peers}
        ours = median(found["Changeover"]) if found.get("Changeover") else None
        ratios = [ratio(found[peer], found["Changeover"]) for peer in against]
        count = shape.rows_each(bench.arguments.scale) * len(shape.names(bench.arguments.scale))
        speed = [f"{bench.sizes[shape.key] / 1e6 / ours:,.0f}", f"{count / ours:,.0f}"] if ours else ["", ""]
        took = [f"{median(found[peer]):.2f}{star(bench, shape, peer)}" if found[peer] else "" for peer in peers]
        rows.append([shape.title, *took, *ratios, *speed])
    return table(head, rows)


def stages(bench, binlog):
    """Seconds before the first row, and who took the processors for how long."""
    head = ["shape", "before the first row, s", "rows and indexes, s", "CPU s: source", "CPU s: target", "CPU s: Changeover", "cores busy", "MB at most"]
    rows = []
    for shape in bench.shapes:
        runs = bench.stages.get((shape.key, binlog), [])
        if runs:
            of = lambda name: median(run[name] for run in runs)
            cpu = [of(name) for name in ("source", "target", "Changeover")]
            rows.append([
                shape.title, f"{of('before'):.2f}", f"{of('took') - of('before'):.2f}", *(f"{s:.2f}" for s in cpu),
                f"{sum(cpu) / of('took'):.2f}", f"{of('mb'):.0f}",
            ])  # fmt: skip
    return table(head, rows)


def star(bench, shape, peer):
    """Marks a copy that isn't exact."""
    return " \\*" if (shape.key, peer) in bench.inexact else ""


def ratio(theirs, ours):
    """How many times as long the other took: the median of the rounds' own ratios."""
    pairs = [their / our for their, our in zip(theirs, ours)]
    return f"{median(pairs):.2f}" if pairs else ""
