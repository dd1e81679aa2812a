"""Make questions for the embedded default to answer: patterns and topics of ours, kind by kind.

    python recipes/default_exits/questions.py questions.txt

The questions that the model makes up itself are odd, and so are its answers; exits trained on those
alone do less well on answers to plain questions (docs/lab-log.md). Law: no topic stands in
prompts.txt, so nothing that exits are measured on is trained on.
"""

import random
import sys
from pathlib import Path

SEED = 0
KINDS: tuple[tuple[str, str], ...] = (
    (
        """How does {} work?|How do scientists study {}?|What causes {}?|Explain {} in simple words.
        Explain {} to a beginner, with an example.|What is {}?|Why is {} important?
        What are the main facts about {}?|Describe {} in a few sentences.|What happens during {}?
        Write a short quiz about {}.|What do most people get wrong about {}?""",
        """gravity, magnetism, evaporation, condensation, erosion, evolution, natural selection,
        cell division, the greenhouse effect, plate tectonics, a solar eclipse, a lunar eclipse,
        electricity, static electricity, sound, light refraction, radioactivity, nuclear fusion,
        nuclear fission, digestion, blood circulation, breathing, the immune system, sleep,
        memory, hunger, fever, an allergy, the nitrogen cycle, the carbon cycle, fermentation,
        rust, combustion, osmosis, diffusion, friction, buoyancy, momentum, heat transfer,
        a volcano eruption, a hurricane, a tornado, a thunderstorm, lightning, fog, snow, a rainbow,
        the tides, ocean currents, a coral reef, a rainforest, a desert, a glacier, pollination,
        migration of birds, hibernation, camouflage, a food chain, genetics, DNA, a chromosome,
        a galaxy, the Big Bang, a supernova, the solar system, the Moon, Mars, Jupiter, a satellite,
        the atmosphere, the ozone layer, acid rain, groundwater, soil, fossils, dinosaurs""",
    ),
    (
        """How does a {} work?|What is a {} used for?|Who invented the {}?|How is a {} made?
        How do I choose a good {}?|How do I clean a {}?|What should I do if my {} breaks?
        Write a product description for a {}.|Describe a {} to someone who has never seen one.
        What are the parts of a {}?|How has the {} changed over time?|Do I need a {}?
        Write a customer review of a {}.|Suggest a name for a new {} and explain it.""",
        """microscope, telescope, compass, thermometer, barometer, bicycle, steam engine, car,
        electric car, sailing boat, submarine, helicopter, rocket, washing machine, dishwasher,
        vacuum cleaner, microwave oven, toaster, coffee machine, sewing machine, light bulb,
        battery, solar panel, wind turbine, smartphone, laptop, keyboard, printer, camera,
        digital watch, television, radio, piano, guitar, violin, trumpet, drum, umbrella, backpack,
        tent, sleeping bag, pair of running shoes, winter coat, mattress, desk lamp, bookshelf,
        kitchen knife, frying pan, candle, mirror, lock, zipper, pencil, fountain pen, typewriter,
        calculator, router, hard drive, robot, drone, elevator, bridge, lighthouse, greenhouse""",
    ),
    (
        """Give me a recipe for {}.|How do I make {} at home?|What are the ingredients of {}?
        What goes well with {}?|Where does {} come from?|How long can I keep {}?
        Is {} good for my health?|Describe the taste of {}.|Give me three tips for making {}.
        Write a menu entry for {}.|What is a cheap way to make {}?""",
        """tomato soup, chicken soup, lentil soup, vegetable curry, fried rice, spaghetti, lasagne,
        pizza, an omelette, scrambled eggs, French toast, porridge, a fruit salad, a green salad,
        potato salad, mashed potatoes, roast chicken, fish tacos, a burger, a sandwich, hummus,
        guacamole, bread, garlic bread, banana bread, apple pie, chocolate cake, carrot cake,
        cookies, brownies, ice cream, lemonade, iced tea, hot chocolate, coffee, a smoothie,
        yoghurt, cheese, honey, jam, pickles, tofu, sushi, dumplings, noodles, risotto, chili,
        stew, meatballs, popcorn""",
    ),
    (
        """Who was {}?|Why is {} famous?|What did {} achieve?|Summarise the life of {}.
        Write a short paragraph about {} for children.|What can we learn from {}?
        Write three questions you would ask {}.|When did {} live?""",
        """Albert Einstein, Isaac Newton, Galileo Galilei, Charles Darwin, Ada Lovelace,
        Alan Turing, Nikola Tesla, Thomas Edison, Leonardo da Vinci, Michelangelo, Mozart,
        Beethoven, Bach, William Shakespeare, Jane Austen, Charles Dickens, Mark Twain,
        Leo Tolstoy, Homer, Plato, Aristotle, Socrates, Confucius, Julius Caesar, Cleopatra,
        Alexander the Great, Napoleon, Abraham Lincoln, George Washington, Martin Luther King,
        Nelson Mandela, Mahatma Gandhi, Queen Victoria, Joan of Arc, Christopher Columbus,
        Marco Polo, Amelia Earhart, Neil Armstrong, Florence Nightingale, Louis Pasteur,
        Rosa Parks, Anne Frank, Frida Kahlo, Vincent van Gogh, Pablo Picasso, Gutenberg""",
    ),
    (
        """What is {} known for?|What should I see in {}?|What is the weather like in {}?
        Plan a weekend in {}.|What do people eat in {}?|Write a travel guide entry about {}.
        What is the history of {} in a few sentences?|Where is {}?|Write a postcard from {}.
        What languages are spoken in {}?|What should I pack for a trip to {}?""",
        """London, Rome, Berlin, Madrid, Vienna, Athens, Istanbul, Cairo, Nairobi, Cape Town,
        Tokyo, Kyoto, Beijing, Seoul, Bangkok, Mumbai, Sydney, New Zealand, Hawaii, New York,
        Chicago, San Francisco, Toronto, Mexico City, Buenos Aires, Rio de Janeiro, Peru, Iceland,
        Norway, Sweden, Finland, Scotland, Ireland, Portugal, Switzerland, the Netherlands, Greece,
        Turkey, Egypt, Morocco, India, China, Japan, Brazil, Canada, Australia, the Alps,
        the Sahara, the Amazon, Antarctica""",
    ),
    (
        """What were the causes of {}?|When did {} happen?|What happened in {}?
        Why did {} matter?|Explain {} to a student.|What changed after {}?
        Summarise {} in three sentences.|Who were the most important people in {}?""",
        """the French Revolution, the American Revolution, the Industrial Revolution,
        the Second World War, the Cold War, the fall of the Berlin Wall, the Renaissance,
        the Reformation, the Black Death, the Crusades, the fall of Rome, the Silk Road,
        the Great Depression, the Moon landing, the American Civil War, the Russian Revolution,
        the Age of Discovery, the Enlightenment, the Space Race, the Gold Rush,
        the civil rights movement, the invention of printing, the Viking age, ancient Egypt,
        ancient Greece, the Ottoman Empire, the British Empire, the women's suffrage movement""",
    ),
    (
        """How can I get better at {}?|How do I get started with {}?|Give me three tips for {}.
        What are the benefits of {}?|What do I need for {}?|What are common mistakes in {}?
        Make a plan for learning {} in four weeks.|Why do people enjoy {}?|Is {} difficult?
        How much time does {} take?|Recommend a beginner's exercise for {}.
        Write an invitation to a club for {}.|How do I find people who like {}?""",
        """running, swimming, cycling, yoga, meditation, hiking, climbing, skiing, football, tennis,
        basketball, volleyball, dancing, singing, painting, drawing, photography, pottery,
        knitting, sewing, woodworking, gardening, fishing, camping, baking, writing stories,
        writing poetry, keeping a diary, playing the piano, playing the guitar, juggling,
        solving puzzles, bird watching, astronomy, collecting stamps, public debates, volunteering,
        time management, note taking, fast typing, mental arithmetic, negotiating, teamwork,
        giving feedback, listening, leading a team, remembering names, getting up early,
        studying for exams, reading faster, budgeting, investing, cooking for one""",
    ),
    (
        """What does {} do all day?|How do I become {}?|What skills does {} need?
        Write a job advertisement for {}.|Suggest three interview questions for {}.
        What is hard about being {}?|Write a cover letter for a job as {}.
        Describe a typical morning of {}.|Write a short story about {}.
        What tools does {} use?|Write a dialogue between {} and a child.""",
        """a nurse, a doctor, a dentist, a teacher, a lawyer, a judge, a police officer,
        a firefighter, a pilot, a bus driver, a train driver, a chef, a waiter, a baker, a farmer,
        a gardener, a carpenter, an electrician, a plumber, an architect, a mechanical engineer,
        a data scientist, a web developer, a graphic designer, a photographer, a journalist,
        an actor, a musician, a translator, an accountant, a salesperson, a project manager,
        a scientist, an astronaut, a veterinarian, a psychologist, a pharmacist, a hairdresser,
        a tailor, a postman, a sailor, a park ranger, a museum guide""",
    ),
    (
        """Write a Python function that {}.|Write a JavaScript function that {}.
        How do I write a program that {}?|Explain step by step how a program {}.
        Write Python code that {} and explain it.|Write a test for a function that {}.""",
        """sorts a list of numbers, finds the largest number in a list, removes duplicates from a
        list, counts the words in a text, checks whether a word is a palindrome, computes the
        factorial of a number, prints the Fibonacci numbers, checks whether a number is prime,
        converts Celsius to Fahrenheit, reads a CSV file, writes a list to a file, merges two
        dictionaries, finds the average of some numbers, counts the vowels in a string, removes
        spaces from a string, splits a sentence into words, generates a random password, validates
        an email address, computes the distance between two points, multiplies two matrices,
        finds the common elements of two lists, rolls two dice, plays rock-paper-scissors,
        downloads a web page, draws a bar chart, sends an email, parses a date, calculates the
        age of a person, rounds a number to two decimals, finds the longest word in a text,
        capitalises every word, searches a sorted list, flattens a nested list, computes a
        greatest common divisor, converts a number to binary, shuffles a deck of cards""",
    ),
    (
        """What is {} in programming?|Explain {} with an example.|When should I use {}?
        What are the advantages of {}?|How do I learn {}?|What is the difference between {} and {}?
        Explain {} to someone who does not program.""",
        """a variable, a loop, a function, a class, an object, an array, a linked list, a hash
        table, a stack, a queue, a binary tree, a graph, a database, an index, a transaction,
        an API, a web server, a browser, a cookie, encryption, a password hash, version control,
        unit testing, debugging, an operating system, a compiler, an interpreter, a thread,
        a neural network, deep learning, a decision tree, linear regression, clustering, big data,
        cloud computing, a virtual machine, a container, open source software, Python, Java,
        JavaScript, C++, SQL joins, HTML, CSS, regular expressions, JSON, a spreadsheet""",
    ),
    (
        """Write a short poem about {}.|Write a short story about {}.|Write a haiku about {}.
        Describe {} in vivid words.|Write the first paragraph of a novel about {}.
        Write a song verse about {}.|Give me five ideas for a picture of {}.
        Tell me a joke about {}.|Write a fairy tale about {}.|Write a diary entry about {}.
        Write a speech about {}.""",
        """the sea, a river, a mountain, the first snow, spring, a summer night, the stars, a storm,
        an old house, a garden, an empty street, a train journey, a lost key, a letter, a birthday,
        friendship, courage, hope, home, childhood, growing old, a wedding, a farewell, a market,
        a school, a library at night, a fox, an owl, a wolf, an elephant, a brave mouse, a dragon,
        a robot that dreams, a talking tree, a pirate, a queen, two brothers, a grandfather,
        a clockmaker, a small town, a secret door, a trip to the Moon, a desert island, a football
        match, a broken promise, a new neighbour, a kind stranger, the last day of school""",
    ),
    (
        """Write a polite email {}.|Write a short message {}.|Write a formal letter {}.
        How do I write a letter {}?|Give me three sentences I can use {}.""",
        """to invite a colleague to lunch, to cancel a meeting, to ask for a refund, to complain
        about a late delivery, to apologise for a mistake, to thank a customer, to congratulate a
        friend on a new job, to ask my boss for a day off, to ask a professor for advice, to remind
        someone about a bill, to introduce myself to a new team, to decline an invitation, to ask
        for a recommendation, to report a broken heater to my landlord, to apply for a summer job,
        to welcome a new employee, to announce a party, to ask neighbours to be quiet, to book a
        hotel room, to change a flight, to say goodbye to my colleagues, to ask for a discount, to
        invite parents to a school play, to follow up after an interview, to resign from a job""",
    ),
    (
        """What is {}?|Explain {} in simple words.|Why does {} matter?|What are examples of {}?
        What are the advantages and disadvantages of {}?|How does {} affect daily life?
        Write an introduction to an essay on {}.|What is the history of {}?
        What do critics say about {}?|How do {} and {} differ?""",
        """capitalism, socialism, globalisation, taxation, a budget deficit, unemployment, a stock,
        a bond, a mortgage, insurance, a credit card, supply and demand, a monopoly, free trade,
        human rights, freedom of speech, the rule of law, a constitution, an election, a republic,
        a monarchy, the United Nations, the European Union, a supreme court, a trade union,
        immigration, public transport, recycling, climate change, sustainable farming, nuclear
        power, artificial intelligence, social media, online privacy, remote work, advertising,
        philosophy, ethics, logic, stoicism, Buddhism, Christianity, Islam, Hinduism, mythology,
        psychology, sociology, economics, geometry, algebra, calculus, probability, statistics,
        an average, a fraction, a percentage, a prime number, a right triangle, the number pi""",
    ),
    (
        """How can I {}?|What is the best way to {}?|Give me five tips to {}.
        I want to {}. Where do I begin?|Why is it hard to {}?|Make a checklist that helps me {}.
        Give me advice: I need to {} this week.""",
        """save water at home, reduce waste, lose weight, eat less sugar, drink more water,
        stop smoking, calm down before an exam, make new friends, keep in touch with old friends,
        apologise to a friend, help a sad friend, deal with a difficult colleague, ask for a raise,
        prepare for an interview, write a good CV, organise my desk, clean my kitchen, plan a
        birthday party, choose a present for my father, teach my dog to sit, introduce a new cat
        to my home, grow tomatoes, remove a coffee stain, fix a leaking tap, paint a room, move to
        a new city, find a flat, save for a holiday, plan a road trip, stay safe online, make a
        strong password, back up my photos, focus while working, stop wasting time, remember what
        I read, improve my handwriting, improve my vocabulary, practise English, learn Spanish
        words, start a blog, start a small business, sell old furniture, take better photos, stay
        healthy in winter, exercise at home, stretch after running, treat a small burn, avoid
        sunburn, be more patient, be more creative, speak clearly, make a decision""",
    ),
    (
        """What is the difference between {}?|Compare {}.|Which is better: {}?
        What do {} have in common?|Explain to a child how to tell {} apart.""",
        """tea and coffee, butter and margarine, a crocodile and an alligator, a frog and a toad,
        a moth and a butterfly, a bee and a wasp, a rabbit and a hare, a dolphin and a shark,
        a planet and a star, a lake and a sea, a city and a village, a novel and a short story,
        a simile and a metaphor, a noun and a verb, speed and velocity, mass and weight, heat and
        temperature, an atom and a molecule, an acid and a base, a metal and a plastic, a mammal
        and a reptile, an artery and a vein, a cold and the flu, sugar and salt, baking soda and
        baking powder, a debit card and a credit card, a job and a career, renting and buying
        a home, trains and planes, books and films, e-books and printed books, Mac and Windows,
        Python and Java, a list and a tuple, RAM and a hard drive, wifi and Bluetooth, a phone
        call and a message, summer and winter, the country and the city, gold and silver""",
    ),
)


def kinds() -> list[tuple[list[str], list[str]]]:
    """Give the patterns and the topics of each kind."""
    return [
        (
            [line.strip() for line in patterns.replace("\n", "|").split("|")],
            " ".join(topics.split()).split(", "),
        )
        for patterns, topics in KINDS
    ]


def main() -> None:
    """Write every pattern with every topic of its kind, in a drawn order."""
    asked = (Path(__file__).parent / "prompts.txt").read_text().lower()
    draw = random.Random(SEED)
    made: dict[str, None] = {}
    for patterns, topics in kinds():
        for topic in topics:
            if topic.lower() in asked:
                continue
            for pattern in patterns:
                others = draw.sample(topics, pattern.count("{}") - 1)
                question = pattern.format(topic, *others)
                made[question[0].upper() + question[1:]] = None
    questions = list(made)
    draw.shuffle(questions)
    Path(sys.argv[1]).write_text("\n".join(questions) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
