"""The tiny model generator: stable bytes, a well-formed file, known answers."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from meshd.testing.models import ModelKind, Recipe, build, chain, expected_text, main

SCRIPT = Recipe(
    kind=ModelKind.SCRIPT, script=(b"<think>", b" hm", b"</think>", b" 42"), think_template=True
)


@pytest.mark.parametrize(
    ("recipe", "sha256"),
    [
        (Recipe(), "690db3961dc4413d511a4c8c8cc651bc51dd96b10c8a70565d7d847e884466a5"),
        (
            Recipe(kind=ModelKind.RANDOM, seed=7),
            "1a10348471341ccba790a44cf10126579b74fb7b32f22cc7fc145485b3bf75c6",
        ),
        (SCRIPT, "e4d9765f597d05a78ef3ea4a5fb87608a67bbc8952c2fa20e6296940baf498c3"),
        (
            Recipe(words=16, dim=32, layers=1, context_tokens=256),
            "34b292d6e76af4856c48a2b7ebbb9a6ac5167ca6507fdb84f30dda263dccc16a",
        ),
    ],
    ids=["counter", "random", "script", "small"],
)
def test_a_recipe_always_gives_the_same_bytes(recipe: Recipe, sha256: str) -> None:
    assert hashlib.sha256(build(recipe)).hexdigest() == sha256


def test_another_seed_gives_another_file_with_the_same_answer() -> None:
    small = Recipe(words=8, dim=16, layers=1)
    other = Recipe(words=8, dim=16, layers=1, seed=2)
    assert build(small) != build(other)
    assert expected_text(small) == expected_text(other)


def test_the_file_declares_tensors_that_fill_it_exactly() -> None:
    raw = build(Recipe(words=8, dim=16, layers=1))
    assert raw[:4] == b"GGUF"
    version, tensors, _ = struct.unpack_from("<IQQ", raw, 4)
    assert (version, tensors) == (3, 3 + 9)
    # the last tensor is ffn_down: 16 x 32 floats, a multiple of the alignment
    at = raw.rindex(b"blk.0.ffn_down.weight") + len(b"blk.0.ffn_down.weight")
    dimensions, columns, rows, kind, offset = struct.unpack_from("<IQQIQ", raw, at)
    assert (dimensions, columns, rows, kind) == (2, 32, 16, 0)
    head_bytes = at + struct.calcsize("<IQQIQ")
    head_bytes += -head_bytes % 32
    assert head_bytes + offset + 4 * columns * rows == len(raw)


def test_the_counter_counts_in_distinct_words() -> None:
    words = chain(Recipe())
    assert words[:3] == [b" bababa", b" dababa", b" fababa"]
    assert len(set(words)) == 512
    assert expected_text() == b"".join(words).decode()


def test_the_expected_text_goes_on_after_what_was_said() -> None:
    whole = expected_text(max_tokens=5)
    said = expected_text(max_tokens=2)
    assert said + expected_text(max_tokens=3, after=said) == whole
    assert expected_text(after=expected_text()) == ""


@pytest.mark.parametrize("after", [" baba", " dababa", " bababa dababa x"])
def test_text_that_is_no_part_of_the_answer_has_no_continuation(after: str) -> None:
    with pytest.raises(ValueError, match="does not end between two pieces"):
        expected_text(after=after)


def test_pieces_may_be_halves_of_a_character() -> None:
    recipe = Recipe(kind=ModelKind.SCRIPT, script=(b" caf", b"\xc3", b"\xa9 "))
    assert expected_text(recipe) == " café "


def test_a_random_model_has_no_expected_text() -> None:
    with pytest.raises(ValueError, match="no known answer"):
        expected_text(Recipe(kind=ModelKind.RANDOM))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": ModelKind.SCRIPT},
        {"script": (b"a",)},
        {"kind": ModelKind.SCRIPT, "script": (b"a", b"a")},
        {"kind": ModelKind.SCRIPT, "script": (b"",)},
        {"dim": 12},
        {"layers": 0},
        {"words": 0},
    ],
)
def test_a_recipe_that_makes_no_model_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|belongs"):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_the_command_line_writes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cafe.gguf"
    main([str(out), "--kind", "script", "--script", '[" caf", "\\u00c3", "\\u00a9"]', "--latin1"])
    assert out.read_bytes() == build(
        Recipe(kind=ModelKind.SCRIPT, script=(b" caf", b"\xc3", b"\xa9"))
    )
    assert "kind=script" in capsys.readouterr().out


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "x"), "--kind", "script"])
    assert "a script belongs to kind script" in capsys.readouterr().err
