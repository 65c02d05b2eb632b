"""The Lost Parcel: Nora must bring a lamp to the lighthouse before the third ferry, loses it, and finds it again.

Made for questions of order (which place first), count (the blue ferry passes three times, the red car passes three
times), retrieval (what the notes say), cause (why the parcel is lost) and goal (what Nora wants).
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

_nora = character("Nora", "person", "red")
_grandmother = character("Grandmother", "person", "purple")
_baker = character("the baker", "person", "white")
_keeper = character("the keeper", "person", "blue")
_max = character("Max the dog", "dog", "brown")


def lost_parcel() -> FilmScript:
    """The film's script, 5 to 6 minutes long."""
    return FilmScript(
        film_id="the_lost_parcel",
        title="The Lost Parcel",
        category=VideoCategory.FILM,
        synopsis=(
            "The lighthouse lamp is broken and only three ferries sail today. Grandmother packs a new lamp and "
            "Nora must bring it to the keeper before the last ferry. At the market she puts the parcel on a red "
            "car to tie her shoe and the car drives off with it. Nora and her dog Max ask the baker, follow the "
            "car along the night street and lose it. In the forest a yellow bird leads them to the parcel, which "
            "had fallen off. They run back, catch the third ferry, and the lighthouse shines again."
        ),
        shots=(*_harbour(), *_market(), *_search(), *_forest(), *_return()),
    )


def _harbour() -> tuple[Shot, ...]:
    walk = ((0.0, -40.0, 345.0), (5.0, 250.0, 345.0))
    takes = ((0.0, 200.0, 345.0), (3.0, 330.0, 345.0), (6.0, 330.0, 345.0), (9.0, 700.0, 345.0))
    return (
        title_card("A STORY IN FIVE CHAPTERS", "THE LOST PARCEL", seconds=6.0),
        title_card("CHAPTER 1: THE HARBOUR", seconds=4.4),
        Shot(
            scene="harbour",
            seconds=12.0,
            enter=FADE,
            ambience="sea",
            objects=(_nora(*walk), thing("yellow bird", *leftward(4, 11, 120))),
            texts=(story("NORA LIVES BY THE SEA", 1.2, 5.2), story("THE LIGHTHOUSE LAMP IS BROKEN", 6.4, 11.0)),
            events=(event("the yellow bird flies by", "yellow bird"),),
        ),
        Shot(
            scene="harbour",
            seconds=13.0,
            zoom=1.5,
            focus=(320, 230),
            camera=-120,
            drift=100,
            ambience="sea",
            objects=(thing("blue ferry", *leftward(1, 11, 256)), _nora((0, 120, 345))),
            texts=(counter("FERRY 1", 2.0, 9.0), story("ONLY THREE FERRIES SAIL TODAY", 3.0, 8.0, Region.BOTTOM)),
            events=(event("the blue ferry passes", "blue ferry", cue="horn"),),
        ),
        Shot(
            scene="kitchen",
            seconds=10.0,
            enter=DISSOLVE,
            ambience="bright",
            objects=(
                _grandmother((0, 480, 345)),
                thing("brown parcel", (0, 430, 216)),
                _nora((1, -40, 345), (6, 300, 345)),
            ),
            texts=(story("GRANDMOTHER PACKS A NEW LAMP", 1.6, 6.4),),
            events=(moment("Grandmother packs the parcel", 1.6, 6.4, "Grandmother", "brown parcel"),),
        ),
        Shot(
            scene="kitchen",
            seconds=11.0,
            zoom=1.7,
            focus=(400, 250),
            camera=60,
            ambience="bright",
            objects=(_grandmother((0, 480, 345)), _nora(*takes), thing("brown parcel", *beside(takes, 26, -26))),
            texts=(
                story("TAKE IT TO THE KEEPER, NORA", 1.0, 4.6),
                story("BE THERE BEFORE THE LAST FERRY", 5.4, 10.0),
            ),
            events=(moment("Nora takes the parcel", 3.0, 9.0, "Nora", "brown parcel", cue="chime"),),
        ),
    )


def _market() -> tuple[Shot, ...]:
    walk = ((0.0, -40.0, 345.0), (7.0, 420.0, 345.0))
    drive = ((4.0, 380.0, 345.0), (8.0, 820.0, 345.0))
    return (
        Shot(
            scene="beach",
            seconds=9.0,
            enter=DISSOLVE,
            ambience="sea",
            objects=(
                _nora(*rightward(0, 8, 345)),
                _max(*rightward(1, 9, 348)),
                thing("green boat", *leftward(0, 9, 226)),
            ),
            texts=(story("MAX WANTS TO COME ALONG", 1.4, 6.0),),
            events=(event("Nora walks along the beach", "Nora", "Max the dog"),),
        ),
        title_card("CHAPTER 2: THE MARKET", seconds=4.4),
        Shot(
            scene="market",
            seconds=11.0,
            enter=FADE,
            ambience="crowd",
            objects=(
                _nora(*walk),
                thing("brown parcel", *beside(walk, 26, -26)),
                _max(*beside(walk, -70)),
                thing("green balloon", (0, 560, 180), (11, 520, 130), scale=0.8),
            ),
            texts=(
                story("NORA CROSSES THE BUSY MARKET", 1.2, 5.2),
                sign("FRESH APPLES", 3.0, 10.0, Region.BOTTOM_LEFT),
            ),
            events=(event("Nora walks through the market", "Nora", "Max the dog"),),
        ),
        Shot(
            scene="market",
            seconds=10.0,
            zoom=1.6,
            focus=(270, 250),
            camera=90,
            ambience="crowd",
            objects=(
                thing("red car", (0, 380, 345)),
                thing("brown parcel", (0, 200, 319), (3, 250, 319), (4, 372, 300)),
                _nora((0, 174, 345), (3, 224, 345)),
                _max((0, 110, 345), (3, 150, 345)),
            ),
            texts=(story("HER SHOE IS OPEN", 1.0, 4.0), story("THE PARCEL RESTS ON A RED CAR", 5.0, 9.4)),
            events=(moment("Nora puts the parcel on the red car", 3.0, 5.0, "brown parcel", "Nora", "red car"),),
        ),
        Shot(
            scene="market",
            seconds=9.0,
            camera=90,
            ambience="tense",
            objects=(
                thing("red car", *drive),
                thing("brown parcel", *beside(drive, -8, -45)),
                _nora((0, 224, 345)),
                _max((0, 150, 345)),
            ),
            texts=(story("THE CAR DRIVES AWAY WITH IT!", 4.2, 8.4),),
            events=(moment("the red car drives off with the parcel", 4.0, 8.0, "red car", "brown parcel", cue="buzz"),),
            distractors=(quick_pan(6.0, 60),),
        ),
        Shot(
            scene="market",
            seconds=11.0,
            zoom=1.6,
            focus=(430, 250),
            camera=-100,
            ambience="sad",
            objects=(_baker((0, 470, 345)), _nora((0, -40, 345), (4, 380, 345)), _max((0, -110, 345), (4, 310, 345))),
            texts=(
                story("NORA ASKS THE BAKER", 1.0, 4.4),
                story("IT WENT TO THE OLD STREET", 5.4, 10.0),
                sign("BREAD", 2.0, 9.0, Region.RIGHT),
            ),
            events=(moment("Nora asks the baker for help", 4.0, 10.0, "Nora", "the baker"),),
        ),
        Shot(
            scene="harbour",
            seconds=10.0,
            enter=DISSOLVE,
            light="dusk",
            camera=-60,
            ambience="sea",
            objects=(thing("blue ferry", *rightward(1, 9, 256)), thing("white boat", (0, 420, 232), scale=0.7)),
            texts=(counter("FERRY 2", 2.0, 8.0), story("THE SECOND FERRY LEAVES", 2.0, 7.0, Region.BOTTOM)),
            events=(event("the blue ferry passes", "blue ferry", cue="horn"),),
        ),
    )


def _search() -> tuple[Shot, ...]:
    follow = ((1.0, -60.0, 345.0), (9.0, 720.0, 345.0))
    return (
        title_card("CHAPTER 3: THE OLD STREET", seconds=4.4),
        Shot(
            scene="street",
            seconds=9.0,
            enter=FADE,
            ambience="engine",
            objects=(thing("red car", *rightward(1, 7, 340)), thing("black cat", (0, 500, 284))),
            texts=(story("THE RED CAR TURNS INTO TOWN", 1.6, 6.4),),
            events=(event("the red car passes", "red car", cue="beep"), event("a black cat watches", "black cat")),
        ),
        Shot(
            scene="street",
            seconds=10.0,
            zoom=1.6,
            focus=(320, 240),
            camera=40,
            ambience="tense",
            objects=(_nora(*follow), _max(*beside(follow, -80)), thing("black cat", (0, 460, 284))),
            texts=(story("NORA AND MAX RUN AFTER IT", 1.2, 5.6), sign("OLD STREET", 3.0, 9.0, Region.LEFT)),
            events=(event("Nora runs along the street", "Nora", "Max the dog"),),
        ),
        Shot(
            scene="street",
            seconds=8.0,
            camera=-140,
            ambience="tense",
            objects=(thing("green truck", *leftward(1, 7, 345)), thing("blue car", *rightward(2, 6, 310))),
            texts=(story("A GREEN TRUCK BLOCKS THE WAY", 1.6, 6.4),),
            events=(event("the green truck blocks the road", "green truck", cue="horn"),),
            distractors=(flash(3.6),),
        ),
        Shot(
            scene="street",
            seconds=10.0,
            zoom=1.5,
            focus=(300, 240),
            camera=120,
            ambience="sad",
            objects=(_nora((0, 300, 284)), _max((0, 230, 284)), thing("red car", (0, 420, 340), (4, 820, 340))),
            texts=(story("THE RED CAR IS GONE", 3.2, 6.0), story("MAX SMELLS THE FOREST", 6.4, 9.2)),
            events=(event("the red car passes", "red car"),),
        ),
        Shot(
            scene="station",
            seconds=11.0,
            camera=-70,
            ambience="engine",
            objects=(_nora((0, 180, 274)), _max((0, 250, 276)), thing("green train", *rightward(2, 9, 345))),
            texts=(story("NOT AT THE STATION EITHER", 1.0, 5.4), sign("TRACK 7", 6.0, 10.0, Region.RIGHT)),
            events=(event("a green train passes", "green train", cue="horn"),),
        ),
        Shot(
            scene="kitchen",
            seconds=8.0,
            enter=SLOW_DISSOLVE,
            light="dusk",
            camera=-80,
            ambience="sad",
            objects=(_grandmother((0, 340, 345)), thing("white cat", (1, 680, 345), (6, 440, 345))),
            texts=(story("GRANDMOTHER LOOKS AT THE CLOCK", 1.6, 6.4),),
            events=(moment("Grandmother worries", 1.6, 6.4, "Grandmother"),),
        ),
    )


def _forest() -> tuple[Shot, ...]:
    path = ((0.0, -40.0, 340.0), (8.0, 420.0, 332.0))
    flight = ((1.0, 240.0, 195.0), (4.0, 420.0, 230.0), (7.0, 700.0, 190.0))
    carry = ((5.0, 330.0, 338.0), (10.0, -80.0, 338.0))
    return (
        title_card("CHAPTER 4: THE FOREST", seconds=4.4),
        Shot(
            scene="forest",
            seconds=12.0,
            enter=FADE,
            drift=90,
            ambience="wind",
            objects=(_nora(*path), _max(*beside(path, 70))),
            texts=(story("IT IS QUIET AMONG THE TREES", 1.6, 6.0), sign("SAW MILL", 4.0, 11.0, Region.BOTTOM_RIGHT)),
            events=(event("Nora enters the forest", "Nora", "Max the dog"),),
        ),
        Shot(
            scene="forest",
            seconds=9.0,
            zoom=1.5,
            focus=(280, 230),
            ambience="bright",
            objects=(thing("yellow bird", *flight), _nora((0, 150, 340)), _max((0, 220, 340))),
            texts=(story("A YELLOW BIRD CALLS: THIS WAY!", 1.4, 6.2),),
            events=(event("the yellow bird shows the way", "yellow bird", "Nora", cue="whistle"),),
        ),
        Shot(
            scene="forest",
            seconds=7.0,
            camera=-150,
            ambience="bright",
            objects=(thing("yellow bird", *rightward(0, 5, 130)), _max(*rightward(1, 6, 338))),
            texts=(story("MAX RUNS AHEAD", 1.4, 5.4),),
            events=(event("the yellow bird shows the way", "yellow bird"), event("Max runs ahead", "Max the dog")),
        ),
        Shot(
            scene="forest",
            seconds=12.0,
            zoom=1.6,
            focus=(320, 240),
            camera=-30,
            ambience="bright",
            objects=(
                _nora((0, 690, 338), (3, 360, 338), *carry),
                thing("brown parcel", (0, 300, 338), (4, 300, 338), *beside(carry, -26, -26)),
                _max((0, 240, 338)),
                thing("yellow bird", (0, 300, 218)),
            ),
            texts=(story("THE PARCEL FELL OFF HERE", 1.6, 5.6), story("FOUND! NOW BACK TO THE SEA", 6.4, 11.0)),
            events=(moment("Nora finds the parcel", 3.0, 6.0, "Nora", "brown parcel", "Max the dog", cue="chime"),),
        ),
        Shot(
            scene="meadow",
            seconds=9.0,
            enter=DISSOLVE,
            light="dusk",
            ambience="tense",
            objects=(
                _nora(*leftward(0, 7, 340)),
                thing("brown parcel", *beside(leftward(0, 7, 340), -26, -26)),
                _max(*leftward(1, 8, 344)),
                thing("orange balloon", (0, 90, 190), (9, 140, 150), scale=0.9),
            ),
            texts=(story("THEY TAKE THE SHORT WAY HOME", 1.4, 6.0),),
            events=(event("Nora runs home across the meadow", "Nora", "Max the dog"),),
        ),
    )


def _return() -> tuple[Shot, ...]:
    board = ((0.0, -40.0, 345.0), (4.0, 300.0, 345.0))
    meet = ((0.0, -40.0, 345.0), (4.0, 380.0, 345.0))
    return (
        title_card("CHAPTER 5: THE LAST FERRY", seconds=4.4),
        Shot(
            scene="street",
            seconds=7.0,
            enter=FADE,
            camera=-60,
            ambience="engine",
            objects=(thing("red car", *leftward(1, 6, 340)),),
            texts=(story("THE RED CAR COMES BACK, EMPTY", 1.4, 5.8),),
            events=(event("the red car passes", "red car", cue="beep"),),
        ),
        Shot(
            scene="market",
            seconds=10.0,
            light="night",
            ambience="calm",
            objects=(
                _nora(*rightward(0, 7, 345)),
                thing("brown parcel", *beside(rightward(0, 7, 345), 26, -26)),
                _max(*rightward(1, 8, 348)),
                thing("grey cat", (0, 470, 300)),
            ),
            texts=(story("THE MARKET IS CLOSED NOW", 1.0, 5.2), story("ONE MORE CORNER, THEN THE PIER", 5.8, 9.4)),
            events=(event("Nora walks through the market", "Nora", "Max the dog", "brown parcel"),),
        ),
        Shot(
            scene="harbour",
            seconds=13.0,
            light="night",
            camera=-40,
            ambience="sea",
            objects=(
                thing("blue ferry", (0, 800, 256), (5, 360, 256), (8, 360, 256), (12.6, -150, 256)),
                _nora(*board),
                thing("brown parcel", *beside(board, 26, -26)),
            ),
            texts=(counter("FERRY 3", 1.4, 8.0), story("JUST IN TIME FOR THE LAST FERRY", 4.4, 9.4, Region.BOTTOM)),
            events=(event("the blue ferry passes", "blue ferry", "Nora", cue="horn"),),
        ),
        Shot(
            scene="harbour",
            seconds=11.0,
            enter=DISSOLVE,
            light="night",
            camera=140,
            ambience="sea",
            objects=(
                _nora(*meet),
                thing("brown parcel", *beside(meet, 26, -26)),
                _keeper((0, 460, 345)),
            ),
            texts=(story("THE KEEPER THANKS NORA", 4.4, 9.6),),
            events=(moment("Nora hands over the parcel", 4.0, 9.0, "Nora", "the keeper", "brown parcel", cue="chime"),),
        ),
        Shot(
            scene="harbour",
            seconds=10.0,
            zoom=1.8,
            focus=(593, 120),
            light="night",
            ambience="bright",
            objects=(
                thing("yellow lamp", (0, 593, 58), scale=0.8),
                thing("white boat", *rightward(1, 9.6, 212)),
            ),
            texts=(story("THE LIGHT SHINES AGAIN", 1.4, 6.4, Region.BOTTOM_LEFT),),
            events=(event("the lighthouse shines", "yellow lamp", cue="bell"),),
            distractors=(flash(0.8), flash(7.2)),
        ),
        Shot(
            scene="kitchen",
            seconds=10.0,
            enter=SLOW_DISSOLVE,
            ambience="bright",
            objects=(
                _grandmother((0, 420, 345)),
                _nora((0, -40, 345), (4, 340, 345)),
                _max((1, -60, 345), (5, 240, 345)),
                thing("white cat", (0, 560, 345)),
            ),
            texts=(story("EVERYONE IS HOME AGAIN", 1.8, 7.0),),
            events=(moment("Nora comes home", 0.0, 5.0, "Nora", "Grandmother", "Max the dog"),),
        ),
        title_card("THE END", seconds=5.0),
    )
