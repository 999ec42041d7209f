"""The client port's API: OpenAI's and Ollama's dialects of one internal form, lists, access.

`DESIGN.md` beside this file says what may never happen.  `openai` and `ollama` decode and encode;
`routes` says which paths exist, `access` who may use them, `lists` what the
mesh offers.  The rest is the trio shell around them.
"""

from meshd.api.dialect import AnswerEncoder, Call, DialectError, HeaderPair

__all__ = ["AnswerEncoder", "Call", "DialectError", "HeaderPair"]
