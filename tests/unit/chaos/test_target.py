"""A mesh that exists: asked only, unless more is allowed; and what does not fit is told."""

from __future__ import annotations

from typing import Any

import pytest

from meshd.cli.shell import UsageError
from meshd_chaos.library import find
from meshd_chaos.target import Target, TargetStage, for_target
from meshd_chaos.target_flags import read_target, words_of

NONE: dict[str, Any] = {
    "--model": None,
    "--api-key": "",
    "--jobs": False,
    "--faults": False,
    "--pid": None,
    "--kill": None,
    "--start": None,
}
ASKED = {**NONE, "--model": ["llama"]}
URLS = "http://studio:11435/, http://attic:11435"


def stage(**more: Any) -> TargetStage:
    target = Target(urls=("http://a",), models=("llama",), **more)
    return TargetStage(target, {"studio": "http://a"})


def test_what_the_flags_say_is_in_the_target() -> None:
    flags = {**ASKED, "--faults": True, "--pid": ["studio=47"], "--kill": ["attic=ssh a b=c"]}
    target = read_target(URLS, flags)
    assert target is not None
    assert target.urls == ("http://studio:11435", "http://attic:11435")
    assert (target.models, dict(target.pids)) == (("llama",), {"studio": 47})
    assert target.kills == {"attic": "ssh a b=c"}
    assert read_target(None, NONE) is None


@pytest.mark.parametrize(
    ("urls", "flags", "told"),
    [
        (None, ASKED, "--model: only with --target URL"),
        (None, {**NONE, "--faults": True, "--jobs": True}, "--jobs, --faults: only with"),
        (URLS, NONE, "--target needs --model"),
        ("studio:11435", ASKED, "--target studio:11435: that is no URL like http://"),
        (" ,", ASKED, "--target needs a URL like http://"),
        ("http://[::", ASKED, "--target http://[::: that is no URL: Invalid IPv6 URL"),
        ("http://a:99999", ASKED, "--target http://a:99999: that is no URL: Port out of range"),
        ("http://a:abc", ASKED, "--target http://a:abc: that is no URL: Port could not"),
        ("http://:80", ASKED, "--target http://:80: that is no URL like"),
        (f"http://{'a' * 70}", ASKED, "label too long"),
        (URLS, {**ASKED, "--model": [" "]}, "--model NAME: a model has a name"),
        (URLS, {**ASKED, "--api-key": "se cret"}, "--api-key: an API key is printable ASCII"),
        (URLS, {**ASKED, "--faults": True, "--pid": ["a=\u00b2"]}, "is no process id"),
        (URLS, {**ASKED, "--faults": True, "--pid": ["a=" + "9" * 5_000]}, "is no process id"),
        (URLS, {**ASKED, "--pid": ["a=1"]}, "--pid: nothing is broken without --faults"),
        (URLS, {**ASKED, "--faults": True, "--pid": ["a=me"]}, "'me' is no process id"),
        (URLS, {**ASKED, "--faults": True, "--kill": ["attic"]}, "--kill attic: it must be NODE="),
    ],
)
def test_flags_that_do_not_fit_are_told(urls: str | None, flags: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_target(urls, flags)
    assert told in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:hush@studio", "http://me:hu/sh@[studio"])
def test_a_password_in_a_url_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(UsageError, match="but --api-key KEY") as caught:
        read_target(url, ASKED)
    assert "hu" not in str(caught.value)


def test_the_flags_can_be_typed_again_and_do_not_tell_the_key() -> None:
    means = {"--pid": ["studio=47", "attic=48"], "--kill": ["studio=ssh s x"], "--start": None}
    flags = {**ASKED, "--api-key": "hush", "--faults": True, **means}
    words = words_of(URLS, flags)
    assert words == (
        "--target", URLS, "--model", "llama", "--api-key", "KEY", "--faults", "--pid", "studio=47",
        "--pid", "attic=48", "--kill", "studio=ssh s x",
    )  # fmt: skip
    assert words_of("http://a", ASKED) == ("--target", "http://a", "--model", "llama")


def test_it_is_only_asked_and_nothing_is_written_down_unless_allowed() -> None:
    (mix,) = find("mix")
    target = Target(urls=("http://a",), models=("llama",))
    asked = for_target(mix, target)
    assert set(asked.workload.modes) == {"streamed", "whole"}
    assert (asked.expect.faults, asked.expect.recovered) == (0, 0)
    with_jobs = for_target(mix, Target(urls=("http://a",), models=("llama",), with_jobs=True))
    assert with_jobs.workload == mix.workload


def test_faults_that_were_not_allowed_or_have_no_means_are_not_tested() -> None:
    names = {"freeze", "kill", "partition"}
    told = {one.name: one.why for one in stage().not_tested(names)}
    assert set(told) == names
    assert all("--faults" in why for why in told.values())
    able = stage(
        with_faults=True, pids={"studio": 47}, kills={"studio": "x"}, starts={"studio": "y"}
    )
    assert [one.name for one in able.not_tested(names)] == ["partition"]
    unable = {one.name: one.why for one in stage(with_faults=True).not_tested(names)}
    assert unable["freeze"] == "it needs --pid NODE=PID"
    assert unable["kill"] == "it needs --kill and --start NODE=COMMAND"
