"""Side by side with peers, on the same machine, in the same minutes. Run by `benches/compare`, which sets it up."""

import argparse
import signal
import sys
from pathlib import Path

import copying
import cutover
import proxy
import tailing
from process import OutOfTime, Trouble

REPO = Path(__file__).resolve().parent.parent.parent


def main():
    whole = argparse.ArgumentParser(prog="benches/compare", description="Changeover side by side with its peers.")
    kinds = whole.add_subparsers(dest="kind", required=True)
    for name, module, help in (
        ("proxy", proxy, "direct, HAProxy, MySQL Router and Changeover under sysbench"),
        ("copy", copying, "mysqldump, mydumper, a shell pipeline and Changeover copying the same schema"),
        ("tail", tailing, "a native replica and Changeover applying the same backlog"),
        ("cutover", cutover, "what writers feel of cutovers and rollbacks, back and forth"),
    ):
        parser = kinds.add_parser(name, help=help)
        parser.set_defaults(module=module)
        module.add_arguments(parser)
    arguments = whole.parse_args()
    # Every polite end unwinds, so that all is stopped and removed. SIGINT too: a shell's background job ignores it
    # unless told otherwise.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return arguments.module.compare(arguments, REPO)
    except KeyboardInterrupt:
        print("compare: interrupted; everything is stopped", file=sys.stderr)
        return 130
    except OutOfTime:
        print("compare: the whole run took far longer than it should, so it was given up", file=sys.stderr)
        return 1
    except Trouble as trouble:
        print(f"compare: {trouble}", file=sys.stderr)
        return 1


def interrupt(*_):
    raise KeyboardInterrupt


sys.exit(main())
