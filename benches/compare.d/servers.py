"""The database servers under the comparison, and the certificates all of them share."""

import shutil
from pathlib import Path

from process import Trouble, run, wait_for

# What `sysbench --mysql-ssl=on` hands to libmariadb is written into it: these three names, in its working folder.
CLIENT_FILES = ("cacert.pem", "client-cert.pem", "client-key.pem")
USER, PASSWORD, SCHEMA = "bench", "bench-secret", "sbtest"


def make_certificates(folder):
    """A CA, and a certificate of it for the servers and proxies and one for the clients."""
    folder.mkdir()
    extensions = folder / "san.cnf"
    extensions.write_text("subjectAltName = IP:127.0.0.1, DNS:localhost\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl = lambda *arguments: run(["openssl", *arguments], 60, cwd=folder)
    openssl("req", "-x509", *new_key, "-keyout", "ca-key.pem", "-out", "cacert.pem", "-days", "30", "-subj", "/CN=compare CA")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN=compare {name}")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "cacert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-out", f"{name}-cert.pem", "-days", "30", "-extfile", extensions.name,
        )
    return folder


class Server:
    """One server in a folder of its own. Nothing of it has to survive, so it never waits for its disk."""

    def __init__(self, name, folder, port, number, tls, connections_max, more=()):
        self.name, self.folder, self.port, self.tls = name, folder, port, tls
        self.number, self.connections_max, self.more = number, connections_max, more
        self.socket = folder / "socket"
        self.process = None

    def common_flags(self):
        return [
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--server-id={self.number}",
            f"--log-bin={self.folder / 'data' / 'bin'}",
            "--binlog-format=ROW",
            "--sync-binlog=0",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=256M",
            f"--max-connections={self.connections_max}",
            f"--open-files-limit={self.connections_max + 4000}",
            "--back-log=4096",
            "--thread-cache-size=256",
            "--max-connect-errors=1000000",
            "--max-prepared-stmt-count=1000000",
            # MariaDB asks for the client's certificate, and refuses one whose CA it doesn't know.
            f"--ssl-ca={self.tls / 'cacert.pem'}",
            f"--ssl-cert={self.tls / 'server-cert.pem'}",
            f"--ssl-key={self.tls / 'server-key.pem'}",
        ]

    def place_flags(self):
        return [f"--datadir={self.folder / 'data'}", f"--socket={self.socket}", f"--pid-file={self.folder / 'pid'}"]

    def start(self, processes):
        """Makes the data folder and starts the server."""
        self.folder.mkdir()
        self.initialise()
        command = [*self.program(), *self.place_flags(), *self.flags(), *self.more]
        self.process = processes.start(self.name, command, self.folder / "log")
        wait_for(self.name, lambda: self.sql("SELECT 1"), self.process)

    def sql(self, statements, timeout_s=60):
        """Runs statements as root through the socket."""
        client = ["mariadb", "--no-defaults", f"--socket={self.socket}", "--user=root", "--batch", "--skip-column-names"]
        return run(client, timeout_s, input=statements)

    def make_accounts(self):
        """The account of the load, and the service account of Changeover."""
        self.sql(
            f"CREATE DATABASE {SCHEMA};"
            f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON {SCHEMA}.* TO {USER}@'%';"
            f"CREATE USER service@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO service@'%' WITH GRANT OPTION;"
        )

    def configuration(self):
        """What it runs with, for the report."""
        return " ".join([self.title, *self.flags(), *self.more])


class MariaDb(Server):
    """Debian's MariaDB."""

    title = "mariadbd --no-defaults"

    def program(self):
        found = next((path for path in ("/usr/sbin/mariadbd", "/usr/bin/mariadbd") if Path(path).exists()), None)
        if not found:
            raise Trouble("there is no mariadbd on this machine")
        return [found, "--no-defaults", "--user=root"]

    def initialise(self):
        run(
            [
                "mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db",
                "--user=root", f"--datadir={self.folder / 'data'}",
            ],
            120,
        )

    def flags(self):
        return [*self.common_flags(), "--gtid-strict-mode=ON", "--innodb-log-file-size=256M"]

    def version(self):
        return "MariaDB " + self.sql("SELECT VERSION()").strip()


class MySql97(Server):
    """MySQL 9.7 out of its unpacked packages."""

    title = "mysqld --no-defaults"
    root = None

    def program(self):
        share = self.root / "usr/share/mysql"
        return [
            *unpacked(self.root, "usr/sbin/mysqld"), "--no-defaults", "--user=root", "--secure-file-priv=",
            f"--basedir={self.root / 'usr'}", f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}",
            f"--plugin-dir={self.root / 'usr/lib/mysql/plugin'}",
        ]  # fmt: skip

    def initialise(self):
        run([*self.program(), "--initialize-insecure", f"--datadir={self.folder / 'data'}"], 120)

    def flags(self):
        return [
            *(flag for flag in self.common_flags() if not flag.startswith("--binlog-format")),
            "--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--local-infile=ON",
            "--innodb-redo-log-capacity=512M",
        ]

    def version(self):
        return "MySQL " + self.sql("SELECT VERSION()").strip()


def unpacked(root, program, *library_folders):
    """The command of a program out of unpacked packages: through their own loader, on their own libraries."""
    for loader in sorted(root.glob("usr/lib/*/ld-linux*")):
        libraries = ":".join(map(str, (loader.parent, *(root / folder for folder in library_folders))))
        return [loader, "--library-path", libraries, root / program]
    raise Trouble(f"there is no loader in {root}")


def remove(folder):
    """Takes the run's folder away; what can't be removed isn't worth an error."""
    shutil.rmtree(folder, ignore_errors=True)
