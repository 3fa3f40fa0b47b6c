"""What every driver suite needs: a server, Changeover in front of it, and the comparison of three runs.

A suite is run direct, through the proxy, and through the proxy with `move_every = 1`, where both backends are the
one server. A test whose outcome differs from the direct one is a failure, unless `differences` lists it with a
reason; a listed one that no longer differs is a failure as well, so that the list stays true.

`--engine mariadb` (the default: the system's) or `--engine mysql97` (fetched by tests/support/fetch-mysql97).
"""
import argparse
import atexit
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOWNLOADS = ROOT / "target" / "drivers"
WAYS = ("direct", "proxy", "moved")
PASSWORD = "service-Secret_1"
ENGINES = ("mariadb", "mysql97")


def engine():
    """The engine named on the command line."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="mariadb")
    return parser.parse_args().engine


def differences(folder, engine):
    """The suite's list of known differences for this engine."""
    return listed(folder / ("differences" if engine == "mariadb" else f"differences-{engine}"))


def packages(*pairs):
    """Installs what this machine lacks from its own package sources; `COMMAND_OR_FILE=PACKAGE` each, as ./test does."""
    setup = ROOT / "tests" / "support" / "setup.sh"
    subprocess.run(["bash", "-c", '. "$1" && shift && need_packages "$@"', "drivers", setup, *pairs],
                   check=True, env={**os.environ, "ME": "drivers"})


def environment(*wanted):
    """The Python of a virtual environment with these packages of PyPI, made where it isn't there."""
    folder = DOWNLOADS / "python"
    python = folder / "bin" / "python"
    if not python.exists():
        # Debian's Python has it in a package of its own.
        if importlib.util.find_spec("ensurepip") is None:
            packages("/usr/lib/python3*/ensurepip/__init__.py=python3-venv")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    if wanted:
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], check=True)
    return python


def sdist(package, version):
    """The unpacked source of a Python driver, fetched with pip where it isn't there."""
    folder = DOWNLOADS / f"{package}-{version}"
    if not folder.exists():
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        subprocess.run([environment(), "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", package,
                        "-d", DOWNLOADS, f"{package}=={version}"], check=True)
        with tarfile.open(DOWNLOADS / f"{package}-{version}.tar.gz") as archive:
            archive.extractall(DOWNLOADS)
    return folder


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Processes:
    """Child processes in one temporary folder; all of them end with us."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="changeover-drivers-"))
        self.children = []
        atexit.register(self.end)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))

    def start(self, name, command):
        log = open(self.folder / f"{name}.log", "wb")
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.children.append(child)
        return child

    def connections(self):
        """Logins that the server has seen so far."""
        answer = subprocess.run([*self.client, "-Ne", "SHOW GLOBAL STATUS LIKE 'Connections'"],
                                check=True, capture_output=True, text=True)
        return int(answer.stdout.split()[1])

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def end(self):
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_for(what, child, ready, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{what} didn't start")
        time.sleep(0.1)


def mariadb(processes, statements):
    """A fresh MariaDB with root@127.0.0.1 without a password; runs `statements`. Returns its port."""
    data, sock, port = processes.folder / "data", processes.folder / "mariadb.sock", free_port()
    user = ["--user=root"] if os.geteuid() == 0 else []
    packages("mariadbd=mariadb-server", "mariadb=mariadb-client", "openssl=openssl")
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    tool = {name: shutil.which(name, path=path) for name in ("mariadb-install-db", "mariadbd", "mariadb")}
    subprocess.run(
        [tool["mariadb-install-db"], "--no-defaults", *user, f"--datadir={data}", "--skip-test-db",
         "--auth-root-authentication-method=normal"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Made by hand, because this version has no certificate of its own, and drivers test TLS.
    key, certificate = processes.folder / "key.pem", processes.folder / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
                    "-keyout", key, "-out", certificate], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = processes.start("mariadb", [
        tool["mariadbd"], "--no-defaults", *user, f"--datadir={data}", f"--tmpdir={temporary(processes)}", f"--socket={sock}", f"--port={port}",
        "--bind-address=127.0.0.1", "--local-infile=ON",
        "--skip-name-resolve", "--max-allowed-packet=64M", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0",
        f"--ssl-key={key}", f"--ssl-cert={certificate}", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite"])
    processes.client = client = [tool["mariadb"], "--no-defaults", f"--socket={sock}", "-uroot"]
    wait_for("MariaDB", server, lambda: answers(client))
    prepare(client, statements)
    return port


def temporary(processes):
    """A folder for a server's temporary files: one that starts clears the machine's own of what looks like them, whosever they are."""
    folder = processes.folder / "tmp"
    folder.mkdir()
    return folder


def mysql97(processes, statements):
    """A fresh MySQL 9.7 with root@127.0.0.1 without a password; runs `statements`. Returns its port."""
    servers = ROOT / "target" / "servers"
    subprocess.run([ROOT / "tests" / "support" / "fetch-mysql97", servers], check=True)
    usr = servers / "mysql97" / "usr"
    libraries = usr / "lib" / "x86_64-linux-gnu"
    # It was unpacked beside the system, with the libraries that it needs.
    loader = [libraries / "ld-linux-x86-64.so.2", "--library-path", libraries]
    data, sock, port = processes.folder / "data", processes.folder / "mysql.sock", free_port()
    user = ["--user=root"] if os.geteuid() == 0 else []
    mysqld = [*loader, usr / "sbin" / "mysqld", "--no-defaults", *user, f"--datadir={data}", f"--basedir={usr}",
              f"--lc-messages-dir={usr}/share/mysql", f"--character-sets-dir={usr}/share/mysql/charsets",
              f"--plugin-dir={usr}/lib/mysql/plugin", "--secure-file-priv="]
    subprocess.run([*mysqld, "--initialize-insecure"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Certificates are made by the server itself.
    server = processes.start("mysql97", [
        *mysqld, f"--tmpdir={temporary(processes)}", f"--socket={sock}", f"--port={port}", "--bind-address=127.0.0.1", "--mysqlx=OFF", "--local-infile=ON",
        "--skip-name-resolve", "--max-allowed-packet=64M", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync", "--innodb-doublewrite=OFF", "--sync-binlog=0"])
    processes.client = client = [*loader, usr / "bin" / "mysql", "--no-defaults", f"--socket={sock}", "-uroot"]
    wait_for("MySQL", server, lambda: answers(client))
    prepare(client, ["CREATE USER root@127.0.0.1", "GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION", *statements])
    return port


def answers(client):
    """Whether the server lets this client in."""
    return subprocess.run([*client, "-e", "SELECT 1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def prepare(client, statements):
    """The service account, and what a suite wants besides."""
    service = [f"CREATE USER changeover@'%' IDENTIFIED BY '{PASSWORD}'",
               "GRANT ALL ON *.* TO changeover@'%' WITH GRANT OPTION"]
    subprocess.run([*client, "-e", "; ".join(service + statements)], check=True)


def changeover(processes, name, server_port, settings, backend="", service=f"changeover:{PASSWORD}"):
    """Changeover with the server as both backends, `backend` said of each. Returns the port for applications."""
    port, admin = free_port(), free_port()
    config = processes.folder / f"{name}.toml"
    url = f"mysql://{service}@127.0.0.1:{server_port}"
    config.write_text(f"""
state_dir = "{processes.folder / name}"
[proxy]
listen = "127.0.0.1:{port}"
{settings}
[admin]
listen = "127.0.0.1:{admin}"
[console]
listen = "127.0.0.1:0"
[source]
url = "{url}"
{backend}
[target]
url = "{url}"
{backend}
[migration]
schemas = ["unused"]
""")
    program = os.environ.get("CHANGEOVER", ROOT / "target" / "debug" / "changeover")
    proxy = processes.start(name, [program, "serve", "--config", config])

    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    wait_for("Changeover", proxy, listens)
    return port


def ports(processes, statements=(), engine="mariadb", backend=""):
    """The port of each way, by its name. `backend`: settings of Changeover for its connections to the server."""
    server = {"mariadb": mariadb, "mysql97": mysql97}[engine](processes, list(statements))
    # So seldom that it never happens: without the setting one server as both backends is refused.
    plain = changeover(processes, "proxy", server, "move_every = 1000000", backend)
    return {"direct": server, "proxy": plain, "moved": changeover(processes, "moved", server, "move_every = 1", backend)}


def listed(path):
    """`way test: reason` a line; `*` for both ways."""
    reasons = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            head, _, reason = line.partition(": ")
            way, test = head.split()
            assert reason.strip(), f"{path}: no reason given for {test}"
            for each in WAYS[1:] if way == "*" else (way,):
                reasons[each, test] = reason.strip()
    return reasons


def compare(results, reasons):
    """Prints what differs; returns the number of failures. `results`: way -> test -> outcome."""
    failures = 0
    direct = results["direct"]
    for way in WAYS[1:]:
        for test in sorted(direct.keys() | results[way].keys()):
            one, other = direct.get(test, "not run"), results[way].get(test, "not run")
            reason = reasons.pop((way, test), None)
            if one == other and reason:
                failures += 1
                print(f"NO LONGER DIFFERENT, {way}: {test} (listed: {reason})")
            elif one != other and reason:
                print(f"known, {way}: {test}: {reason}")
            elif one != other:
                failures += 1
                start = max(0, len(os.path.commonprefix([one, other])) - 60)
                print(f"DIFFERENT, {way}: {test}\n   direct: {excerpt(one, start)}\n   {way}: {excerpt(other, start)}")
    for way, test in reasons:
        failures += 1
        print(f"LISTED, BUT THERE IS NO SUCH TEST, {way}: {test}")
    count = {way: sum(outcome.startswith("passed") for outcome in results[way].values()) for way in WAYS}
    print(f"{len(direct)} tests; passed: " + ", ".join(f"{way} {count[way]}" for way in WAYS))
    return failures


def excerpt(outcome, start, length=500):
    """The part of a long outcome in which it differs."""
    return ("…" if start else "") + outcome[start:start + length] + ("…" if len(outcome) > start + length else "")


def own(results):
    """Failures of tests of our own, which have to pass direct as well."""
    failed = {test: outcome for test, outcome in results["direct"].items() if outcome.startswith("failed")}
    for test, outcome in failed.items():
        print(f"FAILS DIRECT: {test}\n   {excerpt(outcome, 0)}")
    return len(failed)


def run(processes, ports, once):
    """`once(way, port)` runs the suite and returns its outcomes. Returns them all, by way."""
    results, logins = {}, {}
    for way, port in ports.items():
        before, began = processes.connections(), time.monotonic()
        results[way] = once(way, port)
        logins[way] = processes.connections() - before
        print(f"{way}: {logins[way]} logins at the server, {time.monotonic() - began:.1f} s", flush=True)
    # A suite that was never moved would prove nothing.
    assert logins["moved"] > 2 * logins["proxy"], "the sessions weren't moved"
    return results


def finish(processes, failures):
    """Ends with what the comparison and the proxy's log say."""
    trouble = [line for line in processes.log("moved").splitlines() if "can't be moved" in line or "couldn't be" in line]
    for line in trouble:
        print(f"the proxy says: {line}")
    if "panicked" in processes.log("moved") + processes.log("proxy"):
        print("the proxy panicked")
        failures += 1
    if os.environ.get("KEEP_LOGS"):
        for name in WAYS[1:]:
            shutil.copy(processes.folder / f"{name}.log", os.environ["KEEP_LOGS"])
        for file in [*processes.folder.glob("*.json"), *processes.folder.glob("*.suite.log")]:
            shutil.copy(file, os.environ["KEEP_LOGS"])
    print("FAILED" if failures or trouble else "no difference that isn't listed")
    sys.exit(1 if failures or trouble else 0)
