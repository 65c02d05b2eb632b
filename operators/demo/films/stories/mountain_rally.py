"""The Mountain Rally: three teams, four stages, and a driver who gives up first place to help.

Made for questions of order (which stage first), count (three laps, a white plane four times), retrieval (points and
signs), cause (the flat tyre, the sand) and goal (why Ada drives).
"""

from operators.demo.films.script import FilmScript, Shot
from operators.demo.films.stories.notation import (
    DISSOLVE,
    FADE,
    SLOW_DISSOLVE,
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

_ada = character("Ada", "person", "red")
_ben = character("Ben", "person", "blue")
_olga = character("Olga", "person", "green")


def mountain_rally() -> FilmScript:
    """The film's script, 5 to 6 minutes long."""
    return FilmScript(
        film_id="the_mountain_rally",
        title="The Mountain Rally",
        category=VideoCategory.SPORTS,
        synopsis=(
            "Ada drives the red car, Ben the blue car and Olga the green truck. Ada needs the gold cup's prize to "
            "repair the roof of her school. In the desert the red car leads until a nail flattens its tyre, so "
            "blue wins. In the mountains a snow slide stops the blue car and red wins. At the beach the green "
            "truck sinks into the sand; Ada turns back and pulls it out, so blue wins again. In the stadium Olga, "
            "in thanks, lets Ada pass in the third lap. Red wins the cup, and the school gets its new roof."
        ),
        shots=(*_start(), *_desert(), *_mountain(), *_beach(), *_final()),
    )


def _start() -> tuple[Shot, ...]:
    return (
        title_card("FOUR STAGES, THREE TEAMS", "THE MOUNTAIN RALLY", seconds=6.0, ambience="bright"),
        Shot(
            scene="meadow",
            seconds=11.0,
            enter=FADE,
            ambience="bright",
            objects=(
                _ada((0, -40, 340), (5, 260, 340)),
                thing("red car", (0, 400, 345)),
                thing("brown dog", (0, 520, 345)),
            ),
            texts=(story("ADA LOVES HER RED CAR", 1.2, 5.2), story("HER SCHOOL NEEDS A NEW ROOF", 6.0, 10.4)),
            events=(moment("Ada walks to the red car", 1.0, 5.0, "Ada", "red car"),),
        ),
        Shot(
            scene="library",
            seconds=9.0,
            enter=DISSOLVE,
            camera=-60,
            ambience="calm",
            objects=(_ada((0, 260, 345)), thing("yellow cup", (0, 420, 250))),
            texts=(story("THE WINNER GETS THE GOLD CUP", 1.4, 5.0), story("AND MONEY FOR A ROOF", 5.6, 8.6)),
            events=(event("the gold cup is shown", "yellow cup", "Ada", cue="chime"),),
        ),
        Shot(
            scene="harbour",
            seconds=11.0,
            camera=-50,
            ambience="sea",
            objects=(
                thing("purple ferry", *rightward(1, 10, 252)),
                thing("blue car", *leftward(1, 6, 340)),
                thing("green truck", *leftward(3.6, 10, 344)),
            ),
            texts=(story("BEN AND OLGA COME BY SHIP", 1.4, 6.0),),
            events=(event("the rivals arrive", "blue car", "green truck", cue="horn"),),
        ),
        Shot(
            scene="stadium",
            seconds=12.0,
            drift=60,
            ambience="crowd",
            objects=(
                thing("red car", (0, 180, 276)),
                thing("blue car", (0, 330, 312)),
                thing("green truck", (0, 500, 350)),
                thing("white plane", *rightward(5, 10, 96)),
            ),
            texts=(story("RED, BLUE AND GREEN LINE UP", 1.2, 5.4, Region.TOP), sign("START", 6.0, 11.4, Region.LEFT)),
            events=(event("the white plane flies over", "white plane"),),
            distractors=(flash(3.0), flash(8.4)),
        ),
        Shot(
            scene="stadium",
            seconds=7.0,
            zoom=1.5,
            focus=(320, 270),
            camera=-120,
            ambience="engine",
            objects=(
                thing("red car", (0, 100, 276), (1.6, 100, 276), (5, 820, 276)),
                thing("blue car", (0, 60, 312), (1.6, 60, 312), (5.6, 820, 312)),
                thing("green truck", (0, 20, 350), (1.6, 20, 350), (6.4, 820, 350)),
            ),
            texts=(counter("3 2 1 GO!", 1.2, 4.4, Region.TOP_LEFT),),
            events=(moment("the rally starts", 1.6, 6.4, "red car", "blue car", "green truck", cue="whistle"),),
        ),
    )


def _desert() -> tuple[Shot, ...]:
    return (
        title_card("STAGE 1: THE DESERT", seconds=4.4, ambience="tense"),
        Shot(
            scene="desert",
            seconds=10.0,
            enter=FADE,
            ambience="engine",
            objects=(
                thing("red car", *rightward(1, 6, 340)),
                thing("blue car", *rightward(3, 8.4, 340)),
                thing("green truck", *rightward(4.4, 10, 344)),
            ),
            texts=(story("RED LEADS IN THE HOT SAND", 1.2, 5.6), sign("SLOW! CAMELS", 2.0, 9.0, Region.LEFT)),
            events=(event("the red car leads", "red car", "blue car", "green truck"),),
        ),
        Shot(
            scene="desert",
            seconds=10.0,
            zoom=1.6,
            focus=(360, 250),
            camera=130,
            drift=-60,
            ambience="wind",
            objects=(thing("red car", (0, -60, 340), (4, 420, 340)), thing("orange bird", *leftward(2, 9, 190))),
            texts=(story("A NAIL! THE TYRE IS FLAT", 4.2, 8.2),),
            events=(moment("the red car gets a flat tyre", 4.0, 9.0, "red car", cue="thump"),),
            distractors=(quick_pan(7.0, -40),),
        ),
        Shot(
            scene="desert",
            seconds=11.0,
            camera=40,
            ambience="sad",
            objects=(
                thing("red car", (0, 420, 345)),
                _ada((0, 330, 345)),
                thing("blue car", *rightward(2, 6, 316)),
                thing("green truck", *rightward(5, 10, 316)),
            ),
            texts=(story("THE OTHERS DRIVE PAST ADA", 1.2, 5.8), story("SHE CHANGES THE WHEEL", 6.4, 10.4)),
            events=(event("the blue car overtakes", "blue car"), event("the green truck overtakes", "green truck")),
        ),
        Shot(
            scene="desert",
            seconds=9.0,
            zoom=1.4,
            focus=(330, 220),
            light="dusk",
            camera=-100,
            ambience="crowd",
            objects=(
                thing("blue car", (0, -60, 340), (4, 340, 340)),
                _ben((4.4, 420, 344)),
                thing("white plane", *leftward(3, 8, 150)),
            ),
            texts=(story("BLUE WINS STAGE 1", 3.2, 6.4), counter("RED 2, BLUE 5, GREEN 3", 5.0, 8.2, Region.CENTER)),
            events=(
                moment("the blue car wins a stage", 4.0, 6.0, "blue car", cue="bell"),
                event("the white plane flies over", "white plane"),
            ),
        ),
    )


def _mountain() -> tuple[Shot, ...]:
    return (
        title_card("STAGE 2: THE MOUNTAIN", seconds=4.4, ambience="tense"),
        Shot(
            scene="mountain",
            seconds=11.0,
            enter=FADE,
            drift=100,
            ambience="wind",
            objects=(
                thing("blue car", *rightward(1, 6, 344)),
                thing("red car", *rightward(3, 7.6, 344)),
                thing("green truck", *rightward(5, 11, 346)),
            ),
            texts=(story("SNOW FALLS ON THE PASS", 1.4, 5.4), sign("ICE ON ROAD", 6.0, 10.6, Region.TOP_LEFT)),
            events=(event("the blue car leads", "blue car", "red car", "green truck"),),
        ),
        Shot(
            scene="mountain",
            seconds=9.0,
            zoom=1.6,
            focus=(400, 260),
            camera=-130,
            ambience="tense",
            objects=(
                thing("blue car", (0, -80, 344), (3, 330, 344)),
                thing("white ball", (1, 520, 120), (3, 420, 346), scale=2.6),
                thing("grey ball", (1.4, 560, 110), (3.4, 480, 346), scale=1.6),
            ),
            texts=(story("A SNOW SLIDE STOPS BLUE", 3.4, 7.8),),
            events=(moment("a snow slide blocks the blue car", 3.0, 8.0, "blue car", "white ball", cue="thump"),),
            distractors=(flash(2.6),),
        ),
        Shot(
            scene="forest",
            seconds=10.0,
            enter=DISSOLVE,
            camera=-40,
            ambience="engine",
            objects=(
                thing("red car", *rightward(2, 7, 340)),
                thing("yellow bird", (0, 460, 150), (3, 520, 130), (8, 720, 60)),
            ),
            texts=(story("ADA KNOWS THE FOREST ROAD", 1.4, 5.8), sign("SUMMIT 9 KM", 4.0, 9.0, Region.BOTTOM_LEFT)),
            events=(event("the red car takes the forest road", "red car", cue="beep"),),
        ),
        Shot(
            scene="mountain",
            seconds=10.0,
            camera=150,
            ambience="crowd",
            objects=(
                thing("red car", (0, -60, 344), (4, 300, 344)),
                _ada((4.4, 390, 346)),
                thing("white plane", *rightward(4, 9, 100)),
            ),
            texts=(story("RED WINS STAGE 2", 3.4, 6.4), counter("RED 7, BLUE 6, GREEN 6", 5.6, 9.2, Region.CENTER)),
            events=(
                moment("the red car wins a stage", 4.0, 6.0, "red car", "Ada", cue="bell"),
                event("the white plane flies over", "white plane"),
            ),
        ),
        Shot(
            scene="market",
            seconds=9.0,
            camera=-100,
            ambience="crowd",
            objects=(
                character("a boy", "person", "yellow")((0, 250, 345)),
                character("a girl", "person", "teal")((0, 320, 345)),
                thing("pink bicycle", *leftward(2, 8, 352)),
            ),
            texts=(story("PUPILS LISTEN TO THE RADIO", 1.2, 5.2), sign("ADA, WIN!", 5.2, 8.0, Region.RIGHT)),
            events=(event("a pink bicycle passes", "pink bicycle", cue="bell"),),
        ),
        Shot(
            scene="workshop",
            seconds=11.0,
            enter=SLOW_DISSOLVE,
            ambience="calm",
            objects=(thing("red car", (0, 420, 345)), _ada((0, 300, 345)), _olga((2, -40, 345), (6, 210, 345))),
            texts=(story("AT NIGHT OLGA LENDS ADA TOOLS", 2.0, 6.0), story("RIVALS CAN BE FRIENDS", 6.8, 10.4)),
            events=(moment("Olga helps Ada in the workshop", 6.0, 11.0, "Olga", "Ada", "red car"),),
        ),
    )


def _beach() -> tuple[Shot, ...]:
    back = ((0.0, 800.0, 344.0), (5.0, 420.0, 344.0))
    return (
        title_card("STAGE 3: THE BEACH", seconds=4.4, ambience="tense"),
        Shot(
            scene="beach",
            seconds=10.0,
            enter=FADE,
            ambience="sea",
            objects=(
                thing("red car", *rightward(1, 6, 340)),
                thing("green truck", (3, -90, 344), (7, 300, 344)),
                thing("white boat", *leftward(0, 10, 228)),
            ),
            texts=(story("RED IS FIRST AT THE BEACH", 1.4, 5.8),),
            events=(event("the red car leads", "red car", "green truck"),),
        ),
        Shot(
            scene="beach",
            seconds=9.0,
            zoom=1.6,
            focus=(320, 260),
            camera=80,
            ambience="sad",
            objects=(thing("green truck", (0, 300, 344), (4, 300, 358)), _olga((2, 420, 345))),
            texts=(story("THE GREEN TRUCK SINKS IN SAND", 1.2, 5.4), story("OLGA CALLS FOR HELP", 5.6, 8.2)),
            events=(moment("the green truck sinks", 0.0, 4.0, "green truck", "Olga", cue="buzz"),),
        ),
        Shot(
            scene="beach",
            seconds=12.0,
            camera=20,
            ambience="bright",
            objects=(
                thing("green truck", (0, 220, 352), (7, 220, 344), (12, 90, 344)),
                thing("red car", *back, (7, 420, 344), (12, 290, 344)),
                _olga((0, 330, 316)),
            ),
            texts=(story("ADA TURNS BACK TO HELP", 1.2, 5.6), story("THE RED CAR PULLS IT OUT", 6.4, 11.4)),
            events=(
                moment("Ada turns back", 0.0, 5.0, "red car"),
                moment("the red car pulls the truck out", 7.0, 12.0, "green truck", "red car", cue="horn"),
            ),
        ),
        Shot(
            scene="beach",
            seconds=9.0,
            light="dusk",
            camera=-120,
            ambience="crowd",
            objects=(
                thing("blue car", (0, -60, 340), (4, 380, 340)),
                _ben((4.4, 470, 344)),
                thing("white plane", *leftward(3, 8, 110)),
            ),
            texts=(story("BLUE WINS STAGE 3", 3.2, 6.2), counter("RED 8, BLUE 11, GREEN 7", 5.0, 8.2, Region.CENTER)),
            events=(
                moment("the blue car wins a stage", 4.0, 6.0, "blue car", cue="bell"),
                event("the white plane flies over", "white plane"),
            ),
        ),
        Shot(
            scene="street",
            seconds=10.0,
            camera=-70,
            ambience="calm",
            objects=(thing("blue car", (0, 430, 345)), _ben((0, 330, 345)), thing("white cat", *rightward(3, 10, 284))),
            texts=(story("BEN POLISHES HIS CAR ALL NIGHT", 1.2, 5.6), story("HE LEADS BY THREE POINTS", 6.2, 9.4)),
            events=(moment("Ben polishes the blue car", 1.2, 5.6, "Ben", "blue car"),),
        ),
        Shot(
            scene="station",
            seconds=10.0,
            enter=DISSOLVE,
            ambience="engine",
            objects=(thing("green train", *rightward(1, 9, 345)), _ada((0, 200, 274)), _olga((0, 280, 274))),
            texts=(story("THE TEAMS RIDE TO THE CITY", 1.4, 5.8), sign("TRAIN 12", 3.0, 9.0, Region.RIGHT)),
            events=(event("the green train arrives", "green train", cue="horn"),),
        ),
    )


def _lap(
    number: int, seconds: float, order: tuple[str, str, str], line: str, *, camera: int = 0, zoom: float = 1
) -> Shot:
    """One lap past the stand. `order` gives the vehicles that pass first, second and third."""
    lanes = {"red car": 276.0, "blue car": 312.0, "green truck": 350.0}
    passing = tuple(
        thing(name, *rightward(0.6 + rank, seconds - 3 + rank, lanes[name])) for rank, name in enumerate(order)
    )
    return Shot(
        scene="stadium",
        seconds=seconds,
        camera=camera,
        zoom=zoom,
        focus=(320, 260),
        ambience="engine",
        objects=passing,
        texts=(counter(f"LAP {number}", 0.4, seconds - 1.6), story(line, 1.0, seconds - 2.0, Region.TOP_LEFT)),
        events=(event(f"the {order[0]} leads a lap", *order, cue="beep"),),
    )


def _final() -> tuple[Shot, ...]:
    return (
        title_card("STAGE 4: THE STADIUM", seconds=4.4, ambience="tense"),
        Shot(
            scene="stadium",
            seconds=8.0,
            enter=FADE,
            camera=60,
            ambience="crowd",
            objects=(
                thing("blue car", (0, 330, 276)),
                thing("green truck", (0, 200, 312)),
                thing("red car", (0, 120, 350)),
            ),
            texts=(story("THREE LAPS DECIDE IT ALL", 1.4, 6.4),),
            events=(moment("the final is announced", 1.4, 6.4, "blue car", "green truck", "red car", cue="whistle"),),
        ),
        Shot(
            scene="kitchen",
            seconds=8.0,
            camera=-40,
            ambience="tense",
            objects=(
                character("a boy", "person", "yellow")((0, 300, 345)),
                thing("orange cat", (1, 700, 345), (7, 420, 345)),
            ),
            texts=(story("AT HOME NOBODY DARES TO BREATHE", 1.0, 5.6),),
            events=(event("a boy waits for the result", "a boy"),),
        ),
        _lap(1, 10.0, ("blue car", "green truck", "red car"), "BLUE IS IN FRONT", camera=-80),
        _lap(2, 10.0, ("green truck", "red car", "blue car"), "GREEN TAKES THE LEAD", zoom=1.5),
        _lap(3, 10.0, ("red car", "green truck", "blue car"), "OLGA LETS ADA PASS", camera=80),
        Shot(
            scene="stadium",
            seconds=12.0,
            zoom=1.5,
            focus=(320, 230),
            ambience="crowd",
            objects=(
                _ada((0, 320, 300)),
                _ben((0, 420, 320)),
                _olga((0, 220, 320)),
                thing("yellow cup", (0, 320, 200), (2, 320, 216)),
                thing("red balloon", (2, 140, 420), (11, 170, 140), scale=0.8),
            ),
            texts=(
                story("ADA WINS THE GOLD CUP", 1.4, 5.8),
                counter("RED 14, BLUE 13, GREEN 11", 6.4, 11.0, Region.BOTTOM),
            ),
            events=(moment("Ada wins the gold cup", 1.0, 6.0, "Ada", "yellow cup", cue="chime"),),
            distractors=(flash(2.0), flash(4.0), flash(9.0)),
        ),
        Shot(
            scene="meadow",
            seconds=11.0,
            enter=SLOW_DISSOLVE,
            camera=40,
            ambience="bright",
            objects=(
                thing("red car", (1, -70, 345), (5, 260, 345)),
                _olga((0, 430, 345)),
                thing("brown dog", (0, 560, 345)),
            ),
            texts=(story("THE SCHOOL HAS A NEW ROOF", 1.8, 6.0), story("ALL FRIENDS CAME TO HELP", 6.8, 10.4)),
            events=(moment("the red car comes home", 1.0, 5.0, "red car", "Olga", "brown dog", cue="beep"),),
        ),
        title_card("THE END", seconds=5.0, ambience="bright"),
    )
