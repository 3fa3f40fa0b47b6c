"""Where a comparison runs: a folder that is taken away again, processes that end with it, and what is kept of both."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

from process import Processes, keep_logs
from servers import remove


def output_of(repo):
    """Where reports go."""
    output = repo / "target" / "compare"
    output.mkdir(parents=True, exist_ok=True)
    return output


@contextmanager
def workplace(output):
    """A temporary folder and the processes in it. However the block is left, they are ended and the ends of their logs kept."""
    folder = Path(tempfile.mkdtemp(prefix="changeover-compare-"))
    try:
        with Processes() as processes:
            yield folder, processes
    finally:
        keep_logs(folder, output)
        remove(folder)
