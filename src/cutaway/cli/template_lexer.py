"""Cutting a Go template into text and actions, and actions into tokens."""

from cutaway.errors import InvalidArgument

_PUNCTUATION = ("(", ")", "|", ",")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class Token:
    """One word of an action: kind is field, variable, name, string, number or sign."""

    __slots__ = ("kind", "text", "value")

    def __init__(self, kind: str, text: str, value: object = None) -> None:
        self.kind = kind
        self.text = text
        self.value = value


def pieces(source: str) -> "list[str | list[Token]]":
    """Literal text and actions in turn; `{{-` and `-}}` take the white space beside them away."""
    found: list[str | list[Token]] = []
    rest, trim = source, False
    while rest:
        text, opening, rest = rest.partition("{{")
        if trim:
            text = text.lstrip()
        if opening and rest[:2] == "- ":
            text, rest = text.rstrip(), rest[1:]
        if text:
            found.append(text)
        if not opening:
            break
        action, rest = _action(rest)
        trim = action.endswith(" -")
        if not action.lstrip().startswith("/*"):
            found.append(tokens(action[:-1] if trim else action))
    return found


def _action(rest: str) -> tuple[str, str]:
    """Up to the closing braces, which may also stand in a string."""
    index, quoted = 0, ""
    while index < len(rest):
        char = rest[index]
        if quoted:
            index += char == "\\" and quoted == '"'
            quoted = "" if char == quoted else quoted
        elif char in '"`':
            quoted = char
        elif rest.startswith("}}", index):
            return rest[:index].strip(" \t\n") if rest[index - 2 : index] != " -" else rest[:index], rest[
                index + 2 :
            ]
        index += 1
    raise InvalidArgument("template parsing error: template: :1: unclosed action")


def tokens(action: str) -> list[Token]:
    """The words of one action. Raises `InvalidArgument` for a character that begins none."""
    found: list[Token] = []
    rest = action.lstrip()
    while rest:
        token, rest = _token(rest)
        found.append(token)
        rest = rest.lstrip()
    return found


def _token(rest: str) -> tuple[Token, str]:
    char = rest[0]
    if char in _PUNCTUATION:
        return Token("sign", char), rest[1:]
    for sign in (":=", "="):
        if rest.startswith(sign):
            return Token("sign", sign), rest[len(sign) :]
    if char == '"':
        return _string(rest)
    if char == "`":
        text, _, after = rest[1:].partition("`")
        return Token("string", text, text), after
    if char in ".$":
        return _path(rest)
    if char.isdecimal() or (char == "-" and rest[1:2].isdecimal()):
        end = _span(rest, 1, frozenset("0123456789."))
        number = float(rest[:end]) if "." in rest[:end] else int(rest[:end])
        return Token("number", rest[:end], number), rest[end:]
    end = _span(rest, 0, _NAME)
    if end == 0:
        raise InvalidArgument(f"template parsing error: template: :1: unexpected {char!r} in command")
    return Token("name", rest[:end]), rest[end:]


def _path(rest: str) -> tuple[Token, str]:
    end = _span(rest, 1, _NAME | {"."})
    return Token("variable" if rest[0] == "$" else "field", rest[:end]), rest[end:]


def _span(text: str, start: int, allowed: "frozenset[str]") -> int:
    end = start
    while end < len(text) and text[end] in allowed:
        end += 1
    return end


def _string(rest: str) -> tuple[Token, str]:
    out, index = [], 1
    while index < len(rest) and rest[index] != '"':
        char = rest[index]
        if char == "\\":
            index += 1
            char = _ESCAPES.get(rest[index : index + 1], rest[index : index + 1])
        out.append(char)
        index += 1
    if index >= len(rest):
        raise InvalidArgument("template parsing error: template: :1: unterminated quoted string")
    text = "".join(out)
    return Token("string", text, text), rest[index + 1 :]
