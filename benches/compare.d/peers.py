"""What stands between the load and the server: nothing, HAProxy, MySQL Router, Changeover."""

import socket

from process import cpu_s, resident_kb, run, wait_for
from servers import PASSWORD, unpacked


class Peer:
    """One way to the server."""

    name = ""

    def __init__(self, port):
        self.port = port
        self.process = None

    def start(self, processes, folder):
        """Starts it and waits until it accepts."""

    def restart(self, processes, folder):
        """A fresh process of it."""
        processes.stop(self.process)
        self.start(processes, folder)

    def wait_until_open(self):
        def probe():
            socket.create_connection(("127.0.0.1", self.port), 1).close()

        wait_for(self.name, probe, self.process)

    def cpu_s(self):
        """CPU seconds of the proxy so far."""
        return cpu_s(self.process.pid) if self.process else None

    def resident_kb(self):
        """Resident memory of the proxy."""
        return resident_kb(self.process.pid) if self.process else None

    def configuration(self):
        """What it runs with, for the report."""
        return ""


class Direct(Peer):
    """No proxy."""

    name = "direct"

    def __init__(self, server):
        super().__init__(server.port)

    def version(self):
        return ""


class HaProxy(Peer):
    """HAProxy in TCP mode, as Debian ships it: TLS passes through it to the server."""

    name = "HAProxy"

    def __init__(self, port, server, connections_max):
        super().__init__(port)
        self.text = f"""global
    maxconn {connections_max}
defaults
    mode tcp
    maxconn {connections_max}
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen mysql
    bind 127.0.0.1:{port}
    server source 127.0.0.1:{server.port}
"""

    def start(self, processes, folder):
        (folder / "haproxy.cfg").write_text(self.text)
        command = ["haproxy", "-db", "-f", folder / "haproxy.cfg"]
        self.process = processes.start(self.name, command, folder / "haproxy.log")
        self.wait_until_open()

    def version(self):
        return "HAProxy " + run(["haproxy", "-v"], 10).split()[2]

    def configuration(self):
        return self.text


class Router(Peer):
    """MySQL Router 9.7 out of its unpacked package, in the mode that is its default and its fastest: TLS passes
    through. (Told to end TLS and be plain to a MariaDB server it breaks some handshakes, "malformed packet".)"""

    name = "Router"

    def __init__(self, port, server, connections_max, root):
        super().__init__(port)
        self.root = root
        self.text = f"""[DEFAULT]
plugin_folder = {root / 'usr/lib/mysqlrouter/plugin'}
logging_folder =
max_total_connections = {connections_max}
unknown_config_option = error
[logger]
level = WARNING
[routing:compare]
bind_address = 127.0.0.1
bind_port = {port}
destinations = 127.0.0.1:{server.port}
routing_strategy = first-available
protocol = classic
max_connections = {connections_max}
max_connect_errors = 1000000
client_ssl_mode = PASSTHROUGH
server_ssl_mode = AS_CLIENT
"""

    def command(self, *arguments):
        private = ("usr/lib/mysql-router", "usr/lib/mysqlrouter/private", "usr/lib/mysqlrouter/plugin")
        return [*unpacked(self.root, "usr/bin/mysqlrouter", *private), *arguments]

    def start(self, processes, folder):
        (folder / "router.conf").write_text(self.text)
        command = self.command("-c", folder / "router.conf")
        self.process = processes.start(self.name, command, folder / "router.log")
        self.wait_until_open()

    def version(self):
        return "MySQL Router " + run(self.command("--version"), 10).split()[3]

    def configuration(self):
        return self.text


class Changeover(Peer):
    """`changeover serve` in front of a migration that hasn't been started, nothing turned off: gate and session
    tracking do their work. It ends the clients' TLS and is plain to the server."""

    name = "Changeover"

    def __init__(self, port, admin_port, source, target, connections_max, tls, binary, folder):
        super().__init__(port)
        self.binary, self.admin_port = binary, admin_port
        self.text = f"""state_dir = "{folder / 'changeover-state'}"
[proxy]
listen = "127.0.0.1:{port}"
max_connections = {connections_max}
cert = "{tls / 'server-cert.pem'}"
key = "{tls / 'server-key.pem'}"
[admin]
listen = "127.0.0.1:{admin_port}"
password = "{PASSWORD}"
[source]
url = "mysql://service@127.0.0.1:{source.port}"
password = "{PASSWORD}"
[target]
url = "mysql://service@127.0.0.1:{target.port}"
password = "{PASSWORD}"
[migration]
schemas = ["sbtest"]
"""

    def start(self, processes, folder):
        path = folder / "changeover.toml"
        path.write_text(self.text)
        command = [self.binary, "serve", "--config", path]
        self.process = processes.start(self.name, command, folder / "changeover.log")
        self.wait_until_open()

    def admin(self, sql):
        """One admin statement."""
        url = f"mysql://admin:{PASSWORD}@127.0.0.1:{self.admin_port}"
        return run([self.binary, "admin", "--url", url, sql], 20)

    def version(self):
        return run([self.binary, "--version"], 10).strip()

    def configuration(self):
        return self.text
