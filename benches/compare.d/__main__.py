"""Side by side with peers, on the same machine, in the same minutes. Run by `benches/compare`, which sets it up."""

import argparse
import signal
import sys
from pathlib import Path

import proxy
from process import Trouble

REPO = Path(__file__).resolve().parent.parent.parent


def main():
    parser = argparse.ArgumentParser(prog="benches/compare", description="Changeover side by side with its peers.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    proxy.add_arguments(kinds.add_parser("proxy", help="direct, HAProxy, MySQL Router and Changeover under sysbench"))
    arguments = parser.parse_args()
    # Every polite end unwinds, so that all is stopped and removed. SIGINT too: a shell's background job ignores it
    # unless told otherwise.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return proxy.compare(arguments, REPO)
    except KeyboardInterrupt:
        print("compare: interrupted; everything is stopped", file=sys.stderr)
        return 130
    except proxy.OutOfTime:
        print("compare: the whole run took far longer than it should, so it was given up", file=sys.stderr)
        return 1
    except Trouble as trouble:
        print(f"compare: {trouble}", file=sys.stderr)
        return 1


def interrupt(*_):
    raise KeyboardInterrupt


sys.exit(main())
