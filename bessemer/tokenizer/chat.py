"""The chat format: special tokens and the Jinja template that turns messages into text (ChatML).

<|im_start|>user
What does json.dumps do?<|im_end|>
<|im_start|>assistant
...<|im_end|>
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
SPECIAL = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
ROLES = ("system", "user", "assistant")

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}"
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
        if not isinstance(message.get("content"), str):
            raise ValueError(f"message {number} ({message['role']}): content must be text, not {message.get('content')!r}")


def render(template: str, messages: Sequence[dict[str, Any]], reply: bool) -> str:
    """Messages as text; `reply` adds the header of the assistant's next turn."""
    return _compiled(template).render(messages=messages, add_generation_prompt=reply)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    # Templates come with downloaded checkpoints, so they run in the sandbox; the two flags are those transformers uses.
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
