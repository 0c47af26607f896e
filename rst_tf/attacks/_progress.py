"""What a terminal shows while attacks run."""

import sys
from collections.abc import Callable


class Progress:
    """A line for each attack; where somebody looks, a bar as well.

    Args:
        show: True writes to stderr; False nothing; a function takes the finished lines.
        images: Number of images.
    """

    def __init__(self, show: bool | Callable[[str], None], images: int):
        self._take = show if callable(show) else None
        self._show = bool(show) and not self._take
        self._live = self._show and sys.stderr.isatty()
        self.line = self._line if show else lambda *_: None
        self._images = images

    def bar(self, name: str, part: float, robust: float) -> None:
        """How far an attack is.

        Args:
            name: Of the attack.
            part: Done, in [0, 1].
            robust: Share of images still standing.
        """
        if self._live:
            filled = int(20 * part)
            bar = "█" * filled + "░" * (20 - filled)
            print(f"\r{name:<12} {bar}  robust {robust:7.2%}   ", end="", file=sys.stderr)

    def _line(self, name: str, robust: float, seconds: float) -> None:
        left = round(robust * self._images)
        what = "right" if name == "clean" else "robust"
        text = f"{name:<12} {what:<6} {robust:7.2%}  ({left:,} of {self._images:,})"
        text += f"  {seconds:8.1f} s" if seconds else ""
        if self._take:
            self._take(text)
        else:
            print(f"\r{text:<60}" if self._live else text, file=sys.stderr, flush=True)
