"""Settings from the file, the environment and flags; and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from meshd import limits
from meshd.backends.openai_request import EngineKind
from meshd.config import BackendConfig, Config, Sources, load, with_key_files
from meshd.errors import ConfigError
from meshd.ids import Address
from meshd.routing.policies import POLICIES as ROUTING_POLICIES
from meshd.setting_kinds import engine_url
from meshd.settings import ENGINES, POLICIES, SETTINGS

FILE = PurePath("/etc/meshd/config.toml")


def loaded(
    text: str = "", environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Config:
    home, cwd = PurePath("/home/ann"), PurePath("/srv")
    return load(Sources(text, FILE, environ or {}, flags or {}, cwd, home))


def refused(
    text: str = "", environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text, environ, flags)
    return str(caught.value).splitlines()


def test_without_anything_all_is_as_the_defaults_say() -> None:
    assert loaded() == Config()
    config = loaded()
    for setting in SETTINGS:
        value: object = config
        for part in setting.key.split("."):
            value = getattr(value, part)
        assert value == setting.default, setting.key


def test_a_whole_file_is_read() -> None:
    config = loaded(
        """
        name = "studio"
        listen = "0.0.0.0"
        api_port = 8000
        port = 0
        data_dir = "~/mesh"
        join = "attic.local"
        detect = false
        log_level = "debug"
        drain_timeout_s = 5
        allowed_hosts = ["mesh.example.org"]

        [aliases]
        fast = "llama3.2:3b"
        "gpt-4o" = "qwen2.5"

        [[backend]]
        url = "HTTP://Attic.local:8080/v1/"
        slots = 4
        engine = "vllm"
        api_key_file = "vllm.key"

        [[backend]]
        url = "http://[::1]:9000"

        [limits]
        queue_wait_s = 2.5

        [routing]
        policy = "round_robin"

        [[engine.gguf]]
        path = "models/tiny.gguf"
        context_tokens = 1024
        """
    )
    assert (config.name, config.listen, config.api_port, config.port) == (
        "studio",
        "0.0.0.0",
        8000,
        0,
    )
    assert config.data_dir == PurePath("/home/ann/mesh")
    assert config.aliases == {"fast": "llama3.2:3b", "gpt-4o": "qwen2.5"}
    assert config.backends == (
        BackendConfig(
            "http://attic.local:8080",
            slots=4,
            engine="vllm",
            api_key_file=PurePath("/etc/meshd/vllm.key"),
        ),
        BackendConfig("http://[::1]:9000"),
    )
    assert config.limits.queue_wait_s == 2.5
    assert config.limits.request_s == limits.REQUEST_S
    assert config.routing.policy == "round_robin"
    assert config.ggufs[0].path == PurePath("/etc/meshd/models/tiny.gguf")
    assert config.ggufs[0].model == "tiny"
    assert config.listens_beyond_loopback


def test_flags_win_over_the_environment_and_that_over_the_file() -> None:
    text = 'name = "file"\nport = 1\napi_port = 1\n[limits]\nqueue_wait_s = 1\n'
    environ = {"MESHD_NAME": "variable", "MESHD_PORT": "2", "MESHD_LIMITS_QUEUE_WAIT_S": "2"}
    config = loaded(text, environ, {"name": "flag", "port": None})
    assert (config.name, config.port, config.api_port) == ("flag", 2, 1)
    assert config.limits.queue_wait_s == 2.0


def test_paths_are_relative_to_what_named_them() -> None:
    assert loaded('data_dir = "d"').data_dir == PurePath("/etc/meshd/d")
    assert loaded(environ={"MESHD_DATA_DIR": "d"}).data_dir == PurePath("/srv/d")
    assert loaded(flags={"data_dir": "~/d"}).data_dir == PurePath("/home/ann/d")


def test_engines_and_model_files_add_up_and_are_listed_once() -> None:
    config = loaded(
        '[[backend]]\nurl = "http://a:1"\nslots = 3\n',
        {"MESHD_BACKENDS": "b:2, http://c:3", "MESHD_GGUFS": "m.gguf"},
        {"backend": ["http://a:1/v1", "d:4"], "gguf": ["/m/n.gguf", "m.gguf"]},
    )
    assert [b.url for b in config.backends] == [
        "http://a:1",
        "http://b:2",
        "http://c:3",
        "http://d:4",
    ]
    assert config.backends[0].slots == 3
    assert [g.path for g in config.ggufs] == [PurePath("/srv/m.gguf"), PurePath("/m/n.gguf")]


def test_an_unknown_key_is_named_with_its_line_and_a_near_one() -> None:
    assert refused('\n# name\nlisen = "::"\n') == [
        f'{FILE}:3: unknown key "lisen"; did you mean "listen"?'
    ]
    assert refused("[limits]\nqueue_wait_s = 1\nqeue = 2\n") == [
        f'{FILE}:3: unknown key "limits.qeue"; did you mean "limits.queue"?'
    ]
    assert refused("limits.zzz = 2\n") == [f'{FILE}:1: unknown key "limits.zzz"']
    assert refused("\n[zzz]\na = 1\n") == [f'{FILE}:2: unknown key "zzz"']


def test_a_key_in_the_wrong_table_is_told_where_it_belongs() -> None:
    assert refused("queue_wait_s = 2\n[limits]\nport = 1\n") == [
        f'{FILE}:1: unknown key "queue_wait_s"; it belongs into [limits]',
        f'{FILE}:3: unknown key "limits.port"; it belongs to the top, before the first [table]',
    ]


def test_an_unknown_key_of_the_second_engine_is_found_there() -> None:
    text = '[[backend]]\nurl = "http://a"\n\n[[backend]]\nurl = "http://b"\nslot = 1\n'
    assert refused(text) == [f'{FILE}:6: unknown key "backend.slot"; did you mean "backend.slots"?']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('port = "11436"', 'port must be a whole number from 0 to 65535, not "11436"'),
        ("port = true", "port must be a whole number from 0 to 65535, not true"),
        ("port = 65536", "port must be a whole number from 0 to 65535, not 65536"),
        (
            "drain_timeout_s = nan",
            "drain_timeout_s must be a number of seconds from 0 to 3600, not nan",
        ),
        ("detect = 1", "detect must be true or false, not 1"),
        ('listen = ""', 'listen must be an IP address or a host name, not ""'),
        ('allowed_hosts = "a"', 'allowed_hosts must be a list of host names, not "a"'),
        ("allowed_hosts = [1]", "allowed_hosts must be a list of host names, not a list"),
        (
            'advertise = ["nas.example.org"]',
            "advertise must be a list of IP addresses, each with a port or without: "
            '"203.0.113.7:11436", not a list',
        ),
        ('advertise = ["0.0.0.0:1"]', "advertise must be a list of IP addresses"),
        ('advertise = "10.0.0.1"', "advertise must be a list of IP addresses"),
        ("name = {a = 1}", "name must be a name of 1 to 64 characters, not a table"),
        ("limits = 3", "limits must be a table: [limits]"),
        ("aliases = []", "aliases must be a table: [aliases]"),
        ("aliases.x = 3", "aliases.x must be the name of a model, not 3"),
        ("backend = 3", "backend must be a list of tables: [[backend]]"),
        ("[backend]", "backend must be a list of tables: [[backend]]"),
        ("[[backend]]", '[[backend]] has no "url"'),
        ("[[engine.gguf]]", '[[engine.gguf]] has no "path"'),
        ("engine.gguf = 1", "engine.gguf must be a list of tables: [[engine.gguf]]"),
        (
            'backend = [{url = "https://a"}]',
            'backend.url must be an address like "http://127.0.0.1:8080", not "https://a"',
        ),
        ("port = ", "not TOML: invalid value"),
        ("a\u0301 = 1", "not TOML: "),
        ("x = 1\nx = 2", "not TOML: "),
        ('"a\\u001b[2J" = 1', 'unknown key ""a�[2J""'),
    ],
)
def test_what_cannot_be_used_is_named_with_what_is_wanted(text: str, said: str) -> None:
    (sentence,) = refused("\n" + text)
    line = 3 if "\n" in text else 2
    assert sentence.startswith(f"{FILE}:{line}: {said}")


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file() -> None:
    said = refused(
        "prot = 1\n[limits]\nqueue = -1\n[[backend]]\nslots = 0\n",
        {"MESHD_PROT": "1"},
        {"port": -1},
    )
    assert [line.split(" ")[0] for line in said] == [
        f"{FILE}:1:",
        f"{FILE}:3:",
        f"{FILE}:4:",
        f"{FILE}:5:",
        "MESHD_PROT:",
        "--port",
    ]


def test_variables_are_named_when_they_are_wrong() -> None:
    assert refused(environ={"MESHD_PORT": "tcp://10.0.0.1:80"}) == [
        'MESHD_PORT must be a whole number from 0 to 65535, not "tcp://10.0.0.1:80"'
    ]
    assert refused(environ={"MESHD_API_PROT": "1"}) == [
        "MESHD_API_PROT: unknown environment variable; did you mean MESHD_API_PORT?"
    ]
    assert loaded(environ={"MESHD_TOKEN": "x", "MESHD_PORT": "", "MESHDX": "1"}) == Config()


@pytest.mark.parametrize(("word", "value"), [("no", False), ("TRUE", True), ("0", False)])
def test_a_switch_in_the_environment_takes_the_usual_words(word: str, value: bool) -> None:
    assert loaded(environ={"MESHD_DETECT": word}).detect is value


def test_a_list_in_the_environment_is_split_at_commas() -> None:
    assert loaded(environ={"MESHD_ALLOWED_HOSTS": "a, b,"}).allowed_hosts == ("a", "b")


def test_what_others_are_told_is_addresses_with_a_port_or_without() -> None:
    told = (Address("203.0.113.7", 0), Address("203.0.113.7", 4000), Address("2001:db8::1", 4000))
    text = 'advertise = ["203.0.113.7", "203.0.113.7:4000", "[2001:db8::1]:4000"]'
    assert loaded(text).advertise == told
    assert loaded(environ={"MESHD_ADVERTISE": "203.0.113.7"}).advertise == told[:1]


def test_an_engines_key_is_never_shown() -> None:
    (said,) = refused('[[backend]]\nurl = "http://a"\napi_key = ["sk-secret"]')
    assert "sk-secret" not in said
    config = loaded('[[backend]]\nurl = "http://a"\napi_key = "sk-secret"')
    assert config.backends[0].api_key == "sk-secret"
    assert "sk-secret" not in repr(config)


def test_an_engines_key_is_read_from_its_file() -> None:
    config = loaded('[[backend]]\nurl = "http://a"\napi_key_file = "k"')
    read = {PurePath("/etc/meshd/k"): b"sk-1\n"}
    assert with_key_files(config, read.get).backends[0].api_key == "sk-1"
    with pytest.raises(ConfigError, match="there is no file /etc/meshd/k"):
        with_key_files(config, lambda _: None)
    with pytest.raises(ConfigError, match="must hold one line"):
        with_key_files(config, lambda _: b"a\nb\n")


def test_webhooks_need_a_secret_from_the_config_or_a_file() -> None:
    hosts = 'webhook_hosts = ["bots.example.org"]\n'
    with pytest.raises(ConfigError, match="nothing to sign with"):
        with_key_files(loaded(hosts), lambda _: None)
    config = loaded(hosts + 'webhook_secret = "sixteen characters"')
    assert with_key_files(config, lambda _: None).webhook_secret == "sixteen characters"
    assert "sixteen" not in repr(config)
    config = loaded(hosts + 'webhook_secret_file = "s"')
    read = {PurePath("/etc/meshd/s"): b"sixteen characters\n"}
    assert with_key_files(config, read.get).webhook_secret == "sixteen characters"
    for content in (None, b"short\n", b"a\nb\n", b"whsec_!"):
        with pytest.raises(ConfigError, match="/etc/meshd/s"):
            with_key_files(config, lambda _, content=content: content)
    both = hosts + 'webhook_secret = "sixteen characters"\nwebhook_secret_file = "s"'
    with pytest.raises(ConfigError, match="not both"):
        with_key_files(loaded(both), read.get)
    (said,) = refused('webhook_secret = "short"')
    assert "short" not in said
    assert "16 characters" in said


def test_a_key_and_a_key_file_at_once_are_refused() -> None:
    text = '[[backend]]\nurl = "http://a"\napi_key = "a"\napi_key_file = "b"'
    assert refused(text) == [f"{FILE}:4: give api_key or api_key_file, not both"]


def test_a_file_that_nests_without_end_is_refused() -> None:
    assert refused("a = " + "[" * 50_000) == [f"{FILE}: nested too deeply"]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://a/", "http://a"),
        ("http://a/v1", "http://a"),
        ("http://a/llm/v1/", "http://a/llm"),
    ],
)
def test_an_engines_address_is_brought_into_one_form(given: str, url: str) -> None:
    assert engine_url(given) == url


@pytest.mark.parametrize(
    "given",
    ["", "http://", "ftp://a", "http://u:p@a", "http://a?x=1", "http://a:99999", "http://a b"],
)
def test_what_is_no_engines_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any: the reader is told what is wanted
        engine_url(given)


def test_policies_and_engines_that_a_config_may_name_are_those_that_there_are() -> None:
    assert POLICIES == ROUTING_POLICIES
    assert set(ENGINES) == {"ollama", *(kind.value for kind in EngineKind)}
