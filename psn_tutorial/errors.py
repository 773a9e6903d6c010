"""The one exception a user's mistake raises."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend, told in one sentence: the field, its value, what is allowed.

    The command line prints the sentence and exits with code 2; it never shows a traceback for it.
    """


def suggest(word: str, allowed: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the allowed word closest to ``word``, or ""."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
