"""The command line of the OCI runtime: global options, then a command, as runc takes them.

`main` is also entered in forks of a warm process, so it leaves nothing behind: no open log, no exit of its
own, and the trace handed on before it returns.
"""

import os
import sys

from cutaway.errors import CutawayError
from cutaway.runc import failures, options
from cutaway.runc.commands import COMMANDS, GLOBAL
from cutaway.runc.context import Context
from cutaway.runc.logs import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.options import Parsed
    from cutaway.trace.otlp import Buffer
    from cutaway.trace.spans import Span

DEFAULT_ROOT = "/run/cutaway-runc"
_NO_SUCH_COMMAND = 3
_MAKING = ("create", "run", "exec")  # the commands that make a process of a container


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` (without the program's name) says; its exit code."""
    words = sys.argv[1:] if argv is None else argv
    _open_standard()
    log = Log()
    try:
        return _main(words, log, cold=argv is None)
    finally:
        log.close()


def _open_standard() -> None:
    """Without a descriptor 0, 1 or 2 the next one made would be taken for it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _main(words: "list[str]", log: Log, *, cold: bool) -> int:
    try:
        parsed = options.parse(GLOBAL, words, stop_at_argument=True)
    except options.UsageError as error:
        from cutaway.runc import usage

        _print(f"Incorrect Usage. {error}\n\n{usage.general()}")
        log.error(str(error))
        return 1
    try:
        log.configure(parsed.text("log"), parsed.text("log-format", "text"), parsed.flag("debug"))
    except CutawayError as error:
        log.error(str(error))
        return 1
    if parsed.flag("version"):
        from cutaway.runc import version

        return _print(version.text())
    if parsed.flag("help") or not parsed.arguments:
        from cutaway.runc import usage

        return _print(usage.general())
    try:
        context = _context(parsed, words, log)
    except CutawayError as error:
        log.error(str(error))
        return 1
    if cold and parsed.arguments[0] in _MAKING:
        from cutaway.runc.restart import Restart

        context.restart = Restart(log)
    return _command(context, parsed.arguments[0], parsed.arguments[1:])


def expect(argv: "list[str]") -> bool:
    """Do what can be done of this call before it is made; whether that was anything.

    For a process that will be told to make it, and no other. What fails, fails in the call again.
    """
    from cutaway.runc import ahead

    try:
        parsed = options.parse(GLOBAL, argv, stop_at_argument=True)
        name, *words = parsed.arguments
        draw = {"create": ahead.draw, "exec": ahead.draw_exec}[name]
        command = COMMANDS[name]
        arguments = options.parse(command.options, words, stop_at_argument=command.stop_at_argument)
        draw(_context(parsed, argv, ahead.Silent()), arguments)
    except Exception:  # noqa: BLE001 - nobody is there yet to be told, and the call will say it
        return False
    return True


def _context(parsed: "Parsed", words: "list[str]", log: Log) -> Context:
    """Raises `FailedPrecondition`."""
    return Context(
        _root(parsed),
        log,
        systemd_cgroup=parsed.flag("systemd-cgroup"),
        rootless=parsed.text("rootless"),
        debug=parsed.flag("debug"),
        criu=parsed.text("criu"),
        words=words,
    )


def _root(parsed: "Parsed") -> str:
    """The directory of the containers' state. Raises `FailedPrecondition`."""
    if parsed.text("root"):
        return os.path.abspath(parsed.text("root"))
    if not os.environ.get("XDG_RUNTIME_DIR"):
        return DEFAULT_ROOT
    from cutaway.runc import rootless

    root = rootless.default_root(DEFAULT_ROOT, "cutaway-runc")
    rootless.make_default_root(root)
    return root


def _print(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _command(context: Context, name: str, words: list[str]) -> int:
    if name in ("help", "h"):
        return _help(context, words)
    command = COMMANDS.get(name)
    if command is None:
        context.log.error(f"No help topic for '{name}'\n")
        return _NO_SUCH_COMMAND
    try:
        parsed = options.parse(command.options, words, stop_at_argument=command.stop_at_argument)
        if parsed.flag("help"):
            return _help(context, [name])
        _check_count(name, len(parsed.arguments), command.at_least, command.at_most)
    except options.UsageError as error:
        from cutaway.runc import usage

        text = str(error)
        _print(f"Incorrect Usage{'.' if 'requires' in text else f': {text}'}\n\n{usage.of_command(name)}")
        context.log.error(text)
        return 1
    return _traced(context, name, parsed)


def _help(context: Context, words: list[str]) -> int:
    from cutaway.runc import usage

    if not words:
        return _print(usage.general())
    if words[0] not in COMMANDS:
        context.log.error(f"No help topic for '{words[0]}'\n")
        return _NO_SUCH_COMMAND
    return _print(usage.of_command(words[0]))


def _check_count(name: str, count: int, at_least: int, at_most: int) -> None:
    if at_least == at_most and count != at_least:
        raise options.UsageError(f'{sys.argv[0]}: "{name}" requires exactly {at_least} argument(s)')
    if count < at_least:
        raise options.UsageError(f'{sys.argv[0]}: "{name}" requires a minimum of {at_least} argument(s)')
    if count > at_most:
        raise options.UsageError(f'{sys.argv[0]}: "{name}" requires a maximum of {at_most} argument(s)')


def _traced(context: Context, name: str, parsed: "Parsed") -> int:
    """Run a command, inside a span when a collector is named in the environment."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return _run(context, name, parsed)
    from cutaway.trace import context as trace_context
    from cutaway.trace import otlp, spans

    buffer: Buffer | None = otlp.configure_short("cutaway-runc")
    context.tracing = spans.enabled()
    parent = trace_context.from_environment(os.environ)
    values = {"root": context.root}
    if parsed.arguments:
        values["id"] = parsed.arguments[0]
    if name in ("create", "run"):
        values["bundle"] = os.path.abspath(parsed.text("bundle") or ".")
    with spans.span(f"runc {name}", parent=parent, kind=spans.SERVER, **values) as span:
        if current := spans.current():
            os.environ[trace_context.ENVIRONMENT] = current.traceparent  # hooks are our children
        code = _run(context, name, parsed, span)
        span.set(exit_code=code)
    if buffer is not None and (reason := buffer.flush()):
        context.log.debug(f"trace not delivered: {reason}")
    return code


def _run(context: Context, name: str, parsed: "Parsed", span: "Span | None" = None) -> int:
    import importlib

    module = importlib.import_module(f"cutaway.runc.commands.{name}")
    try:
        code: int = module.run(context, parsed)
    except Exception as error:  # noqa: BLE001 - the one place where a failure becomes an exit code
        failure = failures.of(name, error)
        if span is not None:
            span.error = failure.message
        if context.debug and failure.unexpected:
            import traceback

            context.log.debug("".join(traceback.format_exception(error)))
        context.log.error(failure.message)
        return failure.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
