"""A process that has imported the library, and forks itself for each source that it is to run.

A fork is a new process whose imports are done already, which take 5 seconds. Nothing but the
imports was done before it. Each line of the input is a request in JSON, which is answered with the
exit status.
"""

import json
import os
import sys
import traceback
from typing import Any

import mmfusion.testing.round_trip  # noqa: F401


def run(request: dict[str, Any]) -> None:
    """Runs a source in this process, as `python -c` does, and ends it.

    Args:
        request: "source", "arguments", "environment", and "errors", the file for what it prints.
    """
    sink = os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["-c", *request["arguments"]]
    code = 1
    try:
        exec(compile(request["source"], "<string>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Answers requests until the input ends."""
    # What the library says on import must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    serve()
