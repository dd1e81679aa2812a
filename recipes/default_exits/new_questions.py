"""Make questions to calibrate early exit on: the patterns of questions.py with topics of their own.

    python recipes/default_exits/new_questions.py new-questions.txt

Law: a topic stands in one question only, and in none that was trained on or that exits are measured
on; so texts are drawn apart from each other and from all that exits and gates have seen.
"""

import random
import sys
from pathlib import Path

from questions import kinds

SEED = 1
TOPICS: tuple[str, ...] = (
    """quicksand, a mirage, the jet stream, an avalanche, a geyser, photons, antimatter,
    dark energy,
    surface tension, capillary action, superconductivity, a comet, an asteroid, a meteor shower,
    the northern lights, metamorphosis, echolocation, bioluminescence, symbiosis, mitosis, a
    virus, antibiotics, a vaccine, the human ear, the human eye, muscle growth""",
    """metal detector, stethoscope, hearing aid, wheelchair, parachute, hot-air balloon, forklift,
    tractor, lawn mower, chainsaw, electric drill, screwdriver, soldering iron, blender, pressure
    cooker, kettle, refrigerator, air conditioner, smoke alarm, fire extinguisher, doorbell,
    projector, loudspeaker, microphone, saxophone, harmonica""",
    """pancakes, waffles, cornbread, focaccia, gazpacho, minestrone, pumpkin soup, falafel, paella,
    ratatouille, goulash, shepherd's pie, fish and chips, lobster, spring rolls, ramen, miso soup,
    kimchi, tiramisu, cheesecake, apple crumble, marmalade, mustard, mayonnaise, peanut butter,
    ginger ale""",
    """Johannes Kepler, Nicolaus Copernicus, Niels Bohr, Richard Feynman, Rosalind Franklin,
    Alexander Fleming, Gregor Mendel, Carl Linnaeus, Grace Hopper, Claude Shannon, Franz Schubert,
    Frederic Chopin, Claude Monet, Rembrandt, Emily Dickinson, Virginia Woolf, Victor Hugo, Franz
    Kafka, Immanuel Kant, Voltaire, Genghis Khan, Catherine the Great, Simon Bolivar, Harriet
    Tubman, Ernest Shackleton, Jacques Cousteau""",
    """Barcelona, Lisbon, Dublin, Edinburgh, Prague, Budapest, Warsaw, Copenhagen, Oslo, Helsinki,
    Dubai, Jerusalem, Marrakesh, Lagos, Singapore, Hong Kong, Shanghai, Hanoi, Jakarta, Melbourne,
    Vancouver, Boston, New Orleans, Havana, Lima, Santiago""",
    """the Hundred Years' War, the Thirty Years' War, the Spanish Armada, the Norman Conquest, the
    signing of the Magna Carta, the Boston Tea Party, the Louisiana Purchase, the Crimean War, the
    Boer War, the Spanish Civil War, the Korean War, the Vietnam War, the Cuban Missile Crisis,
    the Marshall Plan, the founding of Israel, the partition of India, the end of apartheid, the
    unification of Germany, the Meiji Restoration, the Opium Wars, the Mongol Empire, the Aztec
    Empire, the Inca Empire, the Persian Empire""",
    """archery, badminton, fencing, rowing, surfing, snowboarding, ice skating, horse riding, judo,
    karate, table tennis, golf, bowling, origami, calligraphy, embroidery, candle making, soap
    making, beekeeping, home brewing, playing chess, playing the drums, playing the harp, public
    speaking, learning sign language, genealogy""",
    """a midwife, a surgeon, a physiotherapist, an optician, a librarian, a bookseller, a florist, a
    butcher, a fisherman, a winemaker, a blacksmith, a jeweller, a watchmaker, a bricklayer, a
    roofer, a glazier, a civil engineer, a geologist, a meteorologist, a marine biologist, an
    archaeologist, a diplomat, a flight attendant, an air traffic controller, a stunt performer, a
    game designer""",
    """reverses a string, counts the lines of a file, finds the second largest number, swaps two
    variables, checks for a leap year, prints a multiplication table, adds two fractions, finds
    all divisors of a number, sorts words by length, replaces every comma by a semicolon, counts
    how often each letter occurs, prints the current time, converts miles to kilometres, computes
    compound interest, simulates a coin toss, draws a spiral, resizes an image, compresses a file,
    lists the files of a folder, renames many files, reads a JSON file, validates a phone number,
    transposes a matrix, rotates a list, generates prime numbers, plays tic-tac-toe""",
    """recursion, inheritance, polymorphism, an iterator, a generator, a decorator, a closure, a
    pointer, garbage collection, a memory leak, a race condition, a mutex, a semaphore, a message
    queue, a load balancer, a firewall, a proxy server, a DNS record, a primary key, a foreign
    key, a materialised view, an event loop, a lambda expression, type inference, continuous
    integration, code review""",
    """a waterfall, a lighthouse in winter, a desert at noon, a forest fire, a frozen lake, a
    harvest, a crowded bus, a broken clock, an old photograph, an unopened present, a violin in
    the attic, a night watchman, a retired teacher, a lazy cat, a clever crow, a lonely whale, a
    shy giant, a travelling circus, a forgotten kingdom, a rainy Sunday, a power cut, a first
    kiss, a long goodbye, a village bakery, a paper boat, an honest thief""",
    """to confirm an appointment, to ask for an extension of a deadline, to request a quotation, to
    cancel a subscription, to thank my grandmother for a gift, to ask the council to fix a road,
    to return a broken toaster, to apply for a scholarship, to recommend a student, to ask for a
    reference, to invite a speaker, to postpone a delivery, to report a lost passport, to complain
    about noise at night, to ask for vegetarian meals, to accept a job offer, to turn down a job
    offer, to announce a new opening hour, to thank volunteers, to ask a neighbour to water my
    plants, to explain an absence from school, to request a seat change, to praise a waiter, to
    ask about a lost suitcase""",
    """inflation, a recession, a pension, a hedge fund, a cryptocurrency, a tariff, a subsidy, a
    cartel, a minimum wage, a census, a jury, a patent, a copyright, a trademark, a referendum, a
    coalition government, federalism, the welfare state, urban planning, deforestation, renewable
    energy, genetic engineering, self-driving cars, facial recognition, existentialism,
    utilitarianism""",
    """learn to whistle, get rid of ants, stop a nosebleed, sleep on a plane, remember a speech, cut
    onions without crying, iron a shirt, tie a tie, fold a fitted sheet, sharpen a pencil with a
    knife, repair a flat tyre, jump-start a car, clean a keyboard, save battery power, type with
    ten fingers, grow herbs indoors, prune a rose bush, build a birdhouse, bathe a dog, calm a
    crying baby, plan a wedding on a budget, learn a poem by heart, write a will, choose a
    telescope, pack a suitcase, read a map""",
    """a violin and a viola, a clarinet and an oboe, jam and jelly, a lemon and a lime, a turtle and
    a tortoise, a leopard and a jaguar, a raven and a crow, a seal and a sea lion, a llama and an
    alpaca, a comet and an asteroid, weather and climate, mitosis and meiosis, a stalactite and a
    stalagmite, latitude and longitude, a socialist and a communist, a barrister and a solicitor,
    a mean and a median, a rhombus and a square, a compiler and an interpreter, TCP and UDP, a
    process and a thread, GIF and PNG, stocks and bonds, a loan and a grant, espresso and filter
    coffee, a sonnet and a haiku""",
)


def main() -> None:
    """Write one question for each topic, in a drawn order."""
    draw = random.Random(SEED)
    made = []
    for (patterns, trained), written in zip(kinds(), TOPICS, strict=True):
        asked = (Path(__file__).parent / "prompts.txt").read_text(encoding="utf-8").lower()
        known = {topic.lower() for topic in trained}
        topics = [each.strip() for each in " ".join(written.split()).split(",")]
        single = [pattern for pattern in patterns if pattern.count("{}") == 1]
        for topic in topics:
            if topic.lower() in known or topic.lower() in asked:
                continue
            question = draw.choice(single).format(topic)
            made.append(question[0].upper() + question[1:])
    draw.shuffle(made)
    Path(sys.argv[1]).write_text("\n".join(made) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
