"""What a request will cost, guessed from its text.  Pure.

Nobody here has the model's tokeniser, so a token is taken as four bytes of UTF-8 (the rule of
thumb that OpenAI publishes for English); the guess only has to rank holders, not bill anyone.
"""

from __future__ import annotations

import msgspec

from meshd.inference import Kind, Request

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 600
MESSAGE_TOKENS = 6
EXPECTED_OUTPUT_TOKENS = 256
"""Mean answer length of public chat traces (Azure LLM inference 2023, conversations: 211)."""


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a holder must have, and how much work it would be."""

    kind: Kind
    prompt_tokens: int
    output_tokens: int
    """Expected, for predictions of time."""
    context_tokens: int
    """Prompt plus the most it may write; 0 output if the client set no maximum."""
    needs: frozenset[str]
    """Capabilities, in Ollama's words: completion, tools, vision, embedding, insert."""


def demand_of(request: Request) -> Demand:
    """Guess a request's demand from its texts."""
    text_bytes = len(request.prompt) + len(request.system) + len(request.suffix)
    images = len(request.images)
    for message in request.messages:
        text_bytes += len(message.text) + len(message.reasoning)
        images += len(message.images)
    text_bytes += sum(map(len, request.inputs))
    prompt = (
        text_bytes // BYTES_PER_TOKEN
        + images * IMAGE_TOKENS
        + len(request.messages) * MESSAGE_TOKENS
        + 1
    )
    needs = {"embedding"} if request.kind is Kind.EMBED else {"completion"}
    if images:
        needs.add("vision")
    if request.tools:
        needs.add("tools")
    if request.suffix:
        needs.add("insert")
    limit = request.sampling.max_tokens
    output = 0 if request.kind is Kind.EMBED else min(limit or 10**9, EXPECTED_OUTPUT_TOKENS)
    return Demand(
        kind=request.kind,
        prompt_tokens=prompt,
        output_tokens=output,
        context_tokens=prompt + (limit or 0),
        needs=frozenset(needs),
    )
