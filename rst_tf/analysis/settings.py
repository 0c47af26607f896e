"""Settings as a user writes them: dotted paths, which are flags, and plain values."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted paths, which are the flags that set them."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        # A choice's name is set by the flag of the choice itself: --objective=trades.
        yield from flat(item, path if key == "name" and path else f"{path}.{key}".lstrip("."))


def scalar(value: Any) -> str:
    """A plain value as a flag would have it: "8/255", "300,100", "none", "true"."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        levels = round(value * 255)
        is_level = 0 < levels < 255 and abs(value * 255 - levels) < 1e-9 and len(repr(value)) > 8
        return f"{levels}/255" if is_level else repr(value)
    if isinstance(value, list) and not any(isinstance(item, list | Mapping) for item in value):
        return ",".join(scalar(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def folder_name(folder: str) -> str:
    """The name of a run's folder, with that of the folder above if it is one of several trials."""
    path = Path(folder)
    return f"{path.parent.name}/{path.name}" if path.name.startswith("seed_") else path.name
