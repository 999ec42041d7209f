"""The scenarios that come with the harness, and what a name on the command line means."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from meshd.cli.shell import UsageError
from meshd_chaos.nemeses import NEMESES
from meshd_chaos.scenario import Scenario
from meshd_chaos.scenario_file import BadScenario, read_scenario


def shipped() -> dict[str, str]:
    """The text of each scenario that comes with the harness, by its name."""
    folder = resources.files("meshd_chaos") / "scenarios"
    files = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    texts = {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in files}
    return dict(sorted(texts.items()))


def find(name: str) -> list[Scenario]:
    """What a name, a file or "all" means.  Raises UsageError, BadScenario."""
    texts = shipped()
    if name == "all":
        return [_read(text, f"{one}.toml", one) for one, text in texts.items()]
    if name in texts:
        return [_read(texts[name], f"{name}.toml", name)]
    if Path(name).suffix == ".toml" or _is_file(name):
        return [read_file(Path(name))]
    raise UsageError(
        f"there is no scenario {name!r}; there are {', '.join(texts)}, all of them as 'all', and "
        "files of your own that end in .toml"
    )


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name that no file can have
        return False


def read_file(path: Path) -> Scenario:
    """A file of the user's.  Raises UsageError, BadScenario."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadScenario(f"{path}:{line}: this is no text in UTF-8") from None
    return _read(text, str(path), str(path))


def _read(text: str, file: str, given_as: str) -> Scenario:
    scenario = read_scenario(text, file=file, parameters=NEMESES)
    return msgspec.structs.replace(scenario, given_as=given_as)
