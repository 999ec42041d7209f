"""Whatever a config file says, it is used, or each wrong thing is named with its line."""

from __future__ import annotations

import json
import re
from pathlib import PurePath

from hypothesis import given
from hypothesis import strategies as st

from meshd.config import Config, Sources, load
from meshd.errors import ConfigError
from meshd.settings import BACKEND_SETTINGS, GGUF_SETTINGS, SETTINGS

FILE = PurePath("/etc/meshd/config.toml")

KEYS = st.sampled_from(
    [
        *(setting.key for setting in (*SETTINGS, *BACKEND_SETTINGS, *GGUF_SETTINGS)),
        *("zzz", "limits", "aliases.x", "backend", "engine", "engine.gguf", '"a b"', "backend.url"),
    ]
)
VALUES = st.one_of(
    st.integers(-(2**64), 2**64).map(str),
    st.sampled_from(["nan", "-inf", "0.5", "true", "[]", "{}", "[[]]", "2020-01-01", "[{}]"]),
    st.text(max_size=8).map(json.dumps).map(lambda text: text.replace("\\u007f", "?")),
    st.sampled_from(['"http://a:1"', '["a"]', '{a = "b"}', '[{url = "http://a"}]', '"/p"']),
)
HEADERS = st.sampled_from(["[limits]", "[[backend]]", "[[engine.gguf]]", "[aliases]", "[zzz]"])
LINES = st.one_of(st.tuples(KEYS, VALUES).map(" = ".join), HEADERS)


@given(st.lists(LINES, max_size=8))
def test_a_config_is_used_or_each_wrong_thing_is_named_with_its_line(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        config = load(Sources(text, FILE))
    except ConfigError as error:
        for sentence in str(error).splitlines():
            found = re.fullmatch(rf"{re.escape(str(FILE))}:(\d+): .+", sentence)
            assert found, sentence
            assert 1 <= int(found[1]) <= max(1, len(lines))
    else:
        assert isinstance(config, Config)
        assert 0 <= config.port <= 65535


@given(
    st.dictionaries(
        st.sampled_from([setting.variable for setting in SETTINGS]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    )
)
def test_no_environment_makes_it_fail_in_another_way(environ: dict[str, str]) -> None:
    try:
        load(Sources("", FILE, environ))
    except ConfigError as error:
        for sentence in str(error).splitlines():
            assert sentence.split()[0] in environ
            assert sentence.isprintable()
