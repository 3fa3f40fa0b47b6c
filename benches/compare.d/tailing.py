"""`benches/compare tail`: a backlog of transactions, applied by Changeover and by a native replica."""

import json
import re
import threading
import time
from statistics import median

import load
import machine
from choices import names
from migration import Migration
from process import Trouble, bound_in_time, cpu_s, free_ports, most_resident_kb, run, say
from report import configurations, facts, table
from servers import PASSWORD, SCHEMA, USER, MariaDb, make_certificates
from workplace import output_of, workplace

WORKERS = 4
LIMIT_S = 900
# (key, title, sysbench script, events at scale 1, more options, row changes an event)
BACKLOGS = [
    ("writes", "oltp_write_only, 4 tables", "oltp_write_only", 40_000, [], 4),
    ("long", "oltp_write_only, ten times as many", "oltp_write_only", 400_000, [], 4),
    ("hot", "hot rows: 20 rows of one table", "oltp_update_non_index", 40_000, ["--tables=1", "--table-size=20"], 1),
    ("single", "single-row autocommit", "oltp_update_non_index", 100_000, [], 1),
]
LARGE = ("large", "one transaction of 1,000,000 rows")


def add_arguments(parser):
    """The flags; their defaults are a run of about half an hour."""
    keys = [backlog[0] for backlog in BACKLOGS] + [LARGE[0]]
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="in each of which both have their turn [2]")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="of the number of transactions [1]")
    parser.add_argument("--backlogs", type=names(keys), default=keys, metavar="A,B", help=f"of {','.join(keys)}")
    parser.add_argument("--rate", type=int, default=2000, metavar="N", help="transactions a second while the lag is watched; 0: not [2000]")
    parser.add_argument("--seconds", type=int, default=30, metavar="N", help="for which it is watched [30]")


def compare(arguments, repo):
    """The whole run. Answers the exit code."""
    output = output_of(repo)
    bound_in_time(1200 + arguments.rounds * len(arguments.backlogs) * 400)
    with workplace(output) as (folder, processes):
        bench = Bench(arguments, repo, folder, processes)
        bench.measure()
    text = markdown(bench)
    (output / "tail.md").write_text(text)
    raw = {"seconds": [[*key, values] for key, values in bench.seconds.items()], "lag_ms": bench.lags_ms}
    (output / "tail.json").write_text(json.dumps(raw, indent=1))
    print(text)
    say("written: tail.md, tail.json and logs.txt in target/compare/")
    return 0


class Bench:
    """A source, a native replica of it, and Changeover into a third server."""

    def __init__(self, arguments, repo, folder, processes):
        self.arguments, self.repo, self.folder, self.processes = arguments, repo, folder, processes
        self.seconds, self.cpu, self.rows, self.lags_ms, self.missing = {}, {}, {}, [], []
        self.memory_mb = 0

    def measure(self):
        self.tls = make_certificates(self.folder / "tls")
        ports = free_ports(6)
        more = ["--innodb-buffer-pool-size=512M", "--local-infile=ON", f"--slave-parallel-threads={WORKERS}", "--slave-parallel-mode=optimistic"]
        self.source, self.replica, self.target = (
            MariaDb(name, self.folder / name, ports[number], number + 1, self.tls, 400, more)
            for number, name in enumerate(("source", "replica", "target"))
        )
        for server in (self.source, self.replica, self.target):
            server.start(self.processes)
            server.sql("RESET MASTER")
        self.follow_natively()
        self.source.make_accounts()
        self.target.make_accounts()
        self.target.sql(f"DROP DATABASE {SCHEMA}")
        load.prepare(self.source, self.tls)
        binary = self.repo / "target/release/changeover"
        self.migration = Migration(ports[3:], self.source, self.target, self.tls, binary, self.folder, (SCHEMA,), f"[apply]\nworkers = {WORKERS}\n")
        self.migration.start(self.processes, self.folder)
        self.migration.admin("START MIGRATION")
        self.migration.wait("following", lambda status: status["phase"] == "following", LIMIT_S)
        for number in range(self.arguments.rounds):
            for backlog in BACKLOGS:
                if backlog[0] in self.arguments.backlogs:
                    self.one(backlog[0], backlog[1], number, lambda backlog=backlog: self.sysbench(*backlog[2:]))
            if LARGE[0] in self.arguments.backlogs:
                self.one(*LARGE, number, self.large)
        if self.arguments.rate:
            self.watch_lag()
        self.memory_mb = most_resident_kb(self.migration.process.pid) / 1024
        told = [
            ("applied by", f"Changeover with {WORKERS} workers; a MariaDB replica with {WORKERS} optimistic parallel threads"),
            ("durability", "all servers: sync_binlog = 0, innodb_flush_log_at_trx_commit = 2, binlog on"),
            ("measured", "from RESUME MIGRATION, or START SLAVE, to the last transaction applied; the source is idle meanwhile, and both fetch the binlog in that time"),
        ]
        shown = [(self.source.name, self.source.configuration()), (self.migration.name, self.migration.configuration())]
        hidden = [(self.folder, "FOLDER"), (self.repo, "REPO")]
        self.setting = machine.describe(self.source, told, f"median of {self.arguments.rounds} rounds", shown, self.repo, hidden)

    def follow_natively(self):
        self.source.sql(f"CREATE USER follower@'%' IDENTIFIED BY '{PASSWORD}'; GRANT REPLICATION SLAVE ON *.* TO follower@'%'")
        self.replica.sql(
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {self.source.port}, MASTER_USER = 'follower', "
            f"MASTER_PASSWORD = '{PASSWORD}', MASTER_USE_GTID = slave_pos; START SLAVE"
        )

    def end(self):
        return self.source.sql("SELECT @@gtid_binlog_pos").strip()

    def native_at(self, position):
        answer = self.replica.sql(f"SELECT MASTER_GTID_WAIT('{position}', {LIMIT_S})", LIMIT_S + 10).strip()
        if answer != "0":
            raise Trouble(f"the replica isn't there: {self.replica.sql('SHOW SLAVE STATUS')[-600:]}")

    def ours_at(self, position):
        self.migration.wait("the backlog", lambda status: position in re.split(r"[ ,@;]", status["applied_position"] or ""), LIMIT_S)

    def one(self, key, title, number, fill):
        """Both are stopped, the backlog is made, and each applies it while the other stands still."""
        before = self.end()
        self.native_at(before)
        self.ours_at(before)
        self.replica.sql("STOP SLAVE")
        self.migration.admin("PAUSE MIGRATION")
        self.rows[key] = fill()
        position = self.end()
        ways = [("native replica", lambda: self.replica.sql("START SLAVE"), self.native_at),
                ("Changeover", lambda: self.migration.admin("RESUME MIGRATION"), self.ours_at)]  # fmt: skip
        for name, begin, arrived in ways if number % 2 == 0 else reversed(ways):
            try:
                began, before = time.monotonic(), self.cpu_each()
                begin()
                arrived(position)
                took, after = time.monotonic() - began, self.cpu_each()
                self.seconds.setdefault((key, title, name), []).append(took)
                self.cpu.setdefault((key, title, name), []).append({of: after[of] - before[of] for of in after})
                say(f"{title}, {name}: {took:.2f} s, {self.rows[key] / took:,.0f} rows/s")
            except Trouble as error:
                say(f"{title}, {name}: {error}")
                self.missing.append((f"{title}, {name}", str(error).splitlines()[0]))

    def cpu_each(self):
        """CPU seconds so far, by process."""
        each = {"source": self.source, "replica": self.replica, "target": self.target, "Changeover": self.migration}
        return {name: cpu_s(of.process.pid) for name, of in each.items()}

    def sysbench(self, script, events, options, changes):
        events = int(events * self.arguments.scale)
        size = options or load.SIZE
        self.run_sysbench(script, [*size, f"--events={events}", "--time=0", "--threads=8"], LIMIT_S)
        return events * changes

    def run_sysbench(self, script, options, limit_s):
        account = [f"--mysql-user={USER}", f"--mysql-password={PASSWORD}", f"--mysql-db={SCHEMA}"]
        address = ["--mysql-host=127.0.0.1", f"--mysql-port={self.source.port}", "--mysql-ssl=off"]
        return run(["sysbench", script, *address, *account, *options, "run"], limit_s, cwd=self.tls)

    def large(self):
        """One statement over a table that is made for it."""
        rows = int(1_000_000 * self.arguments.scale)
        self.source.sql(
            f"USE {SCHEMA};"
            f"INSERT INTO sbtest1 (k, c, pad) SELECT seq % 499, MD5(seq), MD5(seq) FROM seq_1_to_{rows}",
            LIMIT_S,
        )
        return rows

    def watch_lag(self):
        """What SHOW MIGRATION STATUS says of the lag, ten times a second, under steady load."""
        say(f"watching the lag at {self.arguments.rate} transactions a second")
        self.ours_at(self.end())
        options = [*load.SIZE, f"--rate={self.arguments.rate}", f"--time={self.arguments.seconds}", "--events=0", "--threads=8"]
        writing = threading.Thread(target=self.run_sysbench, args=("oltp_update_non_index", options, LIMIT_S))
        writing.start()
        time.sleep(2)
        while writing.is_alive():
            self.lags_ms.append(int(self.migration.status()["lag_ms"] or 0))
            time.sleep(0.1)
        writing.join()


def markdown(bench):
    """The report."""
    keys = list(dict.fromkeys((key, title) for key, title, _ in bench.seconds))
    head = ["backlog", "row changes", "native replica, s", "Changeover, s", "native, rows/s", "Changeover, rows/s", "native / Changeover"]
    rows = []
    for key, title in keys:
        native = bench.seconds.get((key, title, "native replica"), [])
        ours = bench.seconds.get((key, title, "Changeover"), [])
        count = bench.rows[key]
        pairs = [theirs / our for theirs, our in zip(native, ours)]
        each = [[f"{median(values):.2f}", f"{count / median(values):,.0f}"] if values else ["", ""] for values in (native, ours)]
        rows.append([title, f"{count:,}", each[0][0], each[1][0], each[0][1], each[1][1], f"{median(pairs):.2f}" if pairs else ""])
    cpu_head = ["backlog", "native: source", "native: replica", "Changeover: source", "Changeover: target", "Changeover: itself", "cores busy"]
    cpu_rows = [cpu_row(bench, key, title) for key, title in keys]
    parts = [
        f"# `benches/compare tail`: {bench.setting.date}",
        *facts(bench.setting),
        "## Backlogs",
        table(head, rows),
        "## CPU of each process, µs a row change (median)",
        table(cpu_head, cpu_rows),
        f"Changeover's resident memory was {bench.memory_mb:,.0f} MB at most.",
    ]
    if bench.lags_ms:
        ordered = sorted(bench.lags_ms)
        at = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
        said = f"{bench.arguments.rate} transactions a second for {bench.arguments.seconds} s: p50 {at(0.5)} ms, p99 {at(0.99)} ms, worst {ordered[-1]} ms ({len(ordered)} looks)."
        parts += ["## Lag", said]
    if bench.missing:
        parts += ["## Missing", "\n".join(f"- {what}: {why}" for what, why in bench.missing)]
    return "\n\n".join([*parts, "## Configurations", *configurations(bench.setting)]) + "\n"


def cpu_row(bench, key, title):
    """What each process took of the processors, and how many of them all took together beside Changeover's run."""
    each_us = lambda name, of: median(spent[of] for spent in bench.cpu.get((key, title, name), [{of: 0}])) * 1e6 / bench.rows[key]
    ours = list(zip(bench.cpu.get((key, title, "Changeover"), []), bench.seconds.get((key, title, "Changeover"), [])))
    busy = median(sum(spent.values()) / took for spent, took in ours) if ours else 0
    columns = [("native replica", "source"), ("native replica", "replica"), *(("Changeover", of) for of in ("source", "target", "Changeover"))]
    return [title, *(f"{each_us(*column):.1f}" for column in columns), f"{busy:.2f}"]
