"""The load: sysbench, once for each case, and what it measured."""

import re
from dataclasses import dataclass
from pathlib import Path

from process import Trouble, run
from servers import PASSWORD, SCHEMA, USER

HERE = Path(__file__).resolve().parent
TABLES, TABLE_ROWS = 4, 50_000
SIZE = [f"--tables={TABLES}", f"--table-size={TABLE_ROWS}"]


@dataclass(frozen=True)
class Case:
    """One kind of load. `unit` is what is counted a second, and what the proxy's CPU time is divided by."""

    name: str
    script: str
    threads: int
    unit: str

    @property
    def key(self):
        """How the command line calls it."""
        return self.name.replace(" ", "-").replace(",", "")


# Point selects and transactions are sysbench's own scripts with their own defaults (prepared statements).
CASES = [
    Case("point select 1", "oltp_point_select", 1, "query"),
    Case("point select 16", "oltp_point_select", 16, "query"),
    Case("point select 128", "oltp_point_select", 128, "query"),
    Case("read_write 16", "oltp_read_write", 16, "query"),
    Case("read_write 128", "oltp_read_write", 128, "query"),
    Case("10,000 rows 16", str(HERE / "large_result.lua"), 16, "result"),
    Case("connect 16", str(HERE / "reconnect.lua"), 16, "connection"),
]


@dataclass(frozen=True)
class Sample:
    """One run of one case through one peer."""

    per_s: float
    p95_ms: float
    cpu_us: float | None
    errors: int


def sysbench(tls_folder, tls, port, script, command, options, timeout_s):
    """Runs sysbench. A connection that it loses ends it, so that no figure is of half the threads."""
    account = [f"--mysql-user={USER}", f"--mysql-password={PASSWORD}", f"--mysql-db={SCHEMA}"]
    address = ["--mysql-host=127.0.0.1", f"--mysql-port={port}", f"--mysql-ssl={'on' if tls else 'off'}"]
    try:
        return run(["sysbench", script, *address, *account, *options, command], timeout_s, cwd=tls_folder)
    except Trouble as error:
        # Of its hundreds of lines the first fatal one is the reason.
        reason = re.search(r"FATAL: (.*error \d+.*)", str(error)) or re.search(r"FATAL: (.*)", str(error))
        raise Trouble(f"sysbench: {reason[1]}") if reason else error from None


def version():
    """Of the load itself."""
    return "sysbench " + run(["sysbench", "--version"], 10).split()[1]


def prepare(server, tls_folder):
    """Fills the tables."""
    sysbench(tls_folder, False, server.port, "oltp_read_write", "prepare", [*SIZE, "--threads=2"], 300)
    server.sql(f"ANALYZE TABLE {', '.join(f'{SCHEMA}.sbtest{n + 1}' for n in range(TABLES))}", 120)


def measure(case, peer, tls, seconds, tls_folder):
    """Runs a case through a peer."""
    options = [f"--threads={case.threads}", f"--time={seconds}", "--events=0", "--percentile=95"]
    if case.unit != "connection":
        options += SIZE
    cpu_before = peer.cpu_s()
    output = sysbench(tls_folder, tls, peer.port, case.script, "run", options, seconds + 90)
    cpu_after = peer.cpu_s()
    return read_output(output, case, None if cpu_before is None else cpu_after - cpu_before)


def read_output(output, case, cpu_s):
    """The figures of a sysbench run."""

    def number(pattern):
        found = re.search(pattern, output)
        if not found:
            raise Trouble(f"sysbench's output has no {pattern!r}:\n{output[-2000:]}")
        return float(found[1])

    events = number(r"total number of events:\s+([\d.]+)")
    # Statements a second where statements are what is measured, else events.
    done = number(r"queries:\s+([\d.]+)") if case.unit == "query" else events
    if done == 0:
        raise Trouble(f"sysbench did nothing:\n{output[-2000:]}")
    return Sample(
        per_s=done / number(r"total time:\s+([\d.]+)s"),
        p95_ms=number(r"95th percentile:\s+([\d.]+)"),
        cpu_us=None if cpu_s is None else cpu_s * 1e6 / done,
        errors=int(number(r"ignored errors:\s+(\d+)") + number(r"reconnects:\s+(\d+)")),
    )
