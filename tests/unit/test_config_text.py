"""The config file of a first start, and the documented table, are true."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from meshd.config import BackendConfig, Config, Sources, load
from meshd.config_text import first_config, settings_table
from meshd.settings import OTHER_VARIABLES, SETTINGS

ROOT = Path(__file__).parents[2]


def test_the_first_config_says_nothing_and_shows_everything() -> None:
    text = first_config().decode()
    assert load(Sources(text)) == Config()
    assert all(line.startswith("#") or not line for line in text.splitlines())
    for setting in SETTINGS:
        assert re.search(rf"^# {setting.key.rpartition('.')[2]} = ", text, re.MULTILINE)


def test_the_first_config_can_be_used_with_every_line_uncommented() -> None:
    text = first_config().decode()
    code = re.sub(r"^# (?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE)
    for key, given in (("data_dir", "/d"), ("webhook_secret_file", "/s")):
        code = code.replace(f"{key} = ...", f'{key} = "{given}"')
    config = load(Sources(code))
    assert config.data_dir == PurePath("/d")
    assert config.backends == (BackendConfig("http://127.0.0.1:9000", slots=4),)
    assert config.ggufs[0].alias == "some-model"
    assert config.aliases == {"fast": "llama3.2:3b"}
    assert config.limits == Config().limits


def test_the_table_in_packaging_is_that_of_this_version() -> None:
    assert (ROOT / "packaging" / "config.md").read_text() == settings_table()


def test_every_setting_and_variable_is_in_the_table() -> None:
    table = settings_table()
    for setting in SETTINGS:
        assert f"| `{setting.key}` | `{setting.variable}` |" in table
    for name, _ in OTHER_VARIABLES:
        assert f"| `{name}` |" in table
