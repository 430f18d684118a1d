"""The conversation between the runtime and the container's process."""

from __future__ import annotations

import pytest

from cutaway.errors import NotFound
from cutaway.runc.process import channel


def test_an_error_is_heard_from_one_that_has_ended_and_read_nothing() -> None:
    """The kernel tells of what was left unread before it hands out what was said (unix(7), ECONNRESET)."""
    ours, theirs = channel.pair()
    ours.say("resume")
    theirs.say("ready")
    theirs.say_error(NotFound("exec: no such file"), "after")
    theirs.close()
    ours.hear("ready")
    told = channel.error_of(ours.hear("done"))
    assert isinstance(told, NotFound)
    assert str(told) == "exec: no such file"
    with pytest.raises(channel.Gone):
        ours.hear("done")
    ours.close()


def test_one_that_has_ended_without_a_word_is_gone() -> None:
    ours, theirs = channel.pair()
    ours.say("go")
    theirs.close()
    with pytest.raises(channel.Gone):
        ours.hear("mounted")
    with pytest.raises(channel.Gone):
        ours.say("resume")
    ours.close()
