"""Child processes that can't outlive the run, and what the kernel knows of them."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Trouble(Exception):
    """A comparison that can't go on; its text says why."""


class OutOfTime(Exception):
    """The whole run took far longer than it should."""


def bound_in_time(seconds):
    """Every step has a deadline of its own; this one is for all of them together."""

    def too_long(*_):
        raise OutOfTime

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(int(seconds))


def say(text):
    """A line of progress; the report alone goes to stdout."""
    print(f"compare: {text}", file=sys.stderr, flush=True)


class Processes:
    """Every process of the run. Leaving the `with` block kills them, however it is left; `setpriv` makes the
    kernel do it where this process itself is killed and can't."""

    def __init__(self):
        self._running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of them behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in list(self._running):
            self.stop(process)

    def start(self, name, command, log):
        """Starts a program in a process group of its own, both outputs appended to `log`."""
        with open(log, "ab") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        process.name, process.log = name, Path(log)
        self._running.append(process)
        return process

    def stop(self, process):
        """Kills a process with its group at once: nothing in these folders is worth a clean end."""
        kill_group(process)
        process.wait()
        self._running.remove(process)

    def must_live(self):
        """Stops the comparison where something ended by itself: its figures would be of nothing."""
        for process in self._running:
            if process.poll() is not None:
                raise Trouble(f"{process.name} ended by itself ({process.returncode}):\n{tail(process.log)}")


def run(command, timeout_s, cwd=None, input=None):
    """Runs a program to its end and answers its output; it is killed with its group at the deadline."""
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=cwd,
    ) as process:
        try:
            output, _ = process.communicate(input, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            kill_group(process)
            output, _ = process.communicate()
            raise Trouble(f"{command[0]} didn't end within {timeout_s} s:\n{output[-2000:]}") from None
        except BaseException:
            kill_group(process)
            raise
    if process.returncode != 0:
        raise Trouble(f"{command[0]} failed ({process.returncode}):\n{output[-2000:]}")
    return output


def kill_group(process):
    """Kills a process and its children, which a fork of it may have outlived."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def wait_for(what, probe, process, deadline_s=60):
    """Asks `probe` until it answers without an exception, while `process` lives."""
    began = time.monotonic()
    while True:
        try:
            return probe()
        except (OSError, Trouble) as error:
            why = error
        if process.poll() is not None:
            raise Trouble(f"{process.name} ended at its start ({process.returncode}):\n{tail(process.log)}")
        if time.monotonic() - began > deadline_s:
            raise Trouble(f"waited {deadline_s} s for {what}: {why}\n{tail(process.log)}")
        time.sleep(0.05)


def tail(path, lines=30):
    """The end of a log."""
    try:
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def keep_logs(folder, output):
    """The ends of the logs, for when something looks odd."""
    kept = [f"== {path.relative_to(folder)}\n{tail(path, 200)}\n" for path in sorted(folder.glob("**/*log"))]
    (output / "logs.txt").write_text("\n".join(kept))


def free_ports(count):
    """Ports nobody listens on, below the range that the kernel hands to outgoing connections, so that they
    stay free until the servers take them."""
    found, step = [], os.getpid() * 131
    while len(found) < count:
        step += 1
        port = 20_000 + step % 12_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


def cpu_s(pid):
    """CPU seconds of a process so far: user and system, every thread it has or had."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_kb(pid):
    """Resident memory of a process."""
    return of_status(pid, "VmRSS")


def most_resident_kb(pid):
    """The same, at its highest so far."""
    return of_status(pid, "VmHWM")


def of_status(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def raise_open_files(wanted):
    """Raises the limit of open files for this process and its children as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    for limits in ((wanted, max(hard, wanted)), (min(hard, wanted), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return limits[0]
        except (ValueError, OSError):
            continue
    return soft
