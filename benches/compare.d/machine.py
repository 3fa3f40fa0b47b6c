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


def describe(server, told, how, configurations, repo, hidden):
    """Machine and versions. `told` are facts of this comparison, `how` says how often it measured, and `hidden` maps
    paths to what is written for them."""
    cores, memory = processors(), memory_gb()
    commit = run(["git", "describe", "--always", "--dirty"], 10, cwd=repo).strip()
    facts = [
        ("command", f"`benches/compare {shlex.join(sys.argv[1:])}`"),
        ("machine", f"{cores}, {memory} GB; {platform.system()} {platform.release()}; everything shares it"),
        ("server", server.version()),
        ("commit", commit),
        *told,
    ]
    for path, name in hidden:
        configurations = [(title, text.replace(str(path), name)) for title, text in configurations]
    return Setting(time.strftime("%Y-%m-%d %H:%M"), facts, f"{server.version()}, {cores}; {how}", configurations)


def processors():
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(models)} × {models[0]}" if models else platform.machine()


def memory_gb():
    return round(int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024)
