"""`commit`."""

from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.registry import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.flags import Values


def run_commit(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`commit CONTAINER [REPOSITORY[:TAG]]`: prints the new image's ID."""
    container, *names = arguments
    query = [("author", values.text("author")), ("comment", values.text("message")), ("container", container)]
    if names:
        named = reference.parse(names[0])
        query += [("repo", named.familiar_name), ("tag", named.tag)]
    query += [("changes", change) for change in values.texts("change")]
    if not values.on("pause"):
        query.append(("pause", "0"))
    made = invocation.client.call("POST", "/commit", query, {})
    print(made["Id"])
    return 0


COMMIT = Command(
    run_commit,
    "Create a new image from a container's changes",
    "CONTAINER [REPOSITORY[:TAG]]",
    least=1,
    most=2,
    flags=(
        Flag("author", "a", "string", 'Who made it, e.g. "Ann Example <ann@example.org>"'),
        Flag("change", "c", "list", "Apply a Dockerfile instruction to the image"),
        Flag("message", "m", "string", "Comment of the image"),
        Flag("pause", "p", "bool", "Pause the container meanwhile", "true"),
    ),
)
