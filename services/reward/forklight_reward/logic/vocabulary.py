"""Words that puzzles are made of, and the reading of answers that are words."""

from __future__ import annotations

import random

from forklight_reward.logic.reading import plain

WORDS = [
    "amber",
    "anchor",
    "apple",
    "arrow",
    "autumn",
    "badge",
    "basket",
    "beacon",
    "bishop",
    "blanket",
    "border",
    "bottle",
    "branch",
    "bridge",
    "bronze",
    "bucket",
    "butter",
    "button",
    "cabin",
    "candle",
    "canvas",
    "carbon",
    "castle",
    "cedar",
    "chalk",
    "cherry",
    "circle",
    "clover",
    "copper",
    "coral",
    "cotton",
    "cradle",
    "crystal",
    "curtain",
    "dagger",
    "desert",
    "diamond",
    "dolphin",
    "dragon",
    "eagle",
    "ember",
    "engine",
    "fabric",
    "falcon",
    "feather",
    "fiddle",
    "forest",
    "fossil",
    "fountain",
    "galaxy",
    "garden",
    "ginger",
    "glacier",
    "golden",
    "granite",
    "guitar",
    "hammer",
    "harbor",
    "hazel",
    "helmet",
    "hollow",
    "honey",
    "hunter",
    "island",
    "ivory",
    "jacket",
    "jasmine",
    "jigsaw",
    "jungle",
    "kettle",
    "kitten",
    "ladder",
    "lantern",
    "lemon",
    "linen",
    "lizard",
    "magnet",
    "maple",
    "marble",
    "meadow",
    "mirror",
    "monkey",
    "mosaic",
    "needle",
    "nickel",
    "oasis",
    "orange",
    "orchid",
    "oxygen",
    "oyster",
    "paddle",
    "panther",
    "parcel",
    "pebble",
    "pepper",
    "pillow",
    "planet",
    "pocket",
    "pony",
    "prism",
    "puzzle",
    "quartz",
    "quiver",
    "rabbit",
    "raven",
    "ribbon",
    "river",
    "rocket",
    "saddle",
    "salmon",
    "sapphire",
    "scarf",
    "shadow",
    "silver",
    "sketch",
    "spider",
    "squid",
    "stable",
    "summer",
    "sunset",
    "temple",
    "thunder",
    "ticket",
    "tiger",
    "timber",
    "topaz",
    "tunnel",
    "turtle",
    "unicorn",
    "valley",
    "velvet",
    "violin",
    "voyage",
    "walnut",
    "whale",
    "window",
    "winter",
    "wizard",
    "wolf",
    "yellow",
    "zephyr",
    "zigzag",
    "zodiac",
]

PEOPLE = (
    "Ada", "Bruno", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Iris", "Jonas", "Karin", "Leo",
    "Mona", "Nils", "Olga", "Paul", "Quinn", "Rosa", "Simon", "Tara",
)  # fmt: skip

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def draw_words(chance: random.Random, count: int) -> list[str]:
    """Different words, in no order."""
    return chance.sample(WORDS, count)


def squeeze(answer: str) -> str:
    """Without the white space at both ends, one space for what is inside; empty for what is no answer."""
    return " ".join((plain(answer) or "").split())


def pack(answer: str) -> str:
    """Without any white space; empty for what is no answer."""
    return "".join((plain(answer) or "").split())


def split_commas(answer: str) -> list[str]:
    """The parts between commas, without white space around them."""
    return [part.strip() for part in (plain(answer) or "").split(",")]


def number_of(text: str, *, most_digits: int = 9) -> int | None:
    """A plain whole number without sign or leading zeros; None for anything else."""
    if not 0 < len(text) <= most_digits or any(sign not in "0123456789" for sign in text):
        return None
    return None if len(text) > 1 and text[0] == "0" else int(text)
