"""The Robot Gardener: Pip the robot learns in three tests what a flower needs, and takes one to the moon.

Made for questions of order (desert, mountain, meadow), count (three tests, the blue drone brings water four times),
retrieval (the rules on the board), cause (why each test fails) and goal (what the flower is for).
"""

from operators.demo.films.script import FilmScript, Shot
from operators.demo.films.stories.notation import (
    DISSOLVE,
    FADE,
    SLOW_DISSOLVE,
    beside,
    character,
    counter,
    event,
    flash,
    leftward,
    moment,
    quick_pan,
    rightward,
    sign,
    story,
    thing,
    title_card,
)
from schemas.base import Region
from schemas.tables import VideoCategory

_pip = character("Pip the robot", "robot", "teal")
_lee = character("Doctor Lee", "person", "white")
_mia = character("Mia", "person", "pink")


def robot_gardener() -> FilmScript:
    """The film's script, 5 to 6 minutes long."""
    return FilmScript(
        film_id="the_robot_gardener",
        title="The Robot Gardener",
        category=VideoCategory.SCIENCE_TECHNOLOGY,
        synopsis=(
            "Mia's mother works on the moon and misses flowers. Doctor Lee builds the robot Pip to grow one. Test "
            "1 in the desert fails because there is no water, test 2 on the mountain fails because it is too cold. "
            "In the library Pip reads that a flower needs water, light and warmth. Test 3 in the meadow works: a "
            "blue drone brings water and a pink flower opens. Pip rides the train to the launch site and the "
            "rocket carries the flower to the moon."
        ),
        shots=(*_plan(), *_first_test(), *_second_test(), *_reading(), *_third_test(), *_moon()),
    )


def _plan() -> tuple[Shot, ...]:
    roll = ((0.0, -40.0, 345.0), (5.0, 250.0, 345.0))
    return (
        title_card("A STORY ABOUT SCIENCE", "THE ROBOT GARDENER", seconds=6.0),
        Shot(
            scene="street",
            seconds=10.0,
            enter=FADE,
            camera=110,
            objects=(_mia((0, 240, 284)), thing("black cat", (0, 320, 284)), thing("yellow car", *leftward(3, 8, 345))),
            texts=(story("MIA'S MOTHER IS ON THE MOON", 1.2, 5.2), story("SHE MISSES FLOWERS", 6.0, 9.4)),
            events=(event("a yellow car passes", "yellow car", cue="beep"),),
        ),
        Shot(
            scene="laboratory",
            seconds=12.0,
            enter=DISSOLVE,
            ambience="bright",
            objects=(_lee((0, 470, 345)), _pip(*roll), _mia((0, 560, 345))),
            texts=(story("DOCTOR LEE BUILDS A ROBOT", 1.4, 5.8), story("PIP MUST GROW ONE FLOWER", 6.6, 11.4)),
            events=(moment("Pip meets Doctor Lee", 5.0, 12.0, "Pip the robot", "Doctor Lee", "Mia", cue="beep"),),
        ),
        Shot(
            scene="laboratory",
            seconds=9.0,
            zoom=1.6,
            focus=(380, 240),
            objects=(_pip((0, 330, 345)), thing("pink flower", (0, 440, 216))),
            texts=(
                story("THIS IS WHAT A FLOWER LOOKS LIKE", 1.0, 5.0),
                sign("PLAN: 3 TESTS", 5.6, 8.2, Region.BOTTOM_LEFT),
            ),
            events=(event("Pip studies the flower", "pink flower", "Pip the robot", cue="chime"),),
        ),
    )


def _first_test() -> tuple[Shot, ...]:
    roll = ((0.0, -40.0, 344.0), (6.0, 320.0, 344.0))
    return (
        Shot(
            scene="market",
            seconds=11.0,
            camera=60,
            ambience="crowd",
            objects=(
                _lee((0, -40, 345), (5, 300, 345)),
                _pip((1, -60, 345), (7, 220, 345)),
                character("the seed seller", "person", "orange")((0, 420, 345)),
                thing("red bicycle", *leftward(4, 10, 356)),
            ),
            texts=(story("THEY BUY THREE SEEDS", 1.2, 5.4), sign("SEEDS", 3.0, 10.0, Region.RIGHT)),
            events=(moment("Doctor Lee buys three seeds", 5.0, 10.0, "Doctor Lee", "the seed seller", cue="bell"),),
        ),
        title_card("TEST 1: THE DESERT", seconds=4.4),
        Shot(
            scene="desert",
            seconds=11.0,
            enter=FADE,
            drift=70,
            ambience="wind",
            objects=(
                _pip(*roll),
                thing("brown parcel", *beside(roll, 44)),
                thing("orange bird", *leftward(3, 10, 110)),
            ),
            texts=(story("PIP CARRIES SEEDS INTO THE HEAT", 1.2, 5.8), counter("DAY 1", 6.4, 10.6)),
            events=(event("Pip crosses the desert", "Pip the robot", "brown parcel"),),
        ),
        Shot(
            scene="desert",
            seconds=10.0,
            zoom=1.5,
            focus=(330, 230),
            camera=-80,
            ambience="wind",
            objects=(
                _pip((0, 250, 344)),
                thing("blue drone", (1, 700, 120), (4, 380, 200), (6, 380, 200), (9, 720, 110)),
            ),
            texts=(story("THE DRONE BRINGS A LITTLE WATER", 1.4, 5.8), counter("DAY 2", 6.4, 9.6)),
            events=(event("the blue drone brings water", "blue drone", "Pip the robot", cue="buzz"),),
        ),
        Shot(
            scene="desert",
            seconds=9.0,
            zoom=1.9,
            focus=(310, 290),
            light="dusk",
            ambience="sad",
            objects=(_pip((0, 260, 344)), thing("brown flower", (0, 360, 344), scale=0.6)),
            texts=(story("IT DRIES OUT. TEST 1 FAILED", 1.2, 5.4), counter("TOO DRY", 5.6, 8.2, Region.RIGHT)),
            events=(moment("a test fails", 1.2, 5.6, "brown flower", "Pip the robot", cue="thump"),),
        ),
        Shot(
            scene="desert",
            seconds=7.0,
            camera=150,
            light="night",
            ambience="sad",
            objects=(_pip(*leftward(0.4, 6, 344)),),
            texts=(story("PIP ROLLS AWAY IN THE DARK", 1.0, 5.6),),
            events=(event("Pip leaves the desert", "Pip the robot"),),
            distractors=(flash(3.0),),
        ),
    )


def _second_test() -> tuple[Shot, ...]:
    roll = ((1.0, -40.0, 346.0), (7.0, 300.0, 346.0))
    return (
        title_card("TEST 2: THE MOUNTAIN", seconds=4.4),
        Shot(
            scene="mountain",
            seconds=10.0,
            enter=FADE,
            camera=-60,
            ambience="wind",
            objects=(
                _pip(*roll),
                thing("brown parcel", *beside(roll, 44)),
                thing("red balloon", (0, 560, 190), (10, 440, 130), scale=0.8),
            ),
            texts=(story("UP HERE THERE IS PLENTY OF SNOW", 1.2, 5.8),),
            events=(event("Pip climbs the mountain", "Pip the robot", "brown parcel"),),
        ),
        Shot(
            scene="mountain",
            seconds=9.0,
            zoom=1.5,
            focus=(280, 230),
            ambience="wind",
            objects=(
                _pip((0, 300, 346)),
                thing("blue drone", (0, -60, 100), (3, 250, 226), (5, 250, 226), (8, -80, 90)),
            ),
            texts=(story("THE WATER TURNS TO ICE", 3.2, 7.8),),
            events=(event("the blue drone brings water", "blue drone", "Pip the robot", cue="buzz"),),
        ),
        Shot(
            scene="mountain",
            seconds=9.0,
            zoom=1.9,
            focus=(310, 290),
            light="night",
            ambience="sad",
            objects=(_pip((0, 260, 346)), thing("grey flower", (0, 360, 346), scale=0.6)),
            texts=(story("IT FREEZES. TEST 2 FAILED", 1.2, 5.6), counter("TOO COLD", 5.6, 8.2, Region.LEFT)),
            events=(moment("a test fails", 1.2, 5.6, "grey flower", "Pip the robot", cue="thump"),),
        ),
        Shot(
            scene="workshop",
            seconds=11.0,
            enter=SLOW_DISSOLVE,
            objects=(
                _pip((0, 330, 345)),
                _lee((1, 700, 345), (5, 430, 345)),
                thing("blue key", (0, 260, 230), scale=0.8),
            ),
            texts=(story("DOCTOR LEE REPAIRS PIP'S WHEEL", 2.0, 6.4), story("DO NOT GIVE UP, PIP!", 7.0, 10.4)),
            events=(moment("Doctor Lee repairs Pip", 5.0, 11.0, "Doctor Lee", "Pip the robot", cue="chime"),),
        ),
    )


def _reading() -> tuple[Shot, ...]:
    return (
        Shot(
            scene="forest",
            seconds=9.0,
            enter=DISSOLVE,
            camera=-60,
            ambience="wind",
            objects=(
                _pip((0, -40, 340), (8, 440, 336)),
                thing("yellow bird", (0, 520, 130), (4, 520, 130), (8, 720, 80)),
                thing("orange flower", (0, 470, 300), scale=0.5),
            ),
            texts=(story("HOW DO WILD FLOWERS DO IT?", 1.2, 6.0),),
            events=(event("Pip rolls through the forest", "Pip the robot"),),
        ),
        title_card("PIP GOES TO THE LIBRARY", seconds=4.4),
        Shot(
            scene="library",
            seconds=10.0,
            enter=FADE,
            drift=80,
            objects=(_pip((0, -40, 345), (7, 440, 345)), thing("orange cat", (0, 540, 345))),
            texts=(story("THERE MUST BE AN ANSWER HERE", 1.4, 5.8), sign("QUIET PLEASE", 6.2, 9.6, Region.BOTTOM_LEFT)),
            events=(event("Pip enters the library", "Pip the robot"),),
        ),
        Shot(
            scene="library",
            seconds=14.0,
            camera=-140,
            objects=(_pip((0, 140, 345)), _mia((2, 700, 345), (6, 500, 345))),
            texts=(
                sign("RULE 1: WATER", 1.0, 9.0, Region.TOP),
                sign("RULE 2: LIGHT", 3.0, 11.0, Region.CENTER),
                sign("RULE 3: WARMTH", 5.0, 12.8, Region.BOTTOM),
            ),
            events=(moment("Pip learns the three rules", 1.0, 12.8, "Pip the robot", "Mia", cue="bell"),),
        ),
        Shot(
            scene="kitchen",
            seconds=10.0,
            enter=DISSOLVE,
            camera=-30,
            ambience="bright",
            objects=(_mia((0, 300, 345)), thing("yellow lamp", (0, 470, 206)), _pip((1, -50, 345), (5, 200, 345))),
            texts=(story("MIA KNOWS A WARM PLACE", 1.4, 5.0), story("THE MEADOW BEHIND THE BARN", 5.6, 9.2)),
            events=(moment("Mia tells Pip about the meadow", 5.0, 9.2, "Mia", "Pip the robot"),),
        ),
    )


def _third_test() -> tuple[Shot, ...]:
    roll = ((0.0, -40.0, 345.0), (6.0, 300.0, 345.0))
    return (
        title_card("TEST 3: THE MEADOW", seconds=4.4),
        Shot(
            scene="meadow",
            seconds=11.0,
            enter=FADE,
            camera=-100,
            drift=120,
            ambience="bright",
            objects=(_pip(*roll), _mia(*beside(roll, -80)), thing("brown parcel", *beside(roll, 44))),
            texts=(story("PIP PLANTS THE LAST SEED", 1.4, 5.8), counter("DAY 5", 6.4, 10.6)),
            events=(event("Pip plants the last seed", "Pip the robot", "Mia", "brown parcel"),),
        ),
        Shot(
            scene="meadow",
            seconds=9.0,
            zoom=1.5,
            focus=(330, 230),
            camera=30,
            ambience="bright",
            objects=(
                _pip((0, 250, 345)),
                thing("blue drone", (0, 720, 90), (3, 380, 210), (5, 380, 210), (8, -80, 80)),
                thing("green flower", (0, 380, 345), scale=0.5),
            ),
            texts=(story("WATER FROM THE BLUE DRONE AGAIN", 1.2, 6.0),),
            events=(event("the blue drone brings water", "blue drone", "Pip the robot", cue="buzz"),),
            distractors=(quick_pan(6.6, 60),),
        ),
        Shot(
            scene="meadow",
            seconds=8.0,
            zoom=1.8,
            focus=(360, 280),
            light="night",
            camera=-40,
            objects=(
                _pip((0, 250, 345)),
                thing("yellow lamp", (0, 460, 300)),
                thing("green flower", (0, 380, 345), scale=0.7),
            ),
            texts=(story("A LAMP KEEPS THE SEED WARM", 1.0, 5.0), counter("DAY 6", 4.6, 7.6, Region.BOTTOM_RIGHT)),
            events=(event("a lamp warms the seed", "yellow lamp", "green flower"),),
        ),
        Shot(
            scene="meadow",
            seconds=12.0,
            enter=DISSOLVE,
            camera=-40,
            ambience="bright",
            objects=(
                _pip((0, 250, 345)),
                _mia((0, 520, 345)),
                thing("pink flower", (0, 380, 345), scale=1.2),
                thing("blue drone", *rightward(3, 10, 120)),
            ),
            texts=(story("IT BLOOMS! TEST 3 WORKED", 1.4, 6.0), counter("DAY 7", 7.0, 11.4)),
            events=(
                moment("a test works", 1.4, 6.0, "pink flower", "Pip the robot", "Mia", cue="chime"),
                event("the blue drone brings water", "blue drone", cue="buzz"),
            ),
        ),
    )


def _moon() -> tuple[Shot, ...]:
    roll = ((0.0, -50.0, 276.0), (4.0, 240.0, 276.0))
    land = ((0.0, 420.0, -20.0), (5.0, 420.0, 320.0))
    return (
        Shot(
            scene="workshop",
            seconds=11.0,
            camera=-60,
            ambience="bright",
            objects=(
                _lee((0, 300, 345)),
                _pip((0, 180, 345)),
                thing("pink flower", (0, 400, 233), scale=0.7),
                thing("white rocket", (0, 500, 345), scale=0.9),
            ),
            texts=(story("THE FLOWER GETS ITS OWN ROCKET", 1.0, 5.4), counter("WEIGHT 9 KG", 6.0, 10.2, Region.LEFT)),
            events=(moment("the rocket is prepared", 1.0, 10.2, "white rocket", "Doctor Lee", "pink flower"),),
        ),
        title_card("THE LONG WAY TO THE MOON", seconds=4.4),
        Shot(
            scene="station",
            seconds=11.0,
            enter=FADE,
            ambience="engine",
            objects=(
                _pip(*roll),
                thing("pink flower", *beside(roll, 46), scale=0.7),
                thing("red train", (4, 800, 345), (7, 320, 345), (8.4, 320, 345), (11, -120, 345)),
            ),
            texts=(story("THE RED TRAIN GOES TO THE ROCKET", 1.4, 6.0), sign("PLATFORM 3", 6.6, 10.6, Region.RIGHT)),
            events=(event("the red train arrives", "red train", "Pip the robot", cue="horn"),),
        ),
        Shot(
            scene="beach",
            seconds=10.0,
            camera=20,
            ambience="tense",
            objects=(
                thing("white rocket", (0, 380, 300), (4, 380, 300), (9, 380, -40)),
                _mia((0, 180, 345)),
                _lee((0, 240, 345)),
            ),
            texts=(
                counter("3 2 1 LIFT OFF!", 1.2, 5.0, Region.TOP_LEFT),
                story("GOOD LUCK, LITTLE FLOWER", 5.4, 9.4, Region.BOTTOM),
            ),
            events=(moment("the rocket takes off", 4.0, 9.0, "white rocket", "Mia", "Doctor Lee", cue="horn"),),
            distractors=(flash(4.0),),
        ),
        Shot(
            scene="space",
            seconds=10.0,
            enter=DISSOLVE,
            ambience="silence",
            objects=(thing("white rocket", *land),),
            texts=(story("IT LANDS ON THE QUIET MOON", 1.4, 5.8, Region.TOP),),
            events=(moment("the rocket lands", 0.0, 5.0, "white rocket", cue="thump"),),
        ),
        Shot(
            scene="street",
            seconds=10.0,
            camera=80,
            ambience="calm",
            objects=(
                _mia((0, 250, 284)),
                thing("black cat", (0, 330, 284)),
                thing("yellow car", *rightward(4, 9, 345)),
            ),
            texts=(story("MIA WATCHES THE MOON FROM HOME", 1.2, 6.0),),
            events=(event("a yellow car passes", "yellow car", cue="beep"),),
        ),
        Shot(
            scene="space",
            seconds=11.0,
            camera=-120,
            objects=(
                thing("white rocket", (0, 420, 320)),
                thing("pink flower", (0, 250, 336)),
                character("Mia's mother", "person", "orange")((1, -60, 336), (6, 180, 336)),
            ),
            texts=(story("MOTHER SMELLS A FLOWER AT LAST", 5.2, 10.0),),
            events=(moment("Mia's mother gets the flower", 6.0, 11.0, "Mia's mother", "pink flower", cue="chime"),),
        ),
        Shot(
            scene="laboratory",
            seconds=10.0,
            enter=SLOW_DISSOLVE,
            camera=40,
            ambience="bright",
            objects=(_lee((0, 470, 345)), _mia((0, 380, 345)), _pip((1, -50, 345), (5, 270, 345))),
            texts=(story("EVERYONE THANKS PIP", 1.8, 5.4), story("NOW HE WILL GROW A GARDEN", 6.0, 9.2)),
            events=(moment("Pip comes back", 1.0, 5.0, "Pip the robot", "Mia", "Doctor Lee", cue="beep"),),
        ),
        title_card("THE END", seconds=5.0),
    )
