"""What is typed wrongly is said in a sentence, with exit code 2 and nothing started."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd import __version__
from meshd.cli.shell import command
from meshd.errors import ConfigError, DiskFailed, Refused

from .conftest import Typed, run_meshd, type_here

SECRET = "mesh1-abcdefgh-123456.hunter2"


@pytest.mark.parametrize(
    "words",
    [
        ["start", "--bogus"],
        ["start", "--port", "many"],
        ["bogus"],
        ["token", "create", "--uses", "0"],
        ["key", "revoke"],
    ],
)
def test_a_wrong_flag_or_command_ends_with_2(words: list[str]) -> None:
    done = type_here(*words)
    assert done.exit_code == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_in_the_config_is_named_with_its_line(data_dir: Path) -> None:
    data_dir.mkdir()
    file = data_dir / "config.toml"
    file.write_text('name = "x"\n[limits]\nqueue_wait = 3\n[[backend]]\nurl = 3\n')
    done = run_meshd("start", "--data-dir", str(data_dir), "--port", "70000")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'meshd: {file}:3: unknown key "limits.queue_wait"; did you mean "limits.queue_wait_s"?',
        f'meshd: {file}:5: backend.url must be an address like "http://127.0.0.1:8080", not 3',
        "meshd: --port must be a whole number from 0 to 65535, not 70000",
    ]
    assert sorted(path.name for path in data_dir.iterdir()) == ["config.toml"]


def test_a_config_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    done = type_here("config", "check", "--config", str(missing))
    assert (done.exit_code, done.stderr) == (2, f"meshd: there is no config file {missing}\n")


def test_a_config_file_that_is_not_text_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"port = 1\nname = '\xff'\n")
    done = type_here("config", "check", "--config", str(file))
    assert (done.exit_code, done.stderr) == (2, f"meshd: {file}:2: not UTF-8\n")
    file.write_bytes(b"port = 1\nname =\n")
    done = type_here("config", "check", "--config", str(file))
    assert done.exit_code == 2
    assert done.stderr.startswith(f"meshd: {file}:2: not TOML: ")


def test_a_config_that_can_be_used_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbfport = 1\r\n")
    done = type_here("config", "check", "--config", str(file))
    assert (done.exit_code, done.stdout) == (0, f"{file} can be used\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--token", SECRET], "say where with --join"),
        (["--join", "a", "--token", SECRET, "--token-file", "x"], "not both"),
        (["--join", "a", "--token-file", "/nowhere/x"], "there is no file /nowhere/x"),
        (["--join", "a", "--token", " "], "the token is empty"),
        (["--join", "a", "--token", SECRET + "é"], "that is not a token"),
        (["--join", "a", "--token", SECRET * 10], "that is not a token"),
        (["--listen", "0.0.0.0"], "make one with: meshd key create NAME --data-dir "),
    ],
)
def test_a_start_that_cannot_be_meant_does_not_begin(
    words: list[str], said: str, data_dir: Path
) -> None:
    done = type_here("start", "--data-dir", str(data_dir), *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert not (data_dir / "lock").exists()


def test_the_empty_answer_to_the_question_for_a_token_is_refused(data_dir: Path) -> None:
    done = type_here("start", "--data-dir", str(data_dir), "--join", "a", "--token", "-")
    assert (done.exit_code, done.stderr) == (2, "meshd: the token is empty\n")


def test_the_version_and_the_paths_are_told(type_in: Typed, data_dir: Path) -> None:
    assert type_in("version").stdout == f"meshd {__version__}\n"
    lines = type_in("paths").stdout.splitlines()
    assert lines[0].split() == ["WHAT", "WHERE"]
    assert ["data", str(data_dir)] in [line.split() for line in lines]
    assert '"lock": "' in type_in("paths", "--json").stdout


def test_paths_says_if_there_is_no_log_file_yet(type_in: Typed, data_dir: Path) -> None:
    def log_row() -> str:
        return next(row for row in type_in("paths").stdout.splitlines() if row.startswith("log"))

    assert log_row().endswith("(none yet)")
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "meshd.log").touch()
    assert log_row().endswith("meshd.log")
    assert "none yet" not in type_in("paths", "--json").stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("it is so"), 2),
        (Refused("it is so"), 1),
        (DiskFailed(28, "it is so"), 1),
        (ExceptionGroup("a", [ExceptionGroup("b", [Refused("it is so")])]), 1),
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("a", [KeyboardInterrupt()]), 130),
    ],
)
def test_expected_failures_are_sentences_and_codes(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    @command
    def broken() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        broken()
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == ("" if code == 130 else "meshd: it is so\n")


def test_what_nobody_expected_is_not_hidden() -> None:
    @command
    def broken() -> None:
        raise ExceptionGroup("a", [ValueError("a bug")])

    with pytest.raises(ExceptionGroup):
        broken()
