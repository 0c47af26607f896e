"""Settings as a user writes them: dotted paths, which are flags, and plain values."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
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


def completed(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of config.json that agree on settings which not all versions had.

    What a run lacks, and others have at the default that their config.json names, is filled in, for
    a new setting's default is what the versions before it did. Where others name several defaults,
    and below another choice, nothing is.
    """
    made = [copy.deepcopy(dict(config)) for config in configs]
    told = [set(config.get("defaults", ())) for config in configs]
    for path in sorted(set().union(*told), key=lambda path: -path.count(".")):  # parts before whole
        *above, name = path.split(".")
        whole = [config["experiment"] for config in made]
        known = [each for each, defaults in zip(whole, told, strict=True) if path in defaults]
        for here in whole:
            place = _below(here, above, here)
            if place is None or name in place:
                continue
            found = [there for each in known if (there := _below(each, above, here)) is not None]
            values = [there[name] for there in found if name in there]
            if values and all(value == values[0] for value in values):
                place[name] = copy.deepcopy(values[0])
    return made


def _below(settings: Mapping, path: Sequence[str], like: Mapping) -> Any:
    """What stands at a path, or None where choices on the way are other ones than in `like`."""
    for key in path:
        if settings.get("name") != like.get("name"):
            return None
        settings, like = settings.get(key), like.get(key)
        if not isinstance(settings, Mapping) or not isinstance(like, Mapping):
            return None
    return settings if settings.get("name") == like.get("name") else None


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
