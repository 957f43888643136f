"""Keys, tokens and passwords in text: what providers give out has a prefix of its own, so a search for that is all it costs."""

import re
from collections.abc import Iterator

Span = tuple[int, int]
# What every match contains and few texts do, then the pattern. A pattern starts with its literal prefix and has the boundary behind
# it, so that the regular expression engine skips from prefix to prefix; lengths are bounded, so that time stays linear.
TOKENS = [
    (gate, re.compile(pattern))
    for gate, pattern in (
        ("", r"A[KS]IA(?<!\wA[KS]IA)[0-9A-Z]{16}(?!\w)"),  # AWS
        ("aws_secret_access_key", r"(?<=aws_secret_access_key)[\"']?\s{0,3}[=:]\s{0,3}[\"']?([0-9A-Za-z/+]{40})(?![0-9A-Za-z/+])"),
        ("_", r"gh[opsur]_(?<!\wgh[opsur]_)[0-9A-Za-z]{36,255}(?!\w)"),  # GitHub
        ("_", r"github_pat_(?<!\wgithub_pat_)\w{22,255}"),
        ("-", r"glpat-(?<!\wglpat-)[\w-]{20,255}"),  # GitLab
        ("-", r"xox(?<!\wxox)[abeoprs]-[0-9A-Za-z-]{10,255}"),  # Slack
        ("hooks.slack.com/services/", r"(?<=hooks\.slack\.com/services/)T\w{6,20}/B\w{6,20}/\w{16,40}"),
        ("", r"AIza(?<!\wAIza)[\w-]{35}(?![\w-])"),  # Google
        ("ya29.", r"ya29\.(?<!\wya29\.)[\w-]{20,1024}"),
        ("k_live_", r"[rsp]k_live_(?<!\w[rsp]k_live_)[0-9A-Za-z]{16,255}"),  # Stripe
        ("k_test_", r"[rsp]k_test_(?<!\w[rsp]k_test_)[0-9A-Za-z]{16,255}"),
        ("-", r"sk-(?<![\w-]sk-)(?=[\w-]{0,255}[0-9])(?=[\w-]{0,255}[A-Z])[\w-]{20,255}"),  # OpenAI, Anthropic
        ("_", r"hf_(?<!\whf_)[0-9A-Za-z]{34,40}(?!\w)"),  # Hugging Face
        ("_", r"npm_(?<!\wnpm_)[0-9A-Za-z]{36}(?!\w)"),
        ("-", r"pypi-AgE[\w-]{50,1024}"),
        ("", r"SG\.(?<!\wSG\.)[\w-]{16,32}\.[\w-]{16,64}"),  # SendGrid
        ("", r"eyJ(?<![\w-]eyJ)[\w-]{8,4096}\.eyJ[\w-]{8,16384}\.[\w-]{8,4096}"),  # JSON web token (RFC 7519)
        ("earer ", r"earer (?<=\b[Bb]earer )((?=[\w.~+/-]{0,512}[0-9])[\w.~+/-]{20,4096}=*)"),  # RFC 6750
        ("-----BEGIN ", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----))*+-----END [A-Z ]{0,40}PRIVATE KEY-----"),
        ("@", r"://[^\s/:@\"'<>\[\]{}$]{0,64}:([^\s/:@\"'<>\[\]{}$]{3,128})@(?=[\w\[])"),  # a password in a URL
    )
]


def keys(text: str) -> Iterator[Span]:
    """Access keys, tokens, private key blocks and passwords in URLs; of the last, the password alone."""
    for gate, pattern in TOKENS:
        if gate in text:
            for match in pattern.finditer(text):
                yield match.span(match.lastindex or 0)
