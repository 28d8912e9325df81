"""Random English sentences, rich in sounds with visible lip movement."""

import random
from collections.abc import Callable, Sequence


def _phrases(text: str) -> tuple[str, ...]:
    """Split a text at its bars; line breaks count as spaces."""
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


_PEOPLE = _phrases(
    """
    the teacher | my brother | a young woman | the old farmer | our neighbour | Bob | Mary | the pilot |
    every child | George | the manager | a famous painter | Sophie | the quiet boy | Paul and Vera | the
    chef | Philip | the bus driver | Margaret | someone | my grandmother | the whole team | both twins |
    Oliver | a woman from Bombay | the mayor | Thomas | few people | the violinist | Emma | a passing
    cyclist | the vet | Joshua | most visitors | the author | Beth | our cousin Fiona | two firemen | the
    shopkeeper | Ivy | a stubborn mule | the puppy | Viv | the professor | everybody | Amber | Hugh | the
    judge
    """
)
_DEEDS = _phrases(
    """
    bought | found | moved | watched | brought | shaped | painted | promised | wrapped | remembered | fixed
    | pushed | measured | chose | opened | borrowed | finished | served | would love | forgot about | asked
    for | shook | threw | drew | pulled | described | will probably sell | has never owned | wanted |
    polished | dropped | photographed | kept | hid | may need | carried | complained about | improved | gave
    away | picked | swapped | built | copied | admired | saved up for | put back | swept
    """
)
_QUALITIES = _phrases(
    """
    big | beautiful | purple | heavy | wooden | small | cheap | warm | foggy | yellow | smooth | thick |
    fresh | broken | huge | perfect | awful | rough | wide | famous | shiny | blue | pretty | empty | golden
    | wet | bumpy | woven | velvet | fluffy | brown | weird | mouldy | whole | oval | wobbly | useful |
    peculiar | bright | narrow | curious | simple | vivid | frozen | muddy | superb | tough | cheerful
    """
)
_THINGS = _phrases(
    """
    umbrella | chair | bridge | apple pie | photograph | bottle of water | phone | violin | map | piece of
    cheese | paper boat | jacket | window | garden | leather shoe | book about fish | pair of gloves |
    telephone | spoon | elephant | house | bowl of mushroom soup | ship | wolf | coffee machine | jewel |
    thumb | feather | pumpkin | vase | sofa | robot | wheelbarrow | beehive | pillow | jam jar | wooden box
    | camera | fiddle | treasure chest | ribbon | lamp | drum | oven | moth | fountain | puzzle | bathtub |
    wardrobe | cup of tea | penguin | mirror | rope bridge | volcano | thimble | watermelon | football |
    necklace
    """
)
_CIRCUMSTANCES = _phrases(
    """
    in the morning | over the bridge | at the market | near the beach | before the meeting | with both hands
    | after five o'clock | under the roof | for the whole family | by the river | on Thursday | because of
    the weather | without any help | from the old shop | two weeks ago | very slowly | in the kitchen |
    through the window | just for fun | beyond the woods | during the film | as far as I remember | above
    the fireplace | every February | behind the barn | in the middle of the room | between breakfast and
    lunch | while everyone slept | of all places | at half past four | in a very good mood | on the way home
    | for no obvious reason | up the path
    """
)
_CLAUSES = _phrases(
    """
    it began to rain | nobody moved | the bus was full | we opened the window | both of us laughed | the fog
    rolled in | the power went off | I already knew the answer | the milk had boiled over | the music
    stopped | time was short | five more people arrived | the dog barked | everyone wanted some | that was
    not the problem | she never told us | the phone rang twice | we had to wait outside | the wheel came off
    | spring was on its way | he hummed a tune
    """
)
_PLACES = _phrases(
    """
    Bombay | Vermont | Paris | Moscow | Toowoomba | Philadelphia | Rome | Havana | Melbourne | Iowa |
    Glasgow | Wimbledon | Beirut | Lima | Budapest | Fairview | Memphis | Oxford | Peru | Zimbabwe | Geneva
    | Baltimore | Woodville | Plymouth | Tokyo
    """
)
_NUMBERS = _phrases(
    """
    two | three | four | five | seven | eleven | twelve | fourteen | fifteen | seventeen | twenty one |
    thirty five | forty eight | fifty | sixty six | ninety nine | one hundred and three | two hundred and
    fifty | a thousand and one | five thousand four hundred
    """
)
_UNITS = _phrases(
    """
    minutes | meters | pounds | pages | people | weeks | pieces | bottles | miles | books | steps | years |
    votes | maps
    """
)
_REMARKS = _phrases(
    """
    How are you doing today? | We all love the warm weather, you know! | Please move over. | No, maybe not.
    | I think that was a pretty good idea. | What would you do about it? | Thank you very much for joining
    us. | Five or six people were waving. | You should choose a blue one. | Oh, wow, that is huge! | Who
    knew? | Bob blew big bubbles. | She sells sea shells by the shore. | Let us measure it twice. | Why
    would you say so? | Papa made a pot of soup. | My mother vividly remembers that moment. | Go home and
    put your boots on. | Few of the voices were familiar. | That is why we moved away. | Where are all of
    the oranges? | Hmm, fine by me. | Good food takes time. | Come back before the film begins. | Both of
    them were wrong. | Wait, what? | Absolutely! | Mm, maybe tomorrow. | Oops, my mistake. | Wonderful,
    wonderful! | Yes. | No. | Okay. | Well, well, well. | Oh boy. | Hello, and welcome back. | Good morning,
    everyone. | See you on Wednesday. | Ah, there you are. | Really? Why? | Whose shoes are those? | Could
    you move the thumb a bit? | Peter, put the pepper up above the oven. | Bravo! | A wet wool wrap will not
    warm you. | Every evening, Eve weaves vivid velvet. | Move both feet, then breathe. | Mama, may my mouse
    move in? | Pure butter makes better biscuits. | The thief thanked them both for the bath. | Few views
    beat a view of five waves. | Would you wash the wide white wall? | Choose a cheaper watch, George. | The
    bees buzz above the beehive. | Put a bit of plum jam on a bun. | Oh no, we owe you a whole row of roses.
    | Blue moons are few. | Who moved the broom into my room? | The mob jumped up and mumbled. | Be my
    partner. | Fifty fathers forgave their families. | Now brown cows roam about the town. | Leave the vase
    above the stove. | The azure leisure suit was a rare pleasure. | Usually, vision fades with age. | The
    usher chose a choir. | Thirty three thin things. | Hang the long string along the ceiling. | A young
    king sang a song. | Ready? | My voice should match my mouth. | Pip, pop, pup. | Mum, bob, pipe. | Papa,
    baby, maybe, puppy. | Wow! | Phew.
    """
)


class SentenceGenerator:
    """Draws random sentences without end, deterministically."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._patterns: Sequence[tuple[float, Callable[[], str]]] = (
            (0.18, self._remark),
            (0.22, self._statement),
            (0.12, self._circumstance_first),
            (0.12, self._contrast),
            (0.12, self._question),
            (0.08, self._list),
            (0.08, self._number),
            (0.08, self._report),
        )

    def draw(self) -> str:
        """Return one sentence with punctuation."""
        weights = [weight for weight, _ in self._patterns]
        makers = [maker for _, maker in self._patterns]
        sentence = self._random.choices(makers, weights)[0]()
        return sentence[0].upper() + sentence[1:]

    def _pick(self, words: Sequence[str]) -> str:
        return self._random.choice(words)

    def _thing(self) -> str:
        quality = self._pick(_QUALITIES) + " " if self._random.random() < 0.7 else ""
        noun = self._pick(("the", "this", "every", "my", "your", "that", "one", "some other"))
        if self._random.random() < 0.4:
            first = (quality or self._pick(_QUALITIES) + " ")[0]
            noun = "an" if first in "aeiou" else "a"
            quality = quality or self._quality_with(first)
        return f"{noun} {quality}{self._pick(_THINGS)}"

    def _quality_with(self, first: str) -> str:
        return self._pick([quality for quality in _QUALITIES if quality[0] == first]) + " "

    def _remark(self) -> str:
        return self._pick(_REMARKS)

    def _statement(self) -> str:
        where = " " + self._pick(_CIRCUMSTANCES) if self._random.random() < 0.7 else ""
        return f"{self._pick(_PEOPLE)} {self._pick(_DEEDS)} {self._thing()}{where}{self._pick('...!')}"

    def _circumstance_first(self) -> str:
        return f"{self._pick(_CIRCUMSTANCES)}, {self._pick(_PEOPLE)} {self._pick(_DEEDS)} {self._thing()}."

    def _contrast(self) -> str:
        joint = self._pick((", but ", ", and then ", ", so ", ", even though ", " because ", " when "))
        return f"{self._pick(_PEOPLE)} {self._pick(_DEEDS)} {self._thing()}{joint}{self._pick(_CLAUSES)}."

    def _question(self) -> str:
        start = self._pick(
            (
                "did you see", "have you ever heard about", "who wants", "would you mind if I moved",
                "where did we put", "why on earth do you need", "how much is", "could I possibly borrow",
                "is it true that we lost", "which of you forgot", "what happened to", "may I show you",
            )
        )  # fmt: skip
        end = " " + self._pick(_CIRCUMSTANCES) if self._random.random() < 0.4 else ""
        return f"{start} {self._thing()}{end}?"

    def _list(self) -> str:
        start = self._pick(("we need", "I would like", "please bring", "do not forget", "they offered us"))
        things = ", ".join(self._thing() for _ in range(self._random.randint(2, 3)))
        return f"{start} {things}, and {self._thing()}."

    def _number(self) -> str:
        amount = f"{self._pick(_NUMBERS)} {self._pick(_UNITS)}"
        return self._pick(
            (
                f"it is about {amount} from {self._pick(_PLACES)} to {self._pick(_PLACES)}.",
                f"{self._pick(_PEOPLE)} counted {amount}, but {self._pick(_CLAUSES)}.",
                f"chapter {self._pick(_NUMBERS)} begins {self._pick(_CIRCUMSTANCES)}.",
                f"after {amount}, {self._pick(_CLAUSES)}.",
                f"{self._pick(_NUMBERS)}, {self._pick(_NUMBERS)}, {self._pick(_NUMBERS)}, go!",
            )
        )

    def _report(self) -> str:
        start = self._pick(
            (
                "they say that", "I believe", "as you may know,", "to be perfectly honest,", "I suppose",
                "what I mean is,", "well, you see,", "from what I gather,", "believe it or not,",
                "of course,",
            )
        )  # fmt: skip
        return f"{start} {self._pick(_PEOPLE)} moved to {self._pick(_PLACES)} {self._pick(_CIRCUMSTANCES)}."
