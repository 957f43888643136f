"""Phrases that open a line which is about the page and not part of its text: read more, share, photo credit, all rights reserved.

In the languages that most of the web is written in; a line is only dropped for its phrase where it is short or holds a link.
"""

import re

ENGLISH = r"""
(?:read|see|learn|find|watch|listen|view)\s(?:more|next|the\sfull|related|out\smore|all)\b | (?:also|related|recommended|further|more)
\s(?:read|reading|stories|articles|posts|coverage|links|from|on|in\sthis|about)\b | related\s*: | most\s(?:read|popular|viewed)
| you\s(?:may|might|could)\s(?:also|like) | don[’']t\smiss | up\snext | follow\s(?:us|him|her|me|the\sauthor|\w+\son)\b
| (?:like|join|find|follow)\sus\son | share\s(?:this|on|via) | sign\sup\b | subscribe\b | click\shere\b | tweet\sthis | advertisement
| (?:get|join)\s(?:the|our)\s(?:latest|best|newsletter|free|daily) | sponsored | (?:leave|post|write|add)\s(?:a|your)\s(?:reply|comment)
| \d*\s*comments?\s*$ | comments\sare\sclosed | loading\b | have\sa\stip | all\srights\sreserved | © | copyright\b | \(c\)\s
| photo(?:s|graph)?\s*(?:by|:|credit) | image\s*(?:credit|source|:|by) | (?:images?|photos?|picture)\s(?:courtesy|via) | source\s*: | via\s*:
| filed\sunder | posted\s(?:in|on|by)\s*: | tags?\s*: | tagged\b | categor(?:y|ies)\s*:
| (?:first\s)?(?:published|updated|last\s(?:updated|modified))\b
| written\sby | about\sthe\sauthor | disclaimer | contact\s*: | print\sthis | this\s(?:article|story|post)\s(?:was|is|has|first|originally|may)\b
| thank\syou\sfor\s(?:reading|subscrib)"""
GERMAN = r"""
lesen\ssie\sauch | (?:auch|das|dies)\s(?:k[öo]nnte|interessant|thema\sk)
| mehr\s(?:zum\sthema|zu|[üu]ber|lesen|infos?|informationen|dazu|aus|artikel|von|nachrichten) | weiter(?:e|lesen|f[üu]hrende)\b
| zum\s(?:weiterlesen|thema) | siehe\sauch | foto(?:s|graf)?\s*: | bild(?:er|quelle|nachweis)?\s*: | quellen?\s*: | abonnier | newsletter\b
| jetzt\s(?:anmelden|abonnieren|lesen|kaufen|bestellen) | hier\sklicken | anzeige\b | werbung\b | teilen\b | artikel\s(?:teilen|drucken|empfehlen)
| diesen\s(?:artikel|beitrag) | schlagw[oö]rt | kategorien?\s*: | kommentar | empfehlungen?\saus | pressekontakt | kontakt\s*:
| ver[öo]ffentlicht\s(?:am|in|von) | stand\s*:"""
ROMANCE = r"""
lea\s(?:tambi[ée]n|m[áa]s|adem[áa]s|:) | lea\s*: | tambi[ée]n\s(?:te\s)?(?:puede|lea|podr[ií]a) | te\s(?:puede|recomendamos)
| le[ae]\s(?:m[áa]s|tambi) | notas?\srelacionad | s[íi]gue?nos | leia\s(?:tamb[ée]m|mais) | veja\s(?:tamb[ée]m|mais) | compartilh
| lire\s(?:aussi|la\ssuite|[ée]galement) | [àa]\slire\s | voir\saussi | partag | suivez | abonnez | leggi\s(?:anche|tutto|di\spi)"""
POLISH = r"czytaj | zobacz\s(?:te[żz]|tak|wi) | [źz]r[óo]d[łl]o\s*: | fot\."
OPENING = re.compile(rf"\W*(?:{ENGLISH}|{GERMAN}|{ROMANCE}|{POLISH})", re.IGNORECASE | re.VERBOSE)

LONGEST, LONGEST_LINKED = 60, 250  # characters


def is_boilerplate(text: str, linked: int) -> bool:
    """Whether a block of text, `linked` characters of it in links, opens with such a phrase and is short enough to be nothing else."""
    longest = LONGEST_LINKED if linked * 5 > len(text) else LONGEST
    return len(text) < longest and OPENING.match(text) is not None
