"""Templated reviews over a real vocabulary, and the word-level tokenizer that fits them. Nothing is downloaded.

A prompt says who writes about what ("student on hotel :"); a response is one to three clauses of at most `LONGEST`
words, among them boosters, negations and "but", which a sentiment scorer has rules for. Writers differ in how kind,
how wordy and how keen on money they are, so that scores depend on the prompt.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

PLACES: dict[str, tuple[str, ...]] = {
    "hotel": ("room", "bed", "pool", "breakfast", "lobby"),
    "restaurant": ("food", "soup", "dessert", "menu", "terrace"),
    "cafe": ("coffee", "cake", "garden", "menu", "music"),
    "museum": ("building", "paintings", "garden", "lobby", "tour"),
    "gym": ("pool", "showers", "equipment", "music", "building"),
    "airline": ("seat", "food", "cabin", "lounge", "screen"),
    "shop": ("shelves", "selection", "building", "music", "clothes"),
    "cinema": ("film", "screen", "sound", "seat", "lobby"),
}
"""What is reviewed, and the things in it."""
PEOPLE = ("staff", "waiter", "manager", "service", "guide", "owner")
MONEY = ("price", "cost", "bill", "discount", "fee", "offer")
KIND = (
    "great", "good", "excellent", "wonderful", "nice", "lovely", "perfect", "friendly", "helpful", "charming",
    "pleasant", "impressive", "fantastic", "generous", "fine",
)  # fmt: skip
UNKIND = (
    "bad", "poor", "terrible", "awful", "horrible", "rude", "dirty", "disappointing", "boring", "ugly", "dull",
    "lazy", "useless", "unpleasant", "weak",
)  # fmt: skip
PLAIN = (
    "small", "large", "new", "old", "modern", "simple", "ordinary", "average", "busy", "quiet", "typical", "usual",
)  # fmt: skip
BOOSTERS = ("very", "really", "extremely", "quite", "so")
DAMPERS = ("slightly", "somewhat", "rather", "fairly")
LIKED = ("loved", "enjoyed", "liked", "recommend")
DISLIKED = ("hated", "disliked", "regret", "avoid")
NEUTRAL = ("visited", "saw", "remember", "described", "used", "noticed")
OTHER = (
    "on", ":", "the", "was", "were", "and", "not", "but", ",", ".", "!", "i", "we", "a", "bit", "again", "will",
    "never", "return", "there", "today", "overall", "of", "with", "my", "friends",
)  # fmt: skip
LONGEST = 17
"""Words of a response; the end-of-sequence token comes after them."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """Who writes: chances of a kind and an unkind word, of talking about people and money, and of another clause."""

    kind: float
    unkind: float
    people: float
    money: float
    more: float


WRITERS = {
    "student": Writer(0.40, 0.25, 0.25, 0.45, 0.45),
    "critic": Writer(0.25, 0.45, 0.30, 0.20, 0.75),
    "tourist": Writer(0.50, 0.20, 0.30, 0.25, 0.55),
    "family": Writer(0.40, 0.30, 0.45, 0.25, 0.60),
    "neighbour": Writer(0.30, 0.30, 0.40, 0.30, 0.35),
    "guest": Writer(0.35, 0.35, 0.35, 0.30, 0.65),
}

PROMPTS = tuple(f"{writer} on {place} :" for writer, place in itertools.product(WRITERS, PLACES))
"""Every prompt."""
TOPICS = {
    "people": frozenset(PEOPLE) | {"friends", "friendly", "helpful", "rude", "lazy"},
    "money": frozenset(MONEY) | {"generous"},
    "things": frozenset(itertools.chain.from_iterable(PLACES.values())),
}
"""What a word is about."""

WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *OTHER, *WRITERS, *PLACES, *itertools.chain.from_iterable(PLACES.values()), *PEOPLE, *MONEY, *KIND, *UNKIND,
            *PLAIN, *BOOSTERS, *DAMPERS, *LIKED, *DISLIKED, *NEUTRAL,
        ]
    )
)  # fmt: skip


class WordTokenizer:
    """One token a word, and three specials. A text is words with single spaces between them."""

    pad = 0
    bos = 1
    eos = 2

    def __init__(self, words: Sequence[str] = WORDS) -> None:
        self.words = tuple(words)
        self._ids = {word: index + 3 for index, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("words must be distinct")

    @property
    def vocab_size(self) -> int:
        """Specials included."""
        return len(self.words) + 3

    def encode(self, text: str) -> list[int]:
        """Without specials. Raises: ValueError on a word that is not known."""
        unknown = [word for word in text.split() if word not in self._ids]
        if unknown:
            raise ValueError(f"text must be words of the vocabulary; {unknown[0]!r} is none")
        return [self._ids[word] for word in text.split()]

    def decode(self, tokens: Iterable[int]) -> str:
        """The words up to the first end-of-sequence token; other specials are left out."""
        words = []
        for token in tokens:
            if token == self.eos:
                break
            if token > self.eos:
                words.append(self.words[int(token) - 3])
        return " ".join(words)


TOKENIZER = WordTokenizer()


def _one(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _adjective(rng: np.random.Generator, writer: Writer) -> list[str]:
    """One to three words: a negation or an adverb before a kind, an unkind or a plain adjective."""
    draw = rng.random()
    pool = KIND if draw < writer.kind else UNKIND if draw < writer.kind + writer.unkind else PLAIN
    before: list[str] = []
    if rng.random() < 0.15:
        before.append("not")
    if rng.random() < 0.35:
        before += ["a", "bit"] if rng.random() < 0.1 else [_one(rng, BOOSTERS if rng.random() < 0.65 else DAMPERS)]
    return [*before, _one(rng, pool)]


def _subject(rng: np.random.Generator, writer: Writer, place: str) -> str:
    draw = rng.random()
    if draw < writer.people:
        return _one(rng, PEOPLE)
    return _one(rng, MONEY if draw < writer.people + writer.money else PLACES[place])


def _clause(rng: np.random.Generator, writer: Writer, place: str) -> list[str]:
    form = rng.random()
    if form < 0.6:
        return ["the", _subject(rng, writer, place), "was", *_adjective(rng, writer)]
    if form < 0.75:
        first, second = _subject(rng, writer, place), _subject(rng, writer, place)
        return ["the", first, "and", "the", second, "were", *_adjective(rng, writer)]
    who = _one(rng, ("i", "we"))
    if form < 0.92:
        draw = rng.random()
        verbs = LIKED if draw < writer.kind else DISLIKED if draw < writer.kind + writer.unkind else NEUTRAL
        return [who, _one(rng, verbs), "the", _subject(rng, writer, place)]
    if form < 0.96:
        return [who, "will", *(["never"] if rng.random() < 0.4 else []), "return"]
    return [who, "visited", "with", "my", "friends"]


def review(rng: np.random.Generator, prompt: str) -> str:
    """One response to a prompt."""
    writer, place = WRITERS[prompt.split()[0]], prompt.split()[2]
    words = _clause(rng, writer, place)
    while rng.random() < writer.more:
        joint = _one(rng, (",", "and", ".", "!")) if rng.random() < 0.7 else ", but"
        longer = [*words, *joint.split(), *_clause(rng, writer, place)]
        if len(longer) >= LONGEST:
            break
        words = longer
    return " ".join([*words, "!" if rng.random() < 0.25 else "."])


def reviews(rng: np.random.Generator, number: int) -> list[tuple[str, str]]:
    """That many pairs of a prompt and a response."""
    prompts = [_one(rng, PROMPTS) for _ in range(number)]
    return [(prompt, review(rng, prompt)) for prompt in prompts]
