"""A migration under measurement: `changeover serve` between two servers, and what it says of itself."""

import json
import re
import time
import urllib.request
from datetime import datetime

from peers import Changeover
from process import Trouble, run
from servers import PASSWORD

# Between two looks at the status.
LOOK_S = 0.02


class Migration(Changeover):
    """Changeover with its HTTP port, which answers without a process of its own for each question."""

    def __init__(self, ports, source, target, tls, binary, folder, schemas=("sbtest",), more=""):
        port, admin_port, self.http_port = ports
        super().__init__(port, admin_port, source, target, 4000, tls, binary, folder)
        listed = ", ".join(f'"{schema}"' for schema in schemas)
        self.text = self.text.replace('schemas = ["sbtest"]', f"schemas = [{listed}]")
        self.text += f'[console]\nlisten = "127.0.0.1:{self.http_port}"\n{more}'
        self.log = folder / "changeover.log"

    def status(self):
        """SHOW MIGRATION STATUS."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/api/status", timeout=10) as answer:
            return json.load(answer)["status"]

    def wait(self, what, condition, deadline_s):
        """Waits until `condition(status)` holds; answers that status."""
        began = time.monotonic()
        while True:
            status = self.status()
            if condition(status):
                return status
            if status["phase"] == "failed":
                raise Trouble(f"the migration failed: {status['last_error']}")
            if time.monotonic() - began > deadline_s:
                raise Trouble(f"waited {deadline_s} s for {what}: {status}")
            time.sleep(LOOK_S)

    def admin_row(self, sql, timeout_s=120):
        """An admin statement of one row, as a dictionary."""
        url = f"mysql://admin:{PASSWORD}@127.0.0.1:{self.admin_port}"
        printed = run([self.binary, "admin", "--url", url, f"{sql}\\G"], timeout_s)
        return {name: value for name, value in re.findall(r"^ *(\w+): ?(.*)$", printed, re.MULTILINE)}

    def phases(self):
        """When each phase began for the first time, in seconds of the wall clock."""
        found = {}
        for at, phase in re.findall(r"^(\S+Z) .*phase (\w+) area", self.log.read_text(errors="replace"), re.MULTILINE):
            found.setdefault(phase, datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp())
        return found

    def moments(self):
        """When each step of each cutover was done, in seconds of the monotonic clock: {cutover: {step: s}}."""
        offset, found = time.time() - time.monotonic(), {}
        for at, number, step in re.findall(r"^(\S+Z) .*cutover (\d+): ([\w ]+) took \d+ ms", self.log.read_text(errors="replace"), re.MULTILINE):
            wall = datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
            found.setdefault(int(number), {})[step] = wall - offset
        return found

    def steps(self):
        """Milliseconds of each step of each cutover, out of the log: {cutover: {step: ms}}."""
        found = {}
        for number, step, ms in re.findall(r"cutover (\d+): ([\w ]+) took (\d+) ms", self.log.read_text(errors="replace")):
            steps = found.setdefault(int(number), {})
            steps[step] = steps.get(step, 0) + int(ms)
        return found
