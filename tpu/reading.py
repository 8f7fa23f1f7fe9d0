"""What a user handed over is read: its warnings are told on stderr, and what is wrong with it is a `UsageError`."""

import contextlib
import sys
import warnings
from collections.abc import Iterator

from alignjax import checks
from tpu.arguments import UsageError


@contextlib.contextmanager
def reading(flag: str) -> Iterator[None]:
    """`flag`: what the user called it, `--data` or `--model`; it stands before every message."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (UsageError, checks.UnknownName):
            raise
        except OSError as error:
            raise UsageError(
                f"{flag}{f' {error.filename}' if error.filename else ''}: {error.strerror or error}"
            ) from None
        except ValueError as error:
            raise UsageError(f"{flag}: {error}") from None
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"warning: {warning.message}", file=sys.stderr)
