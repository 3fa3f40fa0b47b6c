"""What was run on what, for the report, without a path of this machine."""

import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from process import run


@dataclass
class Setting:
    """Machine, versions and configurations."""

    date: str
    facts: list
    one_line: str
    configurations: list = field(default_factory=list)


def describe(arguments, server, peers, repo, hidden):
    """Asks everything for its version and configuration. `hidden` maps paths to what is written for them."""
    cores, memory = processors(), memory_gb()
    sysbench = run(["sysbench", "--version"], 10).split()[1]
    commit = run(["git", "describe", "--always", "--dirty"], 10, cwd=repo).strip()
    versions = [version for version in (peer.version() for peer in peers) if version]
    facts = [
        ("command", f"`benches/compare {shlex.join(sys.argv[1:])}`"),
        ("machine", f"{cores}, {memory} GB; {platform.system()} {platform.release()}; load, proxies and servers share it"),
        ("server", server.version()),
        ("proxies", ", ".join(versions) + f" (commit {commit})"),
        ("load", f"sysbench {sysbench}, {arguments.rounds} rounds of {arguments.seconds} s a case, the proxies in turn"),
    ]
    configurations = [(server.name, server.configuration()), *((peer.name, peer.configuration()) for peer in peers)]
    for path, name in hidden:
        configurations = [(title, text.replace(str(path), name)) for title, text in configurations]
    one_line = f"{server.version()}, {cores}; median of {arguments.rounds} rounds of {arguments.seconds} s"
    return Setting(time.strftime("%Y-%m-%d %H:%M"), facts, one_line, configurations)


def processors():
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(models)} × {models[0]}" if models else platform.machine()


def memory_gb():
    return round(int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024)
