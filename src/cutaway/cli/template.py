"""The part of Go's text/template that `--format` is used with.

Fields (`.State.Pid`), pipelines, variables, `if`/`else`, `range`, `with`, comparison and the functions
docker adds (json, join, lower, ...). Source: the text/template package's documentation.

    "{{range .Ports}}{{.}} {{end}}"  ──lex──▶  text and actions  ──parse──▶  nodes  ──render──▶  text
"""

from cutaway.cli.template_functions import FUNCTIONS, show
from cutaway.cli.template_lexer import Token, pieces
from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Evaluate = Callable[["Scope"], object]
    Node = Callable[["Scope"], str]


class Scope:
    """What `.` and the variables are at some place of the template."""

    __slots__ = ("dot", "variables")

    def __init__(self, dot: object, variables: dict[str, object]) -> None:
        self.dot = dot
        self.variables = variables

    def inner(self, dot: object, **variables: object) -> "Scope":
        return Scope(dot, {**self.variables, **{f"${name}": value for name, value in variables.items()}})


class Template:
    """A parsed template. Raises `InvalidArgument` for one that does not parse, with Go's way to say so."""

    def __init__(self, text: str, execution: str = "template parsing error: ") -> None:
        self._execution = execution
        source = text.replace("\\t", "\t").replace("\\n", "\n")
        self._nodes = _Parser(pieces(source)).all()

    def render(self, dot: object) -> str:
        """The text for one value. Raises `InvalidArgument` for a field that it has not."""
        try:
            scope = Scope(dot, {"$": dot})
            return "".join(node(scope) for node in self._nodes)
        except (LookupError, TypeError, ValueError) as error:
            text = error.args[0] if isinstance(error, LookupError) and error.args else error
            raise InvalidArgument(f"{self._execution}template: {text}") from None


class _Parser:
    """Turns pieces into nodes; blocks nest by recursion."""

    def __init__(self, parts: "Sequence[str | list[Token]]") -> None:
        self._parts = list(parts)

    def all(self) -> "list[Node]":
        nodes, ended_by = self._block()
        if ended_by:
            raise _syntax(f"unexpected {{{{{ended_by}}}}}")
        return nodes

    def _block(self) -> "tuple[list[Node], str]":
        """Nodes up to `end` or `else` (or the end of everything), and which of them it was."""
        nodes: list[Node] = []
        while self._parts:
            part = self._parts.pop(0)
            if isinstance(part, str):
                nodes.append(lambda scope, text=part: text)  # type: ignore[misc]
                continue
            word = part[0].text if part and part[0].kind == "name" else ""
            if word in ("end", "else"):
                if word == "else" and len(part) > 1:
                    self._parts.insert(0, part[1:])  # "else if": the rest is a block of its own
                    return nodes, "else if"
                return nodes, word
            nodes.append(self._action(word, part))
        return nodes, ""

    def _action(self, word: str, part: list[Token]) -> "Node":
        if word in ("if", "with", "range"):
            return self._conditional(word, part[1:])
        if not part:
            raise _syntax("missing value for command")
        if len(part) > 2 and part[0].kind == "variable" and part[1].text in (":=", "="):
            name, value = part[0].text, _Expression(part[2:]).pipeline()
            return lambda scope: scope.variables.__setitem__(name, value(scope)) or ""  # type: ignore[func-returns-value]
        value = _Expression(part).pipeline()
        return lambda scope: show(value(scope))

    def _conditional(self, word: str, head: list[Token]) -> "Node":
        names: list[str] = []
        if ":=" in [token.text for token in head]:
            at = [token.text for token in head].index(":=")
            names = [token.text[1:] for token in head[:at] if token.kind == "variable"]
            head = head[at + 1 :]
        value = _Expression(head).pipeline()
        body, ended_by = self._block()
        otherwise: list[Node] = []
        if ended_by == "else if":
            nested = self._parts.pop(0)
            assert isinstance(nested, list)
            otherwise, ended_by = [self._action(nested[0].text, nested)], "end"
        elif ended_by == "else":
            otherwise, ended_by = self._block()
        if ended_by != "end":
            raise _syntax("unexpected EOF")
        make = {"if": _if, "with": _with, "range": _range}[word]
        return make(value, body, otherwise, names)


def _text(nodes: "Sequence[Node]", scope: Scope) -> str:
    return "".join(node(scope) for node in nodes)


def _if(value: "Evaluate", body: "list[Node]", otherwise: "list[Node]", names: list[str]) -> "Node":
    return lambda scope: _text(body if value(scope) else otherwise, scope)


def _with(value: "Evaluate", body: "list[Node]", otherwise: "list[Node]", names: list[str]) -> "Node":
    def node(scope: Scope) -> str:
        found = value(scope)
        if not found:
            return _text(otherwise, scope)
        return _text(body, scope.inner(found, **dict.fromkeys(names[:1], found)))

    return node


def _range(value: "Evaluate", body: "list[Node]", otherwise: "list[Node]", names: list[str]) -> "Node":
    def node(scope: Scope) -> str:
        found = value(scope)
        if not found:
            return _text(otherwise, scope)
        pairs: list[tuple[object, object]]
        if isinstance(found, dict):
            pairs = [(key, found[key]) for key in sorted(found)]
        elif isinstance(found, list):
            pairs = list(enumerate(found))
        else:
            raise ValueError(f":1: range can't iterate over {show(found)}")
        out = []
        for key, item in pairs:
            given = (item,) if len(names) == 1 else (key, item)
            out.append(_text(body, scope.inner(item, **dict(zip(names, given, strict=False)))))
        return "".join(out)

    return node


class _Expression:
    """A pipeline: commands joined by `|`, each given the result before it as its last argument."""

    def __init__(self, parts: list[Token]) -> None:
        self._parts = list(parts)

    def pipeline(self) -> "Evaluate":
        value = self._command(None)
        while self._parts and self._parts[0].text == "|":
            self._parts.pop(0)
            value = self._command(value)
        if self._parts and self._parts[0].text != ")":
            raise _syntax(f'unexpected "{self._parts[0].text}" in operand')
        return value

    def _command(self, piped: "Evaluate | None") -> "Evaluate":
        operands: list[Evaluate] = []
        function = ""
        while self._parts and self._parts[0].text not in ("|", ")"):
            token = self._parts.pop(0)
            if (
                token.kind == "name"
                and token.text not in ("true", "false", "nil")
                and not operands
                and not function
            ):
                function = token.text
                if function not in FUNCTIONS:
                    raise _syntax(f'function "{function}" not defined')
                continue
            operands.append(self._operand(token))
        if piped is not None:
            operands.append(piped)
        if function:
            return lambda scope: FUNCTIONS[function](*[operand(scope) for operand in operands])
        if not operands:
            raise _syntax("missing value for command")
        head, rest = operands[0], operands[1:]
        if not rest:
            return head
        return lambda scope: _call(head(scope), [operand(scope) for operand in rest])

    def _operand(self, token: Token) -> "Evaluate":
        if token.kind == "field":
            return lambda scope: _fields(scope.dot, token.text)
        if token.kind == "variable":
            name, dot, path = token.text.partition(".")
            return lambda scope: _fields(scope.variables[name], dot + path)
        if token.kind in ("string", "number"):
            return lambda scope: token.value
        if token.text == "(":
            value = self.pipeline()
            if not self._parts:
                raise _syntax("unclosed left paren")
            self._parts.pop(0)
            return value
        if token.text in ("true", "false", "nil"):
            return lambda scope: {"true": True, "false": False, "nil": None}[token.text]
        raise _syntax(f'function "{token.text}" not defined')


def _call(function: object, arguments: list[object]) -> object:
    if not callable(function):
        raise ValueError(":1: can't give argument to non-function")
    return function(*arguments)


def _fields(value: object, path: str) -> object:
    """Follow `.A.B`; `.` alone is the value itself."""
    from cutaway.cli.table import Row

    for name in path.split(".")[1:]:
        if not name:
            continue
        where = f':1:2: executing "" at <{path}>:'
        if isinstance(value, Row):
            try:
                value = value.field(name)
            except KeyError:
                raise LookupError(f"{where} can't evaluate field {name} in type *formatter.Context") from None
        elif isinstance(value, dict):
            if name not in value:
                raise LookupError(f'{where} map has no entry for key "{name}"')
            value = value[name]
        elif value is None:
            raise LookupError(f"{where} nil pointer evaluating interface {{}}.{name}")
        else:
            raise LookupError(f"{where} can't evaluate field {name} in type {type(value).__name__}")
    return value


def _syntax(text: str) -> InvalidArgument:
    return InvalidArgument(f"template parsing error: template: :1: {text}")
