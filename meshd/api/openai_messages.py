"""The messages and tools of OpenAI's chat requests.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshd import limits
from meshd.api.body import BadField, check_base64, check_count, check_free, media_type_of
from meshd.inference import Image, Message, ToolCall

_ROLES: Final = {
    "system": "system",
    "developer": "system",  # OpenAI's newer word for it, which no engine's template knows
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_CHOICES: Final = frozenset({"none", "auto", "required"})


class ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str = ""


class Called(msgspec.Struct):
    function: CalledFunction
    id: str | None = None
    type: str = "function"


class MessageBody(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: Any = None


def messages(bodies: Sequence[MessageBody]) -> list[Message]:
    """The conversation in the internal form.  Raises BadField naming the place."""
    check_count(len(bodies), limits.MESSAGES, "messages")
    names: dict[str, str] = {}
    result = []
    for index, body in enumerate(bodies):
        at = f"messages[{index}]"
        role = _ROLES.get(body.role)
        if role is None:
            known = ", ".join(_ROLES)
            raise BadField(f"{at}.role must be one of {known}, not {body.role!r}", f"{at}.role")
        if body.function_call is not None:
            raise BadField(
                f"{at}.function_call is not supported; use tool_calls", f"{at}.function_call"
            )
        result.append(_message(body, role, at, names))
    return result


def _message(body: MessageBody, role: str, at: str, names: dict[str, str]) -> Message:
    content = body.content
    if type(content) is str and role in ("user", "system"):  # nearly all messages
        return Message(role, content, name=body.name or "")
    text, images = _content(content, at) if isinstance(content, list) else (content or "", [])
    calls: list[ToolCall] = []
    if role == "assistant":
        for number, called in enumerate(body.tool_calls or ()):
            calls.append(_tool_call(called, number, f"{at}.tool_calls[{number}]"))
            names[called.id or ""] = called.function.name
    elif content is None:
        raise BadField(f"{at}.content is required", f"{at}.content")
    name = body.name or ""
    if role == "tool":
        if not body.tool_call_id:
            raise BadField(f"{at}.tool_call_id is required", f"{at}.tool_call_id")
        # Ollama knows the answer of a tool by the tool's name, not by the call's id.
        name = name or names.get(body.tool_call_id, "")
    return Message(
        role,
        text,
        images=images,
        reasoning=body.reasoning_content or body.reasoning or "",
        tool_calls=calls,
        tool_call_id=body.tool_call_id or "" if role == "tool" else "",
        name=name,
    )


def _tool_call(called: Called, index: int, at: str) -> ToolCall:
    if called.type != "function":
        raise BadField(f"{at}.type must be function, not {called.type!r}", f"{at}.type")
    if not called.id:
        raise BadField(f"{at}.id is required", f"{at}.id")
    function = called.function
    return ToolCall(index, called.id, function.name, function.arguments)


def _content(parts: Sequence[Part], at: str) -> tuple[str, list[Image]]:
    texts: list[str] = []
    images: list[Image] = []
    for index, part in enumerate(parts):
        where = f"{at}.content[{index}]"
        if part.type == "text":
            texts.append(_required(part.text, f"{where}.text"))
        elif part.type == "refusal":
            texts.append(_required(part.refusal, f"{where}.refusal"))
        elif part.type == "image_url":
            images.append(_image(part.image_url, f"{where}.image_url"))
        elif part.type in ("input_audio", "file"):
            raise BadField(f"{where}: {part.type} parts are not supported", f"{where}.type")
        else:
            raise BadField(
                f"{where}.type must be text or image_url, not {part.type!r}", f"{where}.type"
            )
    # As llama.cpp joins them for templates that want one text.
    return "\n".join(texts), images


def _required(text: str | None, where: str) -> str:
    if text is None:
        raise BadField(f"{where} is required", where)
    return text


def _image(value: ImageUrl | str | None, where: str) -> Image:
    if value is None:
        raise BadField(f"{where} is required", where)
    url = value if isinstance(value, str) else value.url
    where = where if isinstance(value, str) else f"{where}.url"
    scheme, _, rest = url.partition(":")
    if scheme.lower() in ("http", "https"):
        raise BadField(
            f"{where}: no node of the mesh fetches pictures from a network; "
            "send it as data:image/png;base64,...",
            where,
        )
    kind, comma, data = rest.partition(",")
    if scheme.lower() != "data" or not comma or not kind.endswith(";base64"):
        raise BadField(f"{where} must be a URL of the form data:image/png;base64,...", where)
    media_type = kind.removesuffix(";base64").split(";")[0].lower()
    if media_type and not media_type.startswith("image/"):
        raise BadField(f"{where} must be an image, not {media_type}", where)
    check_base64(data, where)
    return Image(data, media_type or media_type_of(data))


def tools(entries: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The tools as they are, each a function with a name.  Raises BadField."""
    if not entries:
        return []
    check_count(len(entries), limits.TOOLS, "tools")
    for index, tool in enumerate(entries):
        at = f"tools[{index}]"
        if tool.get("type") != "function":
            raise BadField(f"{at}.type must be function, not {tool.get('type')!r}", f"{at}.type")
        function = tool.get("function")
        if not isinstance(function, dict):
            raise BadField(f"{at}.function must be of type object", f"{at}.function")
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise BadField(f"{at}.function.name is required", f"{at}.function.name")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            where = f"{at}.function.parameters"
            raise BadField(f"{where} must be of type object", where)
        check_free(tool, at)
    return list(entries)


def tool_choice(
    value: str | dict[str, Any] | None, offered: Sequence[dict[str, Any]]
) -> str | dict[str, Any] | None:
    """Which tool is to be called, checked against those offered.  Raises BadField."""
    if value is None or (not offered and value in ("none", "auto")):
        return None
    if not offered:
        raise BadField("tool_choice needs tools to choose from", "tool_choice")
    if isinstance(value, str):
        if value not in _CHOICES:
            raise BadField(
                f"tool_choice must be none, auto, required or a function, not {value!r}",
                "tool_choice",
            )
        return value
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if value.get("type") != "function" or not isinstance(name, str):
        raise BadField(
            'tool_choice must have the form {"type": "function", "function": {"name": "..."}}',
            "tool_choice",
        )
    if all(tool["function"]["name"] != name for tool in offered):
        raise BadField(f"tool_choice names {name!r}, which is not among tools", "tool_choice")
    return {"type": "function", "function": {"name": name}}
