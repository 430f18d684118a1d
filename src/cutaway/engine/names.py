"""Names for containers that were given none: an adjective and the surname of someone who made computing."""

from __future__ import annotations

import random
import secrets
from typing import Final

_ADJECTIVES: Final = """
able agile alert ample amused ancient ardent astute awake balanced bold brave brisk bright calm
candid careful cheerful clear clever cosy curious daring deft eager earnest easy elegant fair
fearless fluent fond frank gentle glad graceful happy hardy hasty helpful honest hopeful humble
jolly keen kind lively lucid lucky mellow merry mild modest neat nimble noble open patient placid
plucky polite proud quick quiet ready robust serene sharp shrewd silent sincere skilful sleepy
smooth sober solid spry steady sturdy subtle sunny swift tactful tender thrifty tidy tough vivid
warm wise witty zesty
"""
_SURNAMES: Final = """
abelson aho allen backus baran bartik berners boole borg brooks cerf church codd conway corbato cox
dahl davies deutsch diffie dijkstra engelbart ershov estrin floyd goldberg gosling hamilton hamming
hellman hoare holberton hopper huffman ichbiah ingalls iverson jacobson johnson joy kahan kahn karp
kay keller kernighan kildall kleene knuth kurtz lamport lampson landin leibniz lerdorf liskov
lovelace mauchly mccarthy mcilroy meltzer merkle milner minsky moore naur newell noether nygaard
ousterhout papert perlis perlman pike postel rabin ritchie rivest roberts russell sammet scott
shannon simon spolsky stallman steele stroustrup sussman sutherland tanenbaum tarjan thompson
torvalds turing ullman wall wheeler wilkes wilkinson wirth yao zuse
"""
ADJECTIVES: Final = tuple(_ADJECTIVES.split())
SURNAMES: Final = tuple(_SURNAMES.split())

# For a name only: which one comes up need not be secret, but two daemons must not count alike.
_random: Final = random.Random(secrets.randbits(64))


def generate(attempt: int = 0) -> str:
    """`adjective_surname`; with a digit after it from the second attempt on."""
    name = f"{_random.choice(ADJECTIVES)}_{_random.choice(SURNAMES)}"
    return f"{name}{_random.randrange(10)}" if attempt else name
