"""A Python driver's own tests, once, under pytest: pytests.py FOLDER_ON_THE_PATH FOLDER_OF_TESTS RESULTS [OPTION…].

Writes the outcome of each test as JSON.
"""
import json
import re
import sys

import pytest

source, tests, results, *options = sys.argv[1:]
sys.path.insert(0, source)
outcomes = {}


class Outcomes:
    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            text = report.outcome
            if report.failed and report.longrepr is not None:
                message = report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else ""
                # Ids of connections and addresses of objects differ from run to run.
                text += ": " + re.sub(r"0x[0-9a-f]+|\b\d{2,3}\b(?!,)", "N", message.split("\n")[0])
            earlier = outcomes.get(report.nodeid)
            outcomes[report.nodeid] = " + ".join(filter(None, [earlier, text]))

    def pytest_collectreport(self, report):
        if report.failed:
            outcomes[report.nodeid] = "not collected"


pytest.main(["-q", "--no-header", "--durations=5", "-p", "no:cacheprovider", "-W", "ignore", f"--rootdir={tests}",
             "-o", "python_files=test_*.py", "-o", "addopts=", *options, tests], plugins=[Outcomes()])
with open(results, "w", encoding="utf-8") as file:
    json.dump(outcomes, file, indent=1)
