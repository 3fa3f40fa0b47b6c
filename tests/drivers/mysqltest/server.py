"""A MariaDB as mysql-test-run makes it, thrown away for a fresh one whenever a test left something behind."""
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import harness  # noqa: E402

SHARE = pathlib.Path("/usr/share/mysql")
TESTS = SHARE / "mysql-test"
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
USER = ["--user=root"] if os.geteuid() == 0 else []
# What include/have_innodb.opt asks for, and less waiting for the disk.
MORE = """
innodb-cmpmem
innodb-cmp-per-index
innodb-trx
innodb-locks
innodb-lock-waits
innodb-metrics
innodb-buffer-pool-stats
innodb-buffer-page
innodb-buffer-page-lru
innodb-sys-columns
innodb-sys-fields
innodb-sys-foreign
innodb-sys-foreign-cols
innodb-sys-indexes
innodb-sys-tables
innodb-sys-virtual
innodb-sys-tablestats
innodb-flush-log-at-trx-commit=0
innodb-flush-method=nosync
skip-innodb-doublewrite
"""


def tool(name):
    found = shutil.which(name, path=PATH)
    if not found:
        raise SystemExit(f"{name} is missing")
    return found


def for_bootstrap(text):
    """Statements a line each, as --bootstrap wants them: without `delimiter`, comments and the ends of lines in them."""
    statement, out, delimiter = [], [], ";"
    for line in text.splitlines():
        bare = line.strip()
        if bare.lower().startswith("delimiter "):
            delimiter = bare.split()[1].removesuffix(delimiter)
        elif bare and not bare.startswith("--"):
            statement.append(bare.removesuffix(delimiter))
            if bare.endswith(delimiter):
                out.append(" ".join(statement).rstrip() + ";")
                statement = []
    return "\n".join(out) + "\n"


def template(folder):
    """A data folder with the system tables, the time zones and the procedures that mysql-test-run makes."""
    data = folder / "template"
    (data / "mysql").mkdir(parents=True)
    sql = ["use mysql;\n"]
    for name in ("mysql_system_tables", "maria_add_gis_sp_bootstrap", "mysql_performance_tables", "mysql_system_tables_data",
                 "mysql_test_data_timezone", "fill_help_tables", "mysql_sys_schema"):
        sql.append((SHARE / f"{name}.sql").read_text(encoding="latin-1"))
    sql.append("CREATE DATABASE IF NOT EXISTS test CHARACTER SET latin1 COLLATE latin1_swedish_ci;\n"
               "ALTER TABLE mysql.gtid_slave_pos ENGINE=Aria transactional=0;\n"
               "DELETE FROM mysql.global_priv WHERE user = '';\n"
               "CREATE DATABASE mtr CHARSET=latin1;\n")
    for name in ("mtr_warnings", "mtr_check"):
        sql.append(for_bootstrap((TESTS / "include" / f"{name}.sql").read_text(encoding="latin-1")))
    done = subprocess.run(
        [tool("mariadbd"), "--no-defaults", *USER, "--bootstrap", "--basedir=/usr", f"--datadir={data}",
         "--default-storage-engine=myisam", "--innodb-log-file-size=10M", "--disable-sync-frm", f"--tmpdir={folder}",
         "--character-set-server=latin1", "--disable-performance-schema"],
        input="".join(sql).encode("latin-1"), capture_output=True)
    if done.returncode != 0:
        raise SystemExit("the system tables can't be made:\n" + done.stderr.decode(errors="replace")[-2000:])
    return data


class Server:
    """One server in the folder that mysql-test-run calls `vardir`, on a port that stays its own."""

    def __init__(self, processes, origin, number):
        self.processes, self.origin, self.name = processes, origin, f"server{number}"
        self.vardir = processes.folder / self.name
        self.data, self.tmp = self.vardir / "mysqld.1" / "data", self.vardir / "tmp"
        self.port, self.process, self.fresh = harness.free_port(), None, None
        for folder in ("tmp", "log", "run"):
            (self.vardir / folder).mkdir(parents=True)
        shutil.copytree(TESTS / "std_data", self.vardir / "std_data")
        shutil.copytree(TESTS / "main", self.vardir / "main", ignore=lambda _, names: [
            name for name in names if not name.endswith((".result", ".rdiff"))])
        self.config = self.vardir / "my.cnf"
        text = (TESTS / "include" / "default_mysqld.cnf").read_text().split("[embedded]")[0]
        text = text.replace("@ENV.MYSQLTEST_VARDIR", str(self.vardir)).replace("@ENV.MYSQL_TEST_DIR", str(TESTS))
        self.config.write_text(text + MORE)
        self.client = [tool("mariadb"), "--no-defaults", f"--socket={self.tmp}/mysqld.1.sock", "-uroot"]
        self.restore()

    def restore(self):
        """Ends the server, whatever it is doing, and starts one on a fresh copy of the template."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.processes.children.remove(self.process)
        shutil.rmtree(self.data.parent, ignore_errors=True)
        self.data.parent.mkdir()
        subprocess.run(["cp", "-a", self.origin, self.data], check=True)
        shutil.rmtree(self.tmp)
        (self.tmp / "mysqld.1").mkdir(parents=True)
        base = self.data.parent
        self.process = self.processes.start(self.name, [
            tool("mariadbd"), f"--defaults-file={self.config}", *USER, "--basedir=/usr", f"--datadir={self.data}",
            f"--tmpdir={self.tmp}/mysqld.1", f"--socket={self.tmp}/mysqld.1.sock", f"--port={self.port}",
            "--bind-address=127.0.0.1", "--server-id=1", f"--pid-file={self.vardir}/run/mysqld.1.pid",
            f"--log-error={self.vardir}/log/mysqld.1.err", "--general-log=1", f"--general-log-file={base}/mysqld.log",
            "--slow-query-log=1", f"--slow-query-log-file={base}/mysqld-slow.log"])
        harness.wait_for("MariaDB", self.process, lambda: self.ask("SELECT 1") is not None)
        # Twice: the first opens what later ones find open.
        self.state()
        self.fresh = self.state()

    def ask(self, sql):
        """What the server answers; `None`: it doesn't."""
        done = subprocess.run([*self.client, "-N", "-e", sql], capture_output=True, timeout=60)
        return done.stdout if done.returncode == 0 else None

    def state(self):
        return self.ask("CALL mtr.check_testcase()")

    def sweep(self):
        """Removes what tests left in the folder for temporary files."""
        for left in self.tmp.iterdir():
            if left.name == "mysqld.1" or left.name.startswith("mysqld.1.sock"):
                continue
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def logins(self):
        return int((self.ask("SHOW GLOBAL STATUS LIKE 'Connections'") or b"x 0").split()[1])

    def quiet(self):
        """Whether the sessions of the last test are gone. The answer's own session is one."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            rest = self.ask("SELECT count(*) FROM information_schema.processlist WHERE command <> 'Daemon' AND "
                            "id <> connection_id() AND info IS NULL")
            if rest is not None and int(rest) <= self.idle:
                return True
            time.sleep(0.05)
        return False

    idle = 0

    def settle(self):
        """Makes the server what it was before the last test. Returns whether that took a fresh one."""
        if self.process.poll() is None and self.quiet():
            self.sweep()
            if self.state() == self.fresh:
                return False
        self.restore()
        return True
