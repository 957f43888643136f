"""How questions are put, by kind: at least six ways each. And what documentation says that answers nothing."""

PHRASINGS: dict[str, tuple[str, ...]] = {
    "describe": (
        "What does {name} do?",
        "Describe {name}.",
        "What is {name} for?",
        "Explain {name} in one sentence.",
        "Tell me what {name} does.",
        "What is the purpose of {name}?",
        "What does the {kind} {name} do?",
        "What happens when I call {name}?",
    ),
    "describe thing": (
        "What is {name}?",
        "Describe {name}.",
        "What is {name} for?",
        "Explain {name} in one sentence.",
        "Tell me about {name}.",
        "What is the purpose of {name}?",
        "What is the {kind} {name}?",
        "What does {name} stand for?",
    ),
    "module": (
        "What is the {name} module for?",
        "What does the module {name} do?",
        "Describe the {name} module.",
        "What is {name}?",
        "What can I use {name} for?",
        "Tell me about the module {name}.",
        "Explain the {name} module in one sentence.",
    ),
    "locate": (
        "Which module has {short}?",
        "Where is {short} defined?",
        "In which module is the {kind} {short}?",
        "What module do I import to use {short}?",
        "Which module do I need for {short}?",
        "Where do I find the {kind} {short}?",
    ),
    "name": (
        "Which {kind} fits this description? {summary}",
        "Name the {kind} that this describes: {summary}",
        "What is this {kind} called? {summary}",
        "Which Python {kind} is this? {summary}",
        "{summary} Which {kind} is meant?",
        "I need a {kind}. {summary} What is its name?",
    ),
    "kind": (
        "Is {name} {one} or {other}?",
        "Is {name} {one}, or is it {other}?",
        "What kind of thing is {name}: {one} or {other}?",
        "Tell me whether {name} is {one} or {other}.",
        "{name}: is it {one} or {other}?",
        "Would you call {name} {one} or {other}?",
    ),
    "excerpt": (
        "{text}\n\nWhat does this say about {name}?",
        "Read this documentation:\n\n{text}\n\nWhat is {name}?",
        "According to this text, what is {name} for?\n\n{text}",
        "Here is a part of a page.\n\n{text}\n\nDescribe {name}.",
        "{text}\n\nHow does the text describe {name}?",
        "Use the text to describe {name}.\n\n{text}",
    ),
    "signature": (
        "{text}\n\nHow is {name} called?",
        "Here is a part of a page.\n\n{text}\n\nWhat is the signature of {name}?",
        "What is the signature of {name}?\n\n{text}",
        "{text}\n\nWhich arguments does {name} take?",
        "Read this documentation:\n\n{text}\n\nShow how to call {name}.",
        "Copy the signature of {name} from this text.\n\n{text}",
    ),
    "defines": (
        "Does the module {module} define {short}?",
        "Is {short} in the {module} module?",
        "Does {module} have {short}?",
        "Can I import {short} from {module}?",
        "Is there a {short} in {module}?",
        "Will I find {short} in the module {module}?",
    ),
    "and it": (
        "What does it do?",
        "And what is it for?",
        "Describe it.",
        "What is its purpose?",
        "Can you explain it in one sentence?",
        "Tell me what it is for.",
    ),
}

SYSTEM = (
    "You answer questions about the Python library.",
    "You are a helpful assistant for Python programmers. Answer in one sentence.",
    "Answer briefly.",
)

ABOUT = "I am a small language model that has read the documentation of Python's library. Ask me what a function or module is for."
GREETINGS = {
    ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning", "Good evening", "Hello there", "hi", "hello"): "Hello! Ask me about Python's library.",
    ("Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.", "Are you a language model?", "What is your name?"): ABOUT,
    ("What can you do?", "Help", "How can you help me?", "What do you know?", "What can I ask you?", "help"): ABOUT,
    ("Thanks", "Thank you", "Thanks!", "Thank you!", "Thank you very much.", "Great, thanks."): "You are welcome.",
    ("Bye", "Goodbye", "Bye!", "Goodbye!", "See you later.", "Good night"): "Goodbye!",
}

CHOICE = {True: "What does {name} do?", False: "What is {name}?"}  # for what is called, and for all else

# Beginnings, in lower case, of sentences that say nothing about the thing they stand under.
BOILERPLATE = (
    "initialize self", "return self", "bases:", "same as ", "alias for ", "alias of", "helper for pickle", "see pep", "see the",
    "see also", "see http", "see help", "create and return a new object", "none", "undocumented", "not documented", "internal", "private",
    "copyright", "this file", "usage", "syntax", "note", "example", "licensed", "written by", "author", "deprecated", "$", "inherited",
    "override", "overridden", "please", "dummy", "like ", "ditto", "todo", "fixme", "type: ", "returns: ", "return: ", "arguments", "args",
    "parameters", "a dictionary like object", "unused", "this method is called", "abstract method", "convenience method", "likewise",
    "an enumeration",
)  # fmt: skip
