"""The command line: `python -m samlib --help`."""

import signal
import sys
import warnings
from collections.abc import Sequence

from samlib.cli import streams
from samlib.cli.flags import parser
from samlib.cli.verbs import VERBS
from samlib.errors import SamlibError
from samlib.extras import needed
from samlib.files import DiskError

_TRAINING = ("reproduce", "run", "notebook")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 a run failed, 2 a user's mistake.

    130 after Ctrl-C, 141 where what is printed is no longer read.
    """
    streams.prepare()
    try:
        try:
            return _run(arguments)
        finally:  # also on the way out of argparse
            streams.flush()
    except BrokenPipeError:
        unread = streams.unread()
        if not unread:
            raise
        streams.give_up(unread)
        return streams.PIPE_CLOSED
    except OSError as error:
        if not streams.is_full(error):
            raise
        print(f"samlib: cannot write the output: {error.strerror}", file=sys.stderr)
        streams.give_up([sys.stdout.fileno()])
        return 2


def _run(arguments: Sequence[str] | None) -> int:
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers are ended, too
    kept = ""
    try:
        with needed("the command line"):
            args = parser().parse_args(arguments)
            if args.verb in _TRAINING:
                kept = "; finished runs are kept, the same command continues"
            return VERBS[args.verb](args)
    except SamlibError as error:
        print(f"samlib: {error}{kept * isinstance(error, DiskError)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nsamlib: interrupted{kept}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
