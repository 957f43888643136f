"""The chat format: special tokens and the Jinja template that turns messages into text (ChatML, with functions that may be called).

<|im_start|>user
What does json.dumps do?<|im_end|>
<|im_start|>assistant
...<|im_end|>
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
SPECIAL = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
ROLES = ("system", "user", "assistant", "tool")

TEMPLATE = (
    "{% if tools %}"
    "{{ '<|im_start|>system\\n' }}"
    "{% if messages and messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim + '\\n\\n' }}{% endif %}"
    "{{ 'You can call these functions, one JSON object a line:\\n' }}"
    "{% for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}"
    '{{ \'To call one, write <tool_call>{"name": ..., "arguments": {...}}</tool_call> on a line of its own.<|im_end|>\\n\' }}'
    "{% endif %}"
    "{% for message in messages %}"
    "{% if not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') | trim }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% set called = call['function'] or call %}"
    "{{ '\\n' if not loop.first or (message['content'] or '') | trim else '' }}"
    "{{ '<tool_call>{\"name\": ' + called['name'] | tojson + ', \"arguments\": ' }}"
    "{{ called['arguments'] if called['arguments'] is string else called['arguments'] | tojson }}"
    "{{ '}</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>' + '\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def check(messages: Sequence[dict[str, Any]]) -> None:
    """ValueError where `messages` is not a conversation: roles, contents, at least one message."""
    if not messages:
        raise ValueError("a conversation needs at least one message")
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else message
        if role not in ROLES:
            raise ValueError(f"message {number}: role {role!r} is not one of {', '.join(ROLES)}")
        calls = message.get("tool_calls")
        if calls and role != "assistant":
            raise ValueError(f"message {number} ({role}): only the assistant makes tool_calls")
        for call in calls or []:
            called = call.get("function") or call if isinstance(call, dict) else None
            if not isinstance(called, dict) or not isinstance(called.get("name"), str) or not isinstance(called.get("arguments"), dict | str):
                raise ValueError(f"message {number} ({role}): a tool call is an object with a name and arguments, not {call!r}")
        if not isinstance(message.get("content"), str) and not (calls and message.get("content") is None):
            raise ValueError(f"message {number} ({role}): content must be text, not {message.get('content')!r}")


def render(template: str, messages: Sequence[dict[str, Any]], reply: bool, **variables: Any) -> str:
    """Messages as text; `reply` adds the header of the assistant's next turn. `variables`: tools, bos_token, eos_token.

    ValueError where the template refuses these messages, as some do for roles out of order.
    """
    try:
        return _compiled(template).render(messages=messages, add_generation_prompt=reply, **{"tools": None, "documents": None} | variables)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses this conversation: {error}") from None


def closing(template: str, special: Iterable[str], **variables: Any) -> str | None:
    """The special token that ends the assistant's turn, found by rendering one; None where there is none."""
    said = "the assistant's answer"
    asked = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": said}]
    try:
        _, found, rest = render(template, asked, False, **variables).rpartition(said)
    except ValueError:
        return None
    first = re.search("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)", rest if found else "")
    return first[0] if first else None


class _Generation(Extension):
    """{% generation %}...{% endgeneration %}, which some templates put around what the assistant says: here just its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    # Templates come with downloaded checkpoints, so they run in the sandbox. Flags, filters and functions are those transformers gives them.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise ValueError(f"the chat template is no valid Jinja: {error}") from None


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def texts_changed(value: Any, change: Any) -> Any:
    """A message, or anything JSON holds, with `change` applied to every text in it, the keys of objects apart."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: texts_changed(inner, change) for key, inner in value.items()}
    return [texts_changed(inner, change) for inner in value] if isinstance(value, list | tuple) else value
