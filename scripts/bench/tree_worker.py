"""Worker of `spikeloop benchmark NAME --against TREE`: measures one source tree's library, in a process of its own.

Called as ``PYTHON tree_worker.py NAME [FLAG ...]`` with a PYTHONPATH that names the tree. The tables are those beside
this file, whatever the tree: both trees then do the same work. So the tables of NAME import nothing of the library but
its public names. Every line on stdin is answered by one line on stdout:

    next     builds the next case: its title, unit, scale and, by row, seconds of one call; ``null`` after the last;
             what is "refused" if the flags do not go with this
    i n      seconds of processor time per call, of n calls of its row i
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def tables_beside_this_file() -> None:
    """Let ``spikeloop.scripts.bench`` be the folder of this file, in whatever tree ``spikeloop`` is."""
    importlib.import_module("spikeloop.scripts")
    spec = importlib.util.spec_from_file_location(
        "spikeloop.scripts.bench", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    assert spec is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)


def answers(name: str, flags: list[str]) -> Iterator[str]:
    """Yield an answer for each line on stdin, until it ends."""
    from spikeloop.scripts.bench.timing import seconds_per_call, warmed
    from spikeloop.scripts.cli import UsageError

    table = importlib.import_module(f"spikeloop.scripts.bench.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser()
    table.add_arguments(parser)
    parser.add_argument("--against")  # what this worker is for
    cases = table.cases(parser.parse_args(flags))
    calls: list[Callable[[], Any]] = []  # of the rows of the latest case
    for line in sys.stdin:
        if line.strip() == "next":
            try:
                case = next(cases, None)
            except UsageError as error:
                yield json.dumps({"refused": str(error)})
                continue
            if case is None:
                yield "null"
                continue
            calls = [*case.contenders.values()]
            rows = {row: warmed(call, time.process_time) for row, call in case.contenders.items()}
            yield json.dumps(case._replace(contenders=rows)._asdict())
        else:
            row, repeats = map(int, line.split())
            yield str(seconds_per_call(calls[row], repeats, time.process_time))


def main() -> None:
    """Serve until stdin ends."""
    stdout, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    tables_beside_this_file()
    for answer in answers(sys.argv[1], sys.argv[2:]):
        print(answer, file=stdout, flush=True)


if __name__ == "__main__":
    main()
