"""Which tests of the suite `main` can run here: chosen by what each test and the files it sources need, not by name."""
import collections
import re

# Files of options whose options our server has anyway (see server.py).
HAD = {"have_innodb", "have_partition", "have_sequence"}
# Combinations of which exactly one fits this machine and this server; `protocol` follows from ours.
SETTLED = {"protocol", "platform", "word_size", "maybe_debug"}
# Programs that read the configuration file of the way that runs, and so connect through it.
CLIENTS = {"MYSQL", "MYSQL_DUMP", "MYSQLADMIN", "MYSQL_IMPORT", "MYSQL_CHECK", "MYSQL_SHOW"}

SOURCE = re.compile(r"^[ \t]*(?:--[ \t]*)?source[ \t]+([^\s;]+)", re.M | re.I)
EXEC = re.compile(r"^[ \t]*(?:--[ \t]*)?(?:exec|exec_in_background|system)[ \t]+(\S+)", re.M | re.I)
STOPS = re.compile(r"^[ \t]*(?:--[ \t]*)?(?:shutdown_server|send_shutdown|shutdown)\b", re.M | re.I)
# By the name of a file that a test sources. mysql-test-run itself skips the first kind before it asks the server.
NEEDS = [
    (re.compile(r"^have_(debug|debug_sync)\.inc$"), "a debug build of the server"),
    (re.compile(r"^(big_test|no_valgrind_without_big|long_test)\.inc$"), "hours and gigabytes (big_test)"),
    (re.compile(r"^(master-slave|rpl_init|rpl_connect|have_log_bin|have_binlog_format.*)\.inc$"), "replication or a binary log"),
    (re.compile(r"^(restart|start|shutdown|kill|kill_and_restart)_mysqld.*\.inc$"), "a server that stops or starts again"),
    (re.compile(r"^(is_embedded|windows|have_example_plugin)\.inc$"), "another system or plugin"),
]


class Suite:
    """The tests of `main` as they lie in the package."""

    def __init__(self, root):
        self.root, self.main = root, root / "main"
        self.read = {}
        lines = (self.main / "disabled.def").read_text().splitlines()
        self.disabled = {line.split(":")[0].strip() for line in lines if ":" in line and not line.startswith("#")}

    def text(self, path):
        if path not in self.read:
            self.read[path] = path.read_text(encoding="latin-1")
        return self.read[path]

    def sourced(self, path, seen):
        """The test and all files it sources, as far as their names stand in the text."""
        if path in seen:
            return seen
        seen[path] = True
        for name in SOURCE.findall(self.text(path)):
            for candidate in (self.root / name, path.parent / name, self.main / name):
                if candidate.is_file():
                    self.sourced(candidate.resolve(), seen)
                    break
        return seen

    def hindrance(self, test):
        """Why a test is left out; `None`: it's chosen."""
        name = test.stem
        if name in self.disabled:
            return "disabled in the suite itself"
        if any((self.main / f"{name}{end}").exists() for end in (".opt", "-master.opt", ".cnf", "-master.sh", "-slave.opt")):
            return "server options of its own"
        if (self.main / f"{name}.combinations").exists():
            return "combinations of server options"
        if not (self.main / f"{name}.result").exists():
            return "no result file"
        for file in self.sourced(test, {}):
            for pattern, reason in NEEDS:
                if pattern.match(file.name):
                    return reason
            if file.with_suffix(".opt").exists() and file.stem not in HAD:
                return "server options of a file it sources"
            if file.with_suffix(".combinations").exists() and file.stem not in SETTLED:
                return "combinations of server options"
            if STOPS.search(self.text(file)):
                return "a server that stops or starts again"
            programs = (word.lstrip("$") for word in EXEC.findall(self.text(file)))
            if any(program not in CLIENTS for program in programs):
                return "programs other than the ordinary clients"
        return None

    def choose(self):
        """The names of the tests that can run here, and how many were left out for which reason."""
        chosen, left_out = [], collections.Counter()
        for test in sorted(self.main.glob("*.test")):
            reason = self.hindrance(test)
            if reason:
                left_out[reason] += 1
            else:
                chosen.append(test.stem)
        return chosen, left_out
