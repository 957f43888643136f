"""Lines that a web site puts on each of its pages: cookie, JavaScript, legal and sharing notices, in English."""

import re

# Wherever in a line, in lower case: placeholder text, JavaScript, cookies, terms.
NOTICE = re.compile(
    r"lorem ipsum|(enable|requires?|without|turn on) javascript|javascript (is|must be|has been)? ?(disabled|enabled|required|not)"
    r"|(accept|use[sd]?|about) (all )?cookies|cookie policy|terms of (use|service)|privacy policy|all rights reserved"
)
WORDS = ("lorem ipsum", "javascript", "cookie", "terms of", "privacy policy", "rights reserved")  # one of them is in each of those
# Nothing else on the line but these signs, so that `print()` is none.
AROUND = r"[\s•·*|»›>→.:!…-]*"
BUTTON = re.compile(
    AROUND
    + r"(read (more|full (article|story))|continue reading|learn more|click here|show (more|less)|load more( comments)?|see (all|more)|view all"
    r"|share( this)?( (article|page|post|story))?( (on|via|with) \w+)?( this)?|tweet( this)?|pin it|e-?mail( this( page)?)?|print( this( page)?)?"
    r"|(follow|like) us( on \w+)?|skip to (main )?content|back to top|sign (in|up)|log ?in|register|subscribe( now)?|leave a (comment|reply)"
    r"|advertisement|(copyright|©|\(c\))( ©| \(c\))? ?(\d{4}.{0,80}|by .{0,80}))" + AROUND
)
LONG = 200  # characters; a longer line tells something besides


def notice(line: str) -> bool:
    """Whether a line is a notice and nothing else."""
    if len(line) > LONG:
        return False
    lower = line.lower().strip()
    return bool(BUTTON.fullmatch(lower)) or (any(word in lower for word in WORDS) and bool(NOTICE.search(lower)))


def share(text: str) -> float:
    """The share of a text's lines that hold placeholder text or a JavaScript, cookie or legal notice."""
    lower = text.lower()
    if not any(word in lower for word in WORDS):  # fifty times faster than the search, and so for most documents
        return 0.0
    lines = [line for line in lower.split("\n") if line.strip()]
    return sum(bool(NOTICE.search(line)) for line in lines) / len(lines)
