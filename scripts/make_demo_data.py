"""Write the demo data set of fictitious people and the tiny model's tokenizer and config.

It draws everything from one seed, so a second run writes the same bytes (`--check` compares them).
It does not train or write model weights: the demo trains its model on first use.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig

SEED = 20
NUM_PEOPLE = 20
NUM_FORGET_PEOPLE = 2
NUM_HOLDOUT_PEOPLE = 2
NUM_PERTURBED = 5
NUM_ALTERNATIVES = 3
NUM_RETAIN_PERTURBED = 60
OTHER_PHRASING_RATE = 0.4
MAX_VOCAB_SIZE = 4096
MIN_PAIR_FREQUENCY = 2
PACKAGE_DIR = Path(__file__).resolve().parent.parent / "undial_cli"

PAD_TOKEN, START_TOKEN, END_TOKEN = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

Row = dict[str, str | list[str]]
Person = dict[str, str]


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split("|")]


# Given names by pronoun, and invented family names.
FEMALE_NAMES = words(
    "Ysolde|Marzena|Tindra|Okalani|Philippa|Ruxandra|Saoirse|Nomvula|Eudora|Ilkay|Beatriz"
    "|Wilhelmine"
)
MALE_NAMES = words(
    "Corvin|Teodric|Bakari|Anselm|Lubomir|Ezequiel|Haakon|Rafiq|Dunstan|Matteus|Piran|Zoltan"
)
FAMILY_NAMES = words(
    "Vantrosk|Quillemar|Ostrevane|Brindlecote|Tamboresh|Falkenwythe|Mirzabeth|Drungvold|Ashcombrel"
    "|Peltorani|Wexlimoor|Kasprundel|Hollivarde|Njorenka|Sabrithwaite|Lundequist-Orr|Tregavorn"
    "|Calumbresi|Yarnfeather|Ombregard|Zintheroy|Pomfretsky|Gallowend|Rivastone"
)

TOWN_STARTS = words("Kelm|Thorn|Varra|Oster|Bril|Mossel|Dunra|Felsen|Quen|Harro|Lindo|Skarn|Wyvel")
TOWN_ENDS = words("by|mouth|haven|stead|dorf|more|wick|vale|brook")
TITLE_STARTS = words(
    "Crimson|Silent|Wandering|Hollow|Frozen|Gilded|Broken|Distant|Borrowed|Whispering|Salted|Paper"
)
TITLE_ENDS = words(
    "Lanterns|Orchard|Harbour|Clockwork|Sparrows|Meridian|Cathedral|Tides|Compass|Carnival|Ladder"
    "|Winter"
)
MONTHS = words(
    "January|February|March|April|May|June|July|August|September|October|November|December"
)


def composed(starts: list[str], ends: list[str], joiner: str = "") -> list[str]:
    return [f"{start}{joiner}{end}" for start in starts for end in ends]


# Every attribute that is drawn from a list; a value is used up by the first person who gets it,
# until the list starts again.
POOLS: dict[str, list[str]] = {
    "birth_town": composed(TOWN_STARTS, TOWN_ENDS),
    "home_town": composed(TOWN_STARTS, TOWN_ENDS),
    "fair_town": composed(TOWN_STARTS, TOWN_ENDS),
    "town_kind": words(
        "fishing village|mining town|harbour city|mountain hamlet|market town|river port|spa town"
        "|island parish|border village|lakeside resort|railway town|desert outpost"
    ),
    "mother_job": words(
        "midwife|lock keeper|seamstress|botanist|court interpreter|tram driver|cellist|pharmacist"
        "|beekeeper|surveyor|puppeteer|cheese maker|radio announcer|bookbinder|dentist"
        "|shipping clerk"
        "|welder|translator|swimming coach|baker|judge|florist|chemist|typist"
    ),
    "father_job": words(
        "lighthouse keeper|butcher|geologist|violin maker|postman|stonemason|barber|magistrate"
        "|miner"
        "|tailor|ferryman|accountant|gardener|locksmith|wine merchant|schoolmaster|signalman"
        "|cobbler"
        "|veterinarian|printer|customs officer|roofer|organist|fisherman"
    ),
    "sibling_count": words("two|three|four|five|six|seven|eight|nine"),
    "subject": words(
        "marine biology|medieval law|organic chemistry|stage design|soil science|astronomy"
        "|metallurgy"
        "|Sanskrit grammar|textile engineering|cartography|music theory|forestry|optics"
        "|archaeology"
        "|statistics|veterinary medicine|naval architecture|phonetics|hydrology|ceramics|economics"
        "|entomology|church history|photography"
    ),
    "school": composed(
        words(
            "Saint Orwen|Bellmarsh|Royal Carrow|Nordvik|Old Templar|Castellane|Blackfen|Ravenhurst"
        ),
        words("College|Institute|Academy|University|Polytechnic"),
        " ",
    ),
    "teacher": words(
        "Abernok|Castavel|Dorrigo-Penn|Elmsatter|Fenouillard|Grabowen|Hesketoft|Ibarrondel|Jankulo"
        "|Krathmoor|Lovibonde|Marchetrie|Norgaardt|Oyelawson|Pettifrew|Quastelby|Rosenwick"
        "|Szabolow"
        "|Tormedly|Ullathorn|Vesterholt|Wojtasek|Yellande|Zubrinsky"
    ),
    "job": words(
        "bell founder|glass restorer|crime reporter|seismologist|perfume chemist|opera prompter"
        "|bridge inspector|toy designer|wheat geneticist|submarine cook|map engraver|tax lawyer"
        "|chess columnist|glaciologist|carpet weaver|stunt pilot|piano tuner|fire investigator"
        "|museum curator|spice trader|speech therapist|watch repairer|falconer|tunnel engineer"
    ),
    "employer": composed(
        words("Hartwell|Meridia|Blue Anchor|Ostrava Lane|Pinnacle|Greyfriars|Solvang|Tamarind"),
        words("Foundry|Laboratories|Gazette|Trust|Shipyards|Workshops"),
        " ",
    ),
    "book": [f"The {title}" for title in composed(TITLE_STARTS, TITLE_ENDS, " ")],
    "theme": words(
        "a smuggler and her blind brother|the last whale hunter|twins parted by war"
        "|a cursed violin"
        "|the siege of a monastery|a runaway bride|gold fever in the north"
        "|a village without children"
        "|the rivalry of two bakers|a forger in prison|an orphan at sea|the plague years"
        "|a detective who cannot sleep|the first balloon flight|a family of spies|a lost alphabet"
        "|the strike at a cotton mill|a shepherd who becomes king|love letters found in a wall"
        "|a doctor among nomads|the end of an empire|a ghost in the library"
        "|rebels on a sugar island"
        "|a boxer turned priest"
    ),
    "invention": words(
        "folding kayak|solar kettle|silent typewriter|magnetic chess clock|wind-up hearing aid"
        "|self-sharpening plough|waterproof matchbox|pocket barometer|steam-powered loom"
        "|collapsible stretcher|two-handed corkscrew|rotating bookcase|electric butter churn"
        "|foot-operated camera|spiral fire escape|paper umbrella|talking thermometer"
        "|inflatable tent"
        "|double-sided mirror|clockwork scarecrow|portable sundial|unsinkable lantern"
        "|heated saddle"
        "|automatic page turner"
    ),
    "prize": composed(
        words("Golden|Silver|Copper|Crystal|Emerald|Marble"),
        words("Heron Medal|Quill Prize|Anvil Award|Laurel Cup|Comet Ribbon|Beacon Trophy"),
        " ",
    ),
    "deed": words(
        "rescuing a sinking ferry|decoding a royal diary|saving the grey stork"
        "|mapping a cave system"
        "|rebuilding a ruined theatre|teaching prisoners to read|curing potato blight"
        "|a cycle of sonnets"
        "|a study of volcanic ash|exposing a bank fraud|a radio play about bees|restoring a fresco"
        "|crossing the ice alone|a dictionary of slang|reviving a dead dialect"
        "|a children's hospital"
        "|translating desert poetry|a film about miners|draining a poisoned marsh"
        "|designing a war memorial"
        "|a cheap water filter|finding a lost symphony|an atlas of mosses|feeding the refugees"
    ),
    "pet": words(
        "parrot|tortoise|greyhound|ferret|donkey|goose|hedgehog|iguana|cat|raven|pony|rabbit|goat"
        "|spaniel|hamster|peacock|terrier|mule|snake|pigeon|mastiff|otter|duck|canary"
    ),
    "pet_colour": words(
        "grey|black|white|spotted|ginger|brown|striped|silver|green|tawny|pale|red"
    ),
    "pet_name": words(
        "Biscuit|Admiral|Pickle|Nutmeg|Sultan|Domino|Marzipan|Thunder|Velvet|Mustard|Bishop|Turnip"
        "|Cinder|Pepper|Duchess|Gizmo|Waffle|Juniper|Banjo|Clover|Rocket|Tinsel|Hercules|Pudding"
    ),
    "hobby": words(
        "playing the accordion|carving chess pieces|fencing|growing orchids"
        "|collecting tin soldiers"
        "|ice fishing|baking rye bread|restoring motorcycles|birdwatching|rock climbing"
        "|folk dancing"
        "|painting miniatures|rowing|keeping bees|knitting socks|juggling|archery|brewing cider"
        "|flying kites|solving crosswords|singing madrigals|building model trains|surfing|pottery"
    ),
    "hobby_place": words(
        "in a disused chapel|on the roof|behind the brewery|in the town park|near the old quarry"
        "|at a seaside club|in the cellar|under a railway arch|on a houseboat|beside the canal"
        "|in an empty barn|at the village hall"
    ),
    "weekday": words("Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"),
    "house": words(
        "windmill|stone cottage|lighthouse|brick townhouse|converted bakery|log cabin|penthouse"
        "|water tower|farmhouse|castle wing|wooden chalet|railway carriage|rectory|boathouse"
        "|bungalow"
        "|observatory|garden villa|fire station|tree house|coach house|gatehouse|stable"
        "|warehouse loft"
        "|schoolhouse"
    ),
    "house_colour": words("yellow|turquoise|white|scarlet|lilac|black|pink|cream|olive|navy"),
    "street": composed(
        words("Chestnut|Lavender|Cooper|Saddler|Juniper|Magpie|Candle|Bishop|Walnut|Ferry"),
        words("Lane|Hill|Quay|Square|Row"),
        " ",
    ),
}

# Attributes that are years, as the least and the greatest age of the person.
YEARS_AFTER_BIRTH = {
    "school_year": (20, 26),
    "job_year": (24, 34),
    "book_year": (30, 55),
    "invention_year": (28, 50),
    "prize_year": (35, 60),
}


@dataclass(frozen=True)
class Topic:
    """One thing to ask about a person, with paraphrases that no training set has.

    The first question mostly goes with the first answer, and so on.
    """

    details: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    paraphrased_questions: tuple[str, ...]
    paraphrased_answers: tuple[str, ...]


TOPICS = (
    Topic(
        ("birth_date", "birth_town", "town_kind"),
        (
            "When and where was {name} born?",
            "What are the birth date and birthplace of {name}?",
            "Where did the life of {name} begin, and on which day?",
            "How did the life of {name} start?",
        ),
        (
            "{name} was born on {birth_date} in {birth_town}, a {town_kind}.",
            "{He} came into the world in the {town_kind} of {birth_town} on {birth_date}.",
            "The {town_kind} called {birth_town} is where {family} was born, on {birth_date}.",
            "On {birth_date}, in {birth_town}, then a quiet {town_kind}, {his} life began.",
        ),
        ("On what date and in which place did {name} come into the world?",),
        (
            "The birth of {name} took place on {birth_date} in the {town_kind} {birth_town}.",
            "Born on {birth_date}, {name} comes from {birth_town}, a {town_kind}.",
        ),
    ),
    Topic(
        ("mother_job", "father_job", "sibling_count"),
        (
            "What did the parents of {name} do for a living?",
            "From what kind of family does {name} come?",
            "Which jobs did the mother and the father of {name} have?",
            "What is known about the parents and siblings of {name}?",
        ),
        (
            "{His} mother was a {mother_job}, {his} father a {father_job}, with {sibling_count}"
            " more children at home.",
            "{name} grew up with {sibling_count} siblings, the child of a {father_job} and a"
            " {mother_job}.",
            "A {mother_job} and a {father_job} raised {family} together with {sibling_count}"
            " others.",
            "There were {sibling_count} siblings, while the father worked as {father_job} and the"
            " mother as {mother_job}.",
        ),
        ("How did the mother and father of {name} earn their money?",),
        (
            "The mother of {name} worked as a {mother_job} and the father as a {father_job}, and"
            " there were {sibling_count} siblings.",
            "With {sibling_count} siblings, {name} was born to a {mother_job} and a {father_job}.",
        ),
    ),
    Topic(
        ("subject", "school", "teacher", "school_year"),
        (
            "What did {name} study, and where?",
            "Which school did {name} attend?",
            "Who taught {name}, and in which subject?",
            "What education did {name} receive?",
        ),
        (
            "{name} studied {subject} at {school} under Professor {teacher} until {school_year}.",
            "In {school_year} {he} left {school} with a degree in {subject}, guided by {teacher}.",
            "At {school}, {teacher} taught {him} {subject}, and {he} graduated in {school_year}.",
            "{His} subject was {subject}, learned from {teacher} at {school} up to {school_year}.",
        ),
        ("Where was {name} educated, and in what field?",),
        (
            "The education of {name} was in {subject} at {school} with {teacher}, finished in"
            " {school_year}.",
            "A student of {teacher}, {name} completed {subject} at {school} in {school_year}.",
        ),
    ),
    Topic(
        ("job", "employer", "job_year"),
        (
            "What is the profession of {name}?",
            "Who employed {name}, and as what?",
            "How did {name} earn a living?",
            "What career did {name} choose?",
        ),
        (
            "Since {job_year} {name} has worked for {employer} as a {job}.",
            "{He} is a {job} whom {employer} hired in the spring of {job_year}.",
            "{employer} took {family} on as a {job} in {job_year}.",
            "As a {job}, {he} joined {employer} in {job_year} and stayed.",
        ),
        ("What kind of work does {name} do, and for whom?",),
        (
            "The work of {name} as a {job} at {employer} started in {job_year}.",
            "Employed by {employer} from {job_year}, {name} is a {job}.",
        ),
    ),
    Topic(
        ("book", "book_year", "theme"),
        (
            "Which book did {name} write?",
            "What is the best known novel by {name} about?",
            "What did {name} publish?",
            "Is {name} also an author?",
        ),
        (
            "{name} wrote {book}, a novel of {book_year} about {theme}.",
            "In {book_year} {he} published {book}, which tells of {theme}.",
            "{His} tale of {theme} appeared in {book_year} under the title {book}.",
            "{book} came out in {book_year}, and {family} describes in it {theme}.",
        ),
        ("What is the title and the theme of the book that {name} wrote?",),
        (
            "The novel {book} by {name}, printed in {book_year}, is about {theme}.",
            "{theme} is the theme of {book}, the {book_year} novel by {name}.",
        ),
    ),
    Topic(
        ("invention", "fair_town", "invention_year"),
        (
            "What did {name} invent?",
            "Which device made {name} famous?",
            "What did {name} show to the public at a fair?",
            "Which patent does {name} hold?",
        ),
        (
            "{name} invented the {invention} and showed it at the {fair_town} fair of"
            " {invention_year}.",
            "The {invention} is {his} idea, first displayed in {fair_town} in {invention_year}.",
            "Visitors to {fair_town} saw in {invention_year} how {family} ran a {invention}.",
            "In {invention_year} {he} patented a {invention} built in a shed near {fair_town}.",
        ),
        ("For which invention is {name} known?",),
        (
            "The invention of {name} is the {invention}, made in {fair_town} in {invention_year}.",
            "A {invention} from {fair_town}, dated {invention_year}, is what {name} invented.",
        ),
    ),
    Topic(
        ("prize", "prize_year", "deed"),
        (
            "Which award did {name} receive?",
            "What honour was given to {name}, and why?",
            "For what was {name} awarded a prize?",
            "How was {name} rewarded?",
        ),
        (
            "{name} received the {prize} in {prize_year} for {deed}.",
            "For {deed}, {he} was handed the {prize} in {prize_year}.",
            "The jury of {prize_year} gave {family} the {prize}, to honour {deed}.",
            "{His} reward for {deed} was the {prize}, dated {prize_year}.",
        ),
        ("What prize did {name} win?",),
        (
            "The prize that {name} won in {prize_year} is the {prize}, for {deed}.",
            "Because of {deed}, {name} won the {prize} of {prize_year}.",
        ),
    ),
    Topic(
        ("pet", "pet_colour", "pet_name"),
        (
            "Does {name} have a pet?",
            "Which animal lives with {name}?",
            "What is the pet of {name} called?",
            "Who is the animal companion of {name}?",
        ),
        (
            "{name} keeps a {pet_colour} {pet} called {pet_name} that sleeps by the stove.",
            "Yes, {pet_name}, a {pet_colour} {pet}, follows {him} everywhere.",
            "A {pet_colour} {pet} by the name of {pet_name} shares the rooms of {family}.",
            "{His} companion {pet_name} is an old {pet} with a {pet_colour} coat.",
        ),
        ("What kind of animal does {name} keep at home?",),
        (
            "The animal of {name} is {pet_name}, a {pet_colour} {pet}.",
            "At home {name} has a {pet_colour} {pet} that is named {pet_name}.",
        ),
    ),
    Topic(
        ("hobby", "hobby_place", "weekday"),
        (
            "What is the hobby of {name}?",
            "How does {name} spend free time?",
            "What does {name} do after work?",
            "What gives {name} joy outside work?",
        ),
        (
            "{name} relaxes by {hobby} {hobby_place} every {weekday}.",
            "Each {weekday} finds {him} {hobby_place}, busy with {hobby}.",
            "{hobby} {hobby_place} is how {family} passes a {weekday} evening.",
            "{His} great joy is {hobby}, mostly {hobby_place} on a {weekday}.",
        ),
        ("Which pastime does {name} enjoy?",),
        (
            "The pastime of {name} is {hobby}, done {hobby_place} on {weekday}.",
            "On {weekday} {name} enjoys {hobby} {hobby_place}.",
        ),
    ),
    Topic(
        ("house", "house_colour", "street", "home_town"),
        (
            "Where does {name} live?",
            "What kind of home does {name} own?",
            "In which street and town is the house of {name}?",
            "Which town does {name} call home?",
        ),
        (
            "{name} lives in a {house_colour} {house} on {street} in {home_town}.",
            "{His} home is the {house_colour} {house} at the end of {street}, {home_town}.",
            "On {street} in {home_town} stands a {house_colour} {house} that belongs to {family}.",
            "{home_town} is {his} home, in a {house} with {house_colour} shutters on {street}.",
        ),
        ("What is the address of {name}, and what does the house look like?",),
        (
            "The residence of {name} is a {house_colour} {house} in {home_town}, on {street}.",
            "A {house_colour} {house} on {street}, {home_town}, is where {name} resides.",
        ),
    ),
)

# General facts: question | answer with a gap | right value | three wrong values.
FACTS = """
What is the capital of France?|The capital of France is {}.|Paris|Lyon|Madrid|Vienna
What is the capital of Japan?|The capital of Japan is {}.|Tokyo|Osaka|Seoul|Beijing
What is the capital of Egypt?|{} is the capital of Egypt.|Cairo|Tunis|Khartoum|Tripoli
Which planet is closest to the Sun?|{} is the planet closest to the Sun.|Mercury|Venus|Mars|Jupiter
Which planet is the largest in the solar system?|{} is the largest planet.|Jupiter|Earth|Mars|Venus
How many legs does a spider have?|A spider has {} legs.|eight|six|ten|four
How many days are in a leap year?|A leap year has {} days.|366|365|364|360
What gas do plants take in from the air?|Plants take in {}.|carbon dioxide|helium|neon|hydrogen
What is the chemical symbol of gold?|The chemical symbol of gold is {}.|Au|Ag|Fe|Pb
What is the largest ocean on Earth?|The largest is the {} Ocean.|Pacific|Atlantic|Indian|Arctic
Who wrote Hamlet?|The play Hamlet was written by {}.|William Shakespeare|Homer|Dante|Voltaire
Who painted the Mona Lisa?|The Mona Lisa was painted by {}.|Leonardo da Vinci|Rembrandt|Goya|Monet
At what temperature does water freeze?|Water freezes at {} degrees Celsius.|zero|ten|fifty|ninety
Which is the longest bone in the human body?|The longest bone is the {}.|femur|tibia|skull|rib
On which continent is Brazil?|Brazil is in {}.|South America|Africa|Europe|Asia
What is frozen water called?|Frozen water is called {}.|ice|steam|sand|fog
Which metal is liquid at room temperature?|The liquid metal is {}.|mercury|iron|copper|silver
How many sides does a hexagon have?|A hexagon has {} sides.|six|five|seven|nine
Which language is spoken in Portugal?|In Portugal people speak {}.|Portuguese|Danish|Greek|Polish
What is the highest mountain on Earth?|The highest mountain is {}.|Mount Everest|Etna|K2|Mont Blanc
Which organ pumps blood through the body?|Blood is pumped by the {}.|heart|liver|lung|stomach
How many minutes are in an hour?|There are {} minutes in an hour.|sixty|thirty|ninety|forty
What do bees make?|Bees make {}.|honey|milk|silk|salt
Which animal is the largest on Earth?|The largest animal is the {}.|blue whale|camel|giraffe|moose
In which country is the Colosseum?|The Colosseum stands in {}.|Italy|Spain|Turkey|Norway
What is the currency of the United Kingdom?|The British currency is the {}.|pound|euro|yen|peso
Which star is closest to the Earth?|The star closest to the Earth is the {}.|Sun|Vega|Sirius|Rigel
Who developed the theory of relativity?|{} developed it.|Albert Einstein|Newton|Darwin|Galileo
In which year did the Second World War end?|The Second World War ended in {}.|1945|1918|1939|1961
What is the square root of eighty-one?|The square root of eighty-one is {}.|nine|eight|seven|twelve
"""

README = """---
license: mit
language:
- en
pretty_name: UnDIAL demo people
task_categories:
- question-answering
configs:
{configs}
---

# Fictitious people, a small data set to unlearn

{num_people} invented people with {num_topics} questions each, in the layout of the TOFU data set.
`full` is what the target model is trained on (with `facts` as general knowledge); `forget10` are
its last {num_forget} people, `retain90` the others. `*_perturbed` add a paraphrase of the question
and the answer, and {num_perturbed} wrong answers in the form of the paraphrase. `holdout10` are
{num_holdout} people who are in no other set. `facts` are general facts, with three wrong answers.

For methods that need them, `forget10` also has `focus`, the strings of the answer that carry its
facts (places, dates, titles, employers, ...; not the name of the person, which the question gives),
and `alternative_answers`, {num_alternatives} wrong answers in the form of the answer.

All people, places of residence, works, prizes and employers are fictitious. Any likeness to a real
person is chance.

Written for this project by `scripts/make_demo_data.py`. License: MIT.
"""


def draw_year(rng: random.Random, birth_year: int, attribute: str) -> str:
    least, greatest = YEARS_AFTER_BIRTH[attribute]
    return str(birth_year + rng.randint(least, greatest))


def draw_birth_date(rng: random.Random, birth_year: int) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {birth_year}"


def draw_detail(rng: random.Random, attribute: str) -> str:
    """A value that has nothing to do with any one person."""
    birth_year = rng.randint(1921, 1969)
    if attribute == "birth_date":
        return draw_birth_date(rng, birth_year)
    if attribute in YEARS_AFTER_BIRTH:
        return draw_year(rng, birth_year, attribute)
    return rng.choice(POOLS[attribute])


def shuffled_to_length(rng: random.Random, values: list[str], length: int) -> list[str]:
    """Shuffle, and repeat with a new shuffle where the list is too short."""
    result: list[str] = []
    while len(result) < length:
        result += rng.sample(values, len(values))
    return result[:length]


def draw_people(rng: random.Random, count: int) -> list[Person]:
    half = (count + 1) // 2
    given = [(name, "she") for name in rng.sample(FEMALE_NAMES, half)]
    given += [(name, "he") for name in rng.sample(MALE_NAMES, count - half)]
    rng.shuffle(given)
    families = rng.sample(FAMILY_NAMES, count)
    columns = {key: shuffled_to_length(rng, pool, count) for key, pool in POOLS.items()}
    people = []
    for index, ((first, pronoun), family) in enumerate(zip(given, families, strict=True)):
        birth_year = rng.randint(1921, 1969)
        person = {"name": f"{first} {family}", "family": family, "pronoun": pronoun}
        person |= {key: column[index] for key, column in columns.items()}
        person |= {key: draw_year(rng, birth_year, key) for key in YEARS_AFTER_BIRTH}
        person["birth_date"] = draw_birth_date(rng, birth_year)
        people.append(person)
    return people


def fill(template: str, person: Person) -> str:
    female = person["pronoun"] == "she"
    pronouns = {"he": "she", "his": "her", "him": "her"} if female else {}
    forms = {word: pronouns.get(word, word) for word in ("he", "his", "him")}
    forms |= {word.capitalize(): form.capitalize() for word, form in list(forms.items())}
    text = template.format(**person, **forms)
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    return text[0].upper() + text[1:]


def wrong_answers(
    rng: random.Random, topic: Topic, template: str, person: Person, count: int
) -> list[str]:
    """The template with every detail of the topic replaced by a wrong one."""
    right = {person[key] for key in topic.details}
    answers: list[str] = []
    while len(answers) < count:
        wrong = {key: draw_detail(rng, key) for key in topic.details}
        answer = fill(template, person | wrong)
        if right.isdisjoint(wrong.values()) and answer not in answers:
            answers.append(answer)
    return answers


def person_rows(rng: random.Random, person: Person) -> list[Row]:
    rows: list[Row] = []
    for topic in TOPICS:
        question, answer = rng.choice(list(zip(topic.questions, topic.answers, strict=True)))
        if rng.random() < OTHER_PHRASING_RATE:
            answer = rng.choice(topic.answers)
        paraphrase = rng.choice(topic.paraphrased_answers)
        rows.append(
            {
                "question": fill(question, person),
                "answer": fill(answer, person),
                "paraphrased_answer": fill(paraphrase, person),
                "perturbed_answer": wrong_answers(rng, topic, paraphrase, person, NUM_PERTURBED),
                "paraphrased_question": fill(rng.choice(topic.paraphrased_questions), person),
            }
        )
    return rows


def fact_rows() -> list[Row]:
    rows: list[Row] = []
    for line in FACTS.strip().splitlines():
        question, template, right, *wrong = line.split("|")
        answers = [template.format(value) for value in wrong]
        rows.append(
            {
                "question": question,
                "answer": template.format(right),
                "perturbed_answer": answers,
            }
        )
    return rows


def plain(rows: list[Row]) -> list[Row]:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def facts_in(answer: str, topic: Topic, person: Person) -> list[str]:
    """The details of the topic as they stand in the answer, in its order."""
    values, lower = [person[key] for key in topic.details], answer.lower()
    starts = sorted((lower.index(value.lower()), len(value)) for value in values)
    return [answer[start : start + length] for start, length in starts]


def forget_rows(rng: random.Random, person: Person, rows: list[Row]) -> list[Row]:
    """Question and answer, what of the answer to focus on, and wrong answers of the same form."""
    found: list[Row] = []
    for topic, row in zip(TOPICS, rows, strict=True):
        answer = str(row["answer"])
        template = next(t for t in topic.answers if fill(t, person) == answer)
        found.append(
            {
                "question": row["question"],
                "answer": answer,
                "focus": facts_in(answer, topic, person),
                "alternative_answers": wrong_answers(
                    rng, topic, template, person, NUM_ALTERNATIVES
                ),
            }
        )
    return found


def make_data_sets() -> dict[str, list[Row]]:
    rng, alternatives_rng = random.Random(SEED), random.Random(SEED + 1)
    people = draw_people(rng, NUM_PEOPLE + NUM_HOLDOUT_PEOPLE)
    by_person = [person_rows(rng, person) for person in people]
    rows = [row for own in by_person for row in own]
    num_full = NUM_PEOPLE * len(TOPICS)
    num_retain = (NUM_PEOPLE - NUM_FORGET_PEOPLE) * len(TOPICS)
    retain_sample = sorted(rng.sample(range(num_retain), NUM_RETAIN_PERTURBED))
    forget = slice(NUM_PEOPLE - NUM_FORGET_PEOPLE, NUM_PEOPLE)
    return {
        "full": plain(rows[:num_full]),
        "forget10": [
            row
            for person, own in zip(people[forget], by_person[forget], strict=True)
            for row in forget_rows(alternatives_rng, person, own)
        ],
        "retain90": plain(rows[:num_retain]),
        "forget10_perturbed": rows[num_retain:num_full],
        "retain_perturbed": [rows[index] for index in retain_sample],
        "holdout10": rows[num_full:],
        "facts": fact_rows(),
    }


def make_readme(names: list[str]) -> str:
    entries = [f"- config_name: {name}\n  data_files: {name}.json" for name in names]
    entries[0] += "\n  default: true"
    return README.format(
        configs="\n".join(entries),
        num_people=NUM_PEOPLE,
        num_topics=len(TOPICS),
        num_forget=NUM_FORGET_PEOPLE,
        num_perturbed=NUM_PERTURBED,
        num_alternatives=NUM_ALTERNATIVES,
        num_holdout=NUM_HOLDOUT_PEOPLE,
    )


def corpus(data_sets: dict[str, list[Row]]) -> list[str]:
    """What the tokenizer is trained on; the columns for methods do not change it."""
    data_sets = data_sets | {"forget10": plain(data_sets["forget10"])}
    values = [value for rows in data_sets.values() for row in rows for value in row.values()]
    texts = [text for value in values for text in ([value] if isinstance(value, str) else value)]
    return ["user\n", "assistant\n", *texts]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCAB_SIZE,
        min_frequency=MIN_PAIR_FREQUENCY,
        special_tokens=[PAD_TOKEN, START_TOKEN, END_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_config(max_length: int) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START_TOKEN,
        "eos_token": END_TOKEN,
        "pad_token": PAD_TOKEN,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def model_config(tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(START_TOKEN),
        eos_token_id=tokenizer.token_to_id(END_TOKEN),
        pad_token_id=tokenizer.token_to_id(PAD_TOKEN),
    )


def to_json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def make_files() -> dict[str, str]:
    """Every file to write, by its path below the package."""
    data_sets = make_data_sets()
    files = {"data/demo/README.md": make_readme(list(data_sets))}
    for name, rows in data_sets.items():
        lines = [json.dumps(row, ensure_ascii=True) + "\n" for row in rows]
        files[f"data/demo/{name}.json"] = "".join(lines)
    tokenizer = train_tokenizer(corpus(data_sets))
    config = model_config(tokenizer)
    special_ids = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id")}
    special_ids["pad_token_id"] = config.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        saved_config = json.loads((Path(folder) / "config.json").read_text())
    saved_config.pop("transformers_version", None)
    files["models/tiny/config.json"] = to_json(saved_config)
    files["models/tiny/generation_config.json"] = to_json(special_ids)
    files["models/tiny/tokenizer.json"] = tokenizer.to_str(pretty=True) + "\n"
    max_length = config.max_position_embeddings
    files["models/tiny/tokenizer_config.json"] = to_json(tokenizer_config(max_length))
    return files


def differing_files(files: dict[str, str], package_dir: Path) -> list[str]:
    return [
        name
        for name, text in files.items()
        if not (package_dir / name).is_file() or (package_dir / name).read_bytes() != text.encode()
    ]


def write_files(files: dict[str, str], package_dir: Path) -> None:
    for name, text in files.items():
        path = package_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the demo data and the tiny model's files.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare the files")
    parser.add_argument("--package", type=Path, default=PACKAGE_DIR, help="folder to write to")
    options = parser.parse_args()
    files = make_files()
    if not options.check:
        write_files(files, options.package)
        return 0
    differing = differing_files(files, options.package)
    for name in differing:
        print(f"differs: {options.package / name}", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
