"""When garbage is collected without being asked for: containerd's rules, as a calculation without a clock.

A deletion makes a collection worth while, and so do many changes. It comes at once if none is planned,
else when the planned one is due; after each one the next is planned so far away that collecting takes no
more than a share of the time. A plan that comes due and has nothing to do is put off by the same interval.

Source: containerd, docs/garbage-collection.md and the comments of its scheduler's configuration.
Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

# A collection counts as at least this long, so that quick ones do not follow each other without a pause.
SHORTEST = 0.005
LARGEST_SHARE = 0.5
FIRST_INTERVAL = 1.0


@dataclass(frozen=True)
class GcSettings:
    """The table `[plugins."io.containerd.gc.v1.scheduler"]` of containerd's configuration."""

    pause_threshold: float = 0.02
    """The share of time that collecting may take, at most 0.5."""
    deletion_threshold: int = 0
    """So many deletions do not wait for the plan; 0: none does."""
    mutation_threshold: int = 100
    """So many changes are worth a collection; 0: only deletions are."""
    schedule_delay: float = 0.0
    """Seconds from what causes a collection to the collection."""
    startup_delay: float = 0.1
    """Seconds from the start to the first one; 0: there is no first one."""


class GcSchedule:
    """What has happened since the last collection, and when the next is planned."""

    def __init__(self, settings: GcSettings, now: float) -> None:
        self._settings = settings
        self._collected_before = False
        self._mutations = 0
        self._deletions = 0
        self._interval = FIRST_INTERVAL
        self._spent = 0.0
        self._collections = 0
        self.planned: float | None = now + settings.startup_delay if settings.startup_delay > 0 else None
        """When to ask `due`; None: when something has changed."""

    def mutated(self, now: float) -> None:
        """A transaction has changed something."""
        self._mutations += 1
        self._plan(now)

    def deleted(self, now: float) -> None:
        """Something has gone that may have kept other things alive."""
        self._deletions += 1
        self._plan(now)

    def due(self, now: float) -> bool:
        """Whether to collect now; when the plan's time has come for nothing it is put off."""
        if self.planned is None or now < self.planned:
            return False
        if self._collected_before and not self._deletions and not self._many_mutations:
            self.planned = now + self._interval
            return False
        return True

    def began(self) -> None:
        """A collection is about to look at all there is; what comes from here on is for the next one."""
        self._mutations = self._deletions = 0

    def collected(self, now: float, took: float) -> None:
        """A collection has ended well, whoever asked for it."""
        self._spent += took
        self._collections += 1
        share = min(self._settings.pause_threshold, LARGEST_SHARE)
        if share > 0:
            average = max(self._spent / self._collections, SHORTEST)
            self._interval = average / share - average
        self._collected_before = True
        self.planned = now + self._interval

    def failed(self, now: float) -> None:
        """A collection has failed; what it was for is still there."""
        self._deletions += 1
        self._collected_before = True
        self.planned = now + self._interval + 1.0

    @property
    def _many_mutations(self) -> bool:
        return 0 < self._settings.mutation_threshold <= self._mutations

    def _plan(self, now: float) -> None:
        limit = self._settings.deletion_threshold
        at_once = 0 < limit <= self._deletions
        if self.planned is None:
            at_once = at_once or self._many_mutations or (limit == 0 and self._deletions > 0)
        soon = now + self._settings.schedule_delay
        if at_once and (self.planned is None or self.planned > soon):
            self.planned = soon
