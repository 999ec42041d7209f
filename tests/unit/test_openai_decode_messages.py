"""OpenAI's conversations: roles, parts, tools, and the parts that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from meshd import limits
from meshd.inference import Image, Message, ToolCall
from tests.unit.openai_bodies import (
    CHAT,
    PNG,
    USER,
    chat,
    chat_refused,
    refused,
)


def test_roles_are_openais_and_developer_means_system() -> None:
    request = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi", "name": "ada"},
        ]
    )
    assert request.messages == [
        Message("system", "be brief"),
        Message("system", "be kind"),
        Message("user", "hi", name="ada"),
    ]


def test_a_conversation_with_tools_keeps_calls_ids_and_the_tools_name() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    request = chat(
        messages=[
            *USER,
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "R"},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ]
    )
    assert request.messages[1:] == [
        Message("assistant", reasoning="R", tool_calls=[ToolCall(0, "c1", "f", '{"a":1}')]),
        Message("tool", "42", tool_call_id="c1", name="f"),
    ]


def test_parts_become_one_text_and_pictures() -> None:
    content = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}"}},
        {"type": "image_url", "image_url": f"data:;base64,{PNG}"},
        {"type": "text", "text": "this?"},
    ]
    request = chat(messages=[{"role": "user", "content": content}])
    assert request.messages == [
        Message(
            "user", "what is\nthis?", images=[Image(PNG, "image/jpeg"), Image(PNG, "image/png")]
        )
    ]


@pytest.mark.parametrize(
    ("part", "field", "word"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            "image_url.url",
            "fetches",
        ),
        (
            {"type": "image_url", "image_url": {"url": "HTTP://example.org/a"}},
            "image_url.url",
            "fetches",
        ),
        ({"type": "image_url", "image_url": "ftp://x/a.png"}, "image_url", "data:"),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png,abc"}},
            "image_url.url",
            "data:",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:text/plain;base64,QUJD"}},
            "image_url.url",
            "image",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJ"}},
            "image_url.url",
            "base64",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,Q=JD"}},
            "image_url.url",
            "base64",
        ),
        ({"type": "image_url"}, "image_url", "required"),
        ({"type": "text"}, "text", "required"),
        ({"type": "text", "text": 5}, "text", "string"),
        ({"type": "input_audio", "input_audio": {}}, "type", "not supported"),
        ({"type": "file", "file": {}}, "type", "not supported"),
        ({"type": "video"}, "type", "video"),
        ({"text": "x"}, "type", "required"),
    ],
)
def test_parts_that_cannot_be_used_are_named(part: object, field: str, word: str) -> None:
    error = chat_refused(messages=[*USER, {"role": "user", "content": [part]}])
    assert error["param"] == f"messages[1].content[0].{field}"
    assert word in error["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "function", "content": "x", "name": "f"}, "messages[0].role"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
            "messages[0].tool_calls[0].id",
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "custom", "function": {"name": "f"}}],
            },
            "messages[0].tool_calls[0].type",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ("hi", "messages[0]"),
    ],
)
def test_messages_that_cannot_be_used_are_named(message: object, param: str) -> None:
    assert refused(CHAT, {"model": "m", "messages": [message]})["param"] == param


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def test_tools_and_the_choice_among_them_pass_as_they_are() -> None:
    offered = [tool(parameters={"type": "object", "properties": {}}), tool("g")]
    choice = {"type": "function", "function": {"name": "g"}}
    request = chat(tools=offered, tool_choice=choice, parallel_tool_calls=False)
    assert request.tools == offered
    assert request.tool_choice == choice
    assert request.extra == {"parallel_tool_calls": False}
    assert chat(tools=offered, tool_choice="required").tool_choice == "required"


def test_a_choice_without_tools_is_dropped_where_it_says_nothing() -> None:
    assert chat(tool_choice="auto").tool_choice is None
    assert chat(tools=[], tool_choice="none").tool_choice is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool(), tool("")]}, "tools[1].function.name"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [tool()] * (limits.TOOLS + 1)}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {
                "tools": [tool()],
                "tool_choice": {"type": "function", "function": {"name": "h"}},
            },
            "tool_choice",
        ),
        ({"tools": [tool()], "tool_choice": 5}, "tool_choice"),
    ],
)
def test_tools_that_cannot_be_used_are_named(fields: dict[str, Any], param: str) -> None:
    assert chat_refused(**fields)["param"] == param
