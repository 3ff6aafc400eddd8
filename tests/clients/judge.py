"""What all Python judges do alike: one line of output, and an exit code that says what it means."""

import os
import sys

OK, FAILED, SKIP = 0, 1, 77


def need(*names):
    """The values of environment variables; a judge that misses one is skipped, not failed."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        print(f"not set: {', '.join(missing)}")
        sys.exit(SKIP)
    return [os.environ[name] for name in names]


def expect(condition, what):
    """A fact that must hold; what does not is the judge's verdict."""
    if not condition:
        print(what)
        sys.exit(FAILED)


def done(what):
    print(what)
    sys.exit(OK)


def fault(kind, error, trace):
    """What a client throws is a verdict too."""
    print(f"{kind.__name__}: {error}".splitlines()[0])
    sys.__excepthook__(kind, error, trace)


sys.excepthook = fault
