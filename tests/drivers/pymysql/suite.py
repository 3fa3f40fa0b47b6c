"""PyMySQL's own tests, once: suite.py FOLDER_OF_THE_SDIST RESULTS. Writes the outcome of each test as JSON."""
import json
import re
import sys

import pytest

folder, results = sys.argv[1:]
sys.path.insert(0, folder)
outcomes = {}
# Waits for somebody to kill the server by hand.
BY_HAND = "test_issue_35"


class Outcomes:
    def pytest_runtest_logreport(self, report):
        test = report.nodeid.replace("pymysql/tests/", "")
        if report.when == "call" or report.outcome != "passed":
            text = report.outcome
            if report.failed and report.longrepr is not None:
                message = report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else ""
                # Ids of connections and addresses of objects differ from run to run.
                text += ": " + re.sub(r"0x[0-9a-f]+|\b\d{2,3}\b(?!,)", "N", message.split("\n")[0])
            outcomes[test] = " + ".join(filter(None, [outcomes.get(test), text]))

    def pytest_collectreport(self, report):
        if report.failed:
            outcomes[report.nodeid] = "not collected"


pytest.main(["-q", "--no-header", "--durations=5", "-p", "no:cacheprovider", "-W", "ignore", f"--rootdir={folder}",
             "-k", f"not {BY_HAND}",
             "-o", "python_files=test_*.py", "-o", "addopts=", f"{folder}/pymysql/tests"], plugins=[Outcomes()])
with open(results, "w", encoding="utf-8") as file:
    json.dump(outcomes, file, indent=1)
