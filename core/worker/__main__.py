"""The command `python -m modelrack.worker JOB.json`: serve one model on a Unix socket."""

import os
import socket
import stat
import sys
from pathlib import Path

USAGE = """Usage: python -m modelrack.worker JOB.json

Serve the model that a job file describes, on the Unix socket that it names. The server starts workers this way; by
hand it is good for a look at one worker:

  python -m modelrack.worker job.json
  curl --unix-socket SOCKET http://worker/_worker/status

SIGTERM (and Ctrl-C in a terminal) finishes what is under way and ends the process. Exit code 1: the load failed, and
the last line on stderr says why.
"""


def main(arguments: list[str]) -> int:
    """Read the job, bind its socket, and serve."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        is_help = arguments[:1] in (["-h"], ["--help"])
        print(USAGE, end="", file=sys.stdout if is_help else sys.stderr)
        return 0 if is_help else 2
    path = arguments[0]
    import json

    try:
        # The socket is bound before anything that takes time is imported, so that the server can connect at once.
        sock = bind(json.loads(Path(path).read_bytes())["socket"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    from ..errors import ModelrackError
    from .job import read_job
    from .process import run_worker

    try:
        job = read_job(path)
    except ModelrackError as error:
        print(error.message, file=sys.stderr)
        return 2
    run_worker(job, sock)


def bind(path: str) -> socket.socket:
    """Bind a Unix socket that only the owner can reach; one left over from before is replaced.

    Raises: OSError: the path is too long (about 100 bytes), or is something else.
    """
    target = Path(path)
    if target.exists() and stat.S_ISSOCK(target.stat().st_mode):
        target.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    sock.listen(1024)
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
