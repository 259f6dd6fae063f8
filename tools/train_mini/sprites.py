"""The sprites: which Noto Color Emoji the scenes are made of, what they are called, and the atlas rendered from the
font.

    python tools/train_mini/sprites.py ATLAS.npz [--sheet SHEET.png] [--font NotoColorEmoji.ttf]

The font is Debian's fonts-noto-color-emoji (SIL OFL 1.1); the atlas is uint8 [sprites, 128, 128, 4], straight alpha.
Needs Pillow with raqm (for emoji that are sequences).
"""

import argparse
from dataclasses import dataclass

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlas")
    parser.add_argument("--sheet", help="also write a contact sheet")
    parser.add_argument("--font", default=FONT)
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import numpy as np

SIDE = 128

# emoji | name / synonym, plural in braces when irregular | tags that scenes draw from
TABLE = """
🐕|dog|animal
🦊|fox{foxes}|animal
🐈|cat|animal
🦁|lion|animal
🐅|tiger|animal
🐎|horse|animal,farm
🦓|zebra|animal
🐄|cow|animal,farm
🐖|pig|animal,farm
🐑|sheep{sheep}|animal,farm
🐪|camel|animal,desert
🦒|giraffe|animal
🐘|elephant|animal
🐇|rabbit|animal,woods
🐻|bear|animal,woods
🐼|panda|animal
🐒|monkey|animal
🐓|rooster|animal,farm
🐤|chick|animal,farm
🐦|bird|animal,bird
🐧|penguin|animal,snow
🦆|duck|animal,farm
🦉|owl|animal,woods
🦩|flamingo|animal
🐸|frog|animal
🐢|turtle|animal,sea
🐍|snake|animal,desert
🦖|dinosaur|animal
🐳|whale|animal,sea
🐬|dolphin|animal,sea
🐠|fish{fish}|animal,sea
🦈|shark|animal,sea
🐙|octopus{octopuses}|animal,sea
🦋|butterfly{butterflies}|animal,meadow
🐝|bee|animal,meadow
🦀|crab|animal,sea
🌹|rose|flower
🌻|sunflower|flower
🌷|tulip|flower
🌲|pine tree|plant
🌳|tree|plant
🌴|palm tree|plant
🌵|cactus{cacti}|desert
🍄|mushroom|woods
🍇|bunch of grapes{bunches of grapes}/grapes{grapes}|food
🍉|watermelon|food
🍊|orange|food
🍋|lemon|food
🍌|banana|food
🍍|pineapple|food
🍎|apple/red apple|food
🍒|cherry{cherries}|food
🍓|strawberry{strawberries}|food
🍅|tomato{tomatoes}|food
🥕|carrot|food
🍔|hamburger/burger|food
🍕|pizza/slice of pizza{slices of pizza}|food
🍦|ice cream|food
🍩|donut|food
🍪|cookie|food
🎂|birthday cake/cake|food
☕|cup of coffee{cups of coffee}|food
⛄|snowman{snowmen}|snow
🌋|volcano{volcanoes}|place
🏠|house|building
🏢|office building|building,tower
🏨|hotel|building,tower
🏰|castle|building
⛺|tent|place
🎡|ferris wheel|place
🚂|train|road
🚌|bus{buses}|road
🚒|fire truck|road
🚕|taxi/yellow taxi|road
🚗|car/red car|road
🚙|blue car|road
🚜|tractor|farm
🏍️|motorcycle|road
🚲|bicycle/bike|road
⛵|sailboat|boat
🚢|ship|boat
✈️|airplane/plane|air
🚁|helicopter|air
🚀|rocket|space
🛸|flying saucer/ufo|space
🎈|balloon/red balloon|air
🪁|kite|air
🌙|moon/crescent moon|moon
🪐|planet|space
⭐|star/yellow star|star
☀️|sun|sky
☁️|cloud|sky
🌈|rainbow|sky
❄️|snowflake|snow
⛱️|parasol/beach umbrella|beach
🎄|christmas tree|snow
🎁|gift/present|object
⚽|soccer ball/football|object
🏀|basketball|object
🏐|beach ball/volleyball|beach
🎸|guitar|object
⏰|clock/alarm clock|object
🪑|chair|furniture
🛋️|sofa/couch{couches}|furniture
🛏️|bed|furniture
🪴|potted plant|furniture
🧸|teddy bear|object
👑|crown|object
❤️|heart/red heart|object
👻|ghost|object
👽|alien|space
🤖|robot|object
🧑‍🚀|astronaut|space
🧍|person{people}|person
🧍🏽‍♀️|woman{women}|person
🧍🏾‍♂️|man{men}|person
🚶‍♂️|walking man{walking men}|person
🏃🏽‍♀️|running woman{running women}|person
💃|dancer|person
🧘|sitting person{sitting people}|person
👫|couple|person
🏄|surfer|surf
🏊|swimmer|surf
⛷️|skier|snow
"""


@dataclass(frozen=True)
class Sprite:
    """One sprite; names[0] is the usual name, each name is (singular, plural)."""

    emoji: str
    names: tuple
    tags: tuple


def _plural(noun):
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _parse(table):
    sprites = []
    for line in table.strip().splitlines():
        emoji, names, tags = line.split("|")
        pairs = []
        for name in names.split("/"):
            singular, _, plural = name.rstrip("}").partition("{")
            pairs.append((singular, plural or _plural(singular)))
        sprites.append(Sprite(emoji, tuple(pairs), tuple(tags.split(","))))
    return sprites


SPRITES = _parse(TABLE)
INDEX = {singular: i for i, sprite in enumerate(SPRITES) for singular, _ in sprite.names}


def tagged(*tags):
    """Indices of the sprites that carry any of the tags."""
    return [i for i, sprite in enumerate(SPRITES) if set(tags) & set(sprite.tags)]


def build_atlas(font_path=FONT):
    """Renders every sprite from the font, centred with 2 px to spare: uint8 [sprites, SIDE, SIDE, 4], straight
    alpha."""
    from PIL import Image, ImageDraw, ImageFont, features

    if not features.check("raqm"):
        raise RuntimeError(
            "Pillow was built without raqm, which joins emoji sequences; install a Pillow wheel that has it"
        )
    font = ImageFont.truetype(font_path, 109, layout_engine=ImageFont.Layout.RAQM)
    atlas = np.zeros((len(SPRITES), SIDE, SIDE, 4), np.uint8)
    for i, sprite in enumerate(SPRITES):
        glyph = Image.new("RGBA", (320, 200), (0, 0, 0, 0))
        ImageDraw.Draw(glyph).text((40, 40), sprite.emoji, font=font, embedded_color=True)
        box = glyph.getbbox()
        if box is None or box[2] - box[0] > 150:
            raise RuntimeError(f"{font_path} has no single glyph for {sprite.names[0][0]} ({sprite.emoji}): box {box}")
        glyph = glyph.crop(box)
        scale = (SIDE - 4) / max(glyph.size)
        glyph = glyph.resize([max(1, round(v * scale)) for v in glyph.size], Image.LANCZOS)
        cell = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
        cell.paste(glyph, ((SIDE - glyph.width) // 2, (SIDE - glyph.height) // 2))
        atlas[i] = np.asarray(cell)
    return atlas


def load_atlas(path):
    """The atlas of a file that this tool wrote; refuses one of another sprite list."""
    atlas = np.load(path)["atlas"]
    if atlas.shape != (len(SPRITES), SIDE, SIDE, 4):
        raise ValueError(
            f"{path}: atlas has shape {atlas.shape}, the sprite list needs {(len(SPRITES), SIDE, SIDE, 4)}"
        )
    return atlas


def main(args):
    atlas = build_atlas(args.font)
    np.savez_compressed(args.atlas, atlas=atlas)
    print(len(SPRITES), "sprites")
    if args.sheet:
        from PIL import Image

        columns, side = 16, 64
        sheet = Image.new("RGB", (columns * side, -(-len(SPRITES) // columns) * side), (170, 190, 210))
        for i, cell in enumerate(atlas):
            cell = Image.fromarray(cell).resize((side, side), Image.LANCZOS)
            sheet.paste(cell, (i % columns * side, i // columns * side), cell)
        sheet.save(args.sheet)


if __name__ == "__main__":
    main(OPTIONS)
