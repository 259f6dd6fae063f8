"""Scenes and their captions: what is in a picture and where, as plain numbers that render.py turns into pixels.

Everything sits on the model's own grid: object squares have sides and corners at multiples of 16 px (one token), so
that a
sprite of one size always fills its tokens with the same content. That keeps the task within reach of a small model.
Layouts are nearly a function of caption and canvas, for the same reason.
"""

import math
import random

import numpy as np

from sprites import INDEX, SPRITES, tagged

GRID = 16  # px; one token of the transformer
MAX_OBJECTS = 64
MAX_BANDS = 4
BAND_FLOATS = 16  # y0, y1, amp, freq, phase, amp2, freq2, phase2, zigzag, on, rgb at the top, rgb at the bottom

COLORS = {
    "red": (222, 45, 48),
    "orange": (245, 140, 35),
    "yellow": (252, 218, 60),
    "green": (60, 165, 75),
    "blue": (45, 100, 220),
    "light blue": (160, 212, 250),
    "purple": (125, 65, 180),
    "pink": (250, 160, 200),
    "brown": (120, 78, 48),
    "black": (18, 18, 22),
    "white": (252, 252, 252),
    "gray": (140, 140, 145),
}
PALE = [(252, 252, 252), (226, 240, 252), (250, 240, 218), (228, 245, 222), (250, 228, 236)]
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

ALL = list(range(len(SPRITES)))
PEOPLE = tagged("person")
RELATIONS = ("left", "right", "above", "below")


class Scene:
    """One picture: a canvas of width x height px, background bands from the top down, objects from back to front."""

    def __init__(self, width, height):
        self.width, self.height, self.short = width, height, min(width, height)
        self.long_ratio = max(width, height) / self.short
        self.objects = []
        self.bands = []

    def put(self, sprite, x, y, size):
        """Adds an object with its centre near (x, y), side near size, all px, and moves it onto the grid."""
        side = max(GRID, round(size / GRID) * GRID)
        left, top = round((x - side / 2) / GRID) * GRID, round((y - side / 2) / GRID) * GRID
        self.objects.append((sprite, left + side / 2, top + side / 2, side))

    def put_inside(self, sprite, x, y, size):
        """put(), moved so that the object lies wholly on the canvas where it fits."""
        half = max(GRID, round(size / GRID) * GRID) / 2
        self.put(sprite, _clamp(x, half, self.width - half), _clamp(y, half, self.height - half), size)


def _clamp(value, low, high):
    return min(max(value, low), high) if low <= high else (low + high) / 2


def _mix(a, b, t):
    return tuple(x + (y - x) * t for x, y in zip(a, b))


def article(noun):
    """The noun with its indefinite article."""
    return ("an " if noun[0] in "aeiou" and not noun.startswith(("ufo", "uni")) else "a ") + noun


class Generator:
    """Draws captions and scenes from one seeded stream."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    # ---- words and colours ----
    def name(self, sprite, plural=False):
        names = SPRITES[sprite].names
        return (names[0] if self.random.random() < 0.85 else self.random.choice(names))[plural]

    def jitter(self, color, amount=5):
        return tuple(min(255, max(0, v + self.random.uniform(-amount, amount))) for v in color)

    def band(self, y0, top, bottom, y1=1.0, amp=0.0, freq=1.0, amp2=0.0, freq2=2.0, zigzag=0):
        phase, phase2 = self.random.uniform(0, 6.28), self.random.uniform(0, 6.28)
        return [y0, y1, amp, freq, phase, amp2, freq2, phase2, zigzag, 1.0, *[v / 255 for v in (*top, *bottom)]]

    def plain(self, scene, color):
        scene.bands = [self.band(0, color, color)]

    def background(self, scene, chance=0.5):
        """Paints a plain background; the clause that names it, or '' for a pale one that is not named."""
        if self.random.random() >= chance:
            self.plain(scene, self.random.choice(PALE))
            return ""
        color = self.random.choice(list(COLORS))
        self.plain(scene, self.jitter(COLORS[color], 3))
        return f" on {article(color)} background"

    # ---- objects on plain backgrounds ----
    def single(self, scene, named_background):
        sprite = self.random.choice(ALL)
        word, share = self.random.choices([("", 0.56), ("big ", 0.8), ("small ", 0.28)], [12, 1, 1])[0]
        share *= self.random.uniform(0.94, 1.06)
        clause = self.background(scene, named_background)
        place, fx, fy = "", 0.5, 0.5
        if not word and self.random.random() < 0.08:
            place, fx, fy = self.random.choice(
                [
                    (" on the left", 0.2, 0.5),
                    (" on the right", 0.8, 0.5),
                    (" at the top", 0.5, 0.2),
                    (" at the bottom", 0.5, 0.8),
                ]
            )
            share = 0.4
        scene.put_inside(sprite, fx * scene.width, fy * scene.height, share * scene.short)
        return article(word + self.name(sprite)) + place + clause

    def spread(self, scene, n):
        """Centres for n objects in the fullest even arrangement, and the side of a cell."""
        best = None
        for columns in range(1, n + 1):
            rows = -(-n // columns)
            side = min(scene.width / columns, scene.height / rows) * (1 - 0.12 * (columns * rows - n) / n)
            if best is None or side >= best[0]:
                best = (side, columns, rows)
        _, columns, rows = best
        centres = []
        for k in range(n):
            row, column = divmod(k, columns)
            in_row = columns if row < rows - 1 else n - columns * (rows - 1)
            centres.append(((column + 0.5) * scene.width / in_row, (row + 0.5) * scene.height / rows))
        return centres, min(scene.width / columns, scene.height / rows)

    def counted(self, scene):
        sprite = self.random.choice(ALL)
        n = self.random.choices([1, 2, 3, 4, 5, 6], [3, 7, 8, 3, 2, 2])[0]
        self.lay_out(scene, [sprite] * n)
        return f"{NUMBERS[n]} {self.name(sprite, plural=n > 1)}" + self.background(scene, 0.3)

    def lay_out(self, scene, sprites):
        centres, cell = self.spread(scene, len(sprites))
        size = min(0.74 * cell, 0.5 * scene.short)
        for sprite, (x, y) in zip(sprites, centres):
            scene.put_inside(sprite, x, y, size)

    def many(self, scene):
        sprite = self.random.choice(ALL)
        self.lay_out(scene, [sprite] * self.random.choice([9, 12, 16]))
        return f"many {self.name(sprite, plural=True)}" + self.background(scene, 0.3)

    def related(self, scene, relation=None):
        """Two objects in a named relation, first to second."""
        first, second = self.random.sample(ALL, 2)
        relation = relation or self.random.choice(RELATIONS)
        a, b = article(self.name(first)), article(self.name(second))
        if relation in ("left", "right"):
            size = min(0.4 * scene.width, 0.6 * scene.height)
            spots = [(0.26, 0.5), (0.74, 0.5)]
            texts = ["{a} to the %s of {b}", "{a} to the %s of {b}", "{a} %s of {b}", "{a} on the %s and {b} on the %s"]
            other = {"left": "right", "right": "left"}[relation]
            text = self.random.choice(texts)
            text = text % ((relation, other) if text.count("%s") == 2 else relation)
        else:
            size = min(0.4 * scene.height, 0.6 * scene.width)
            spots = [(0.5, 0.26), (0.5, 0.74)]
            text = self.random.choice(
                {
                    "above": ["{a} above {b}", "{a} above {b}", "{a} over {b}", "{a} on top of {b}"],
                    "below": ["{a} below {b}", "{a} below {b}", "{a} under {b}"],
                }[relation]
            )
        if relation in ("right", "below"):
            spots.reverse()
        for sprite, (fx, fy) in zip((first, second), spots):
            scene.put_inside(sprite, fx * scene.width, fy * scene.height, size)
        return text.format(a=a, b=b) + self.background(scene, 0.25)

    def listed(self, scene):
        sprites = self.random.sample(ALL, self.random.choice([2, 2, 2, 3]))
        self.lay_out(scene, sprites)
        names = [article(self.name(s)) for s in sprites]
        return ", ".join(names[:-1]) + " and " + names[-1] + self.background(scene, 0.25)

    # ---- landscapes ----
    def tone(self, color, time):
        color = self.jitter(color)
        if time == "night":
            return _mix(color, (30, 40, 95), 0.5)
        return _mix(color, (255, 140, 60), 0.18) if time == "sunset" else color

    def sky(self, scene, time, horizon):
        top, bottom = {
            "day": ((95, 178, 242), (205, 235, 252)),
            "sunset": ((130, 80, 155), (255, 168, 85)),
            "night": ((24, 30, 86), (62, 74, 140)),
        }[time]
        scene.bands.append(self.band(0, self.jitter(top), self.jitter(bottom), y1=horizon))
        width, height, short = scene.width, horizon * scene.height, scene.short
        uniform = self.random.uniform
        if time == "day":
            scene.put_inside(INDEX["sun"], self.random.choice([0.15, 0.85]) * width, 0.3 * height, 0.17 * short)
            for _ in range(self.random.randint(1, 1 + int(scene.long_ratio))):
                scene.put(INDEX["cloud"], uniform(0.25, 0.75) * width, uniform(0.2, 0.6) * height, 0.17 * short)
        elif time == "night":
            for _ in range(self.random.randint(4, 5 + int(2 * scene.long_ratio))):
                scene.put(INDEX["star"], uniform(0.03, 0.97) * width, uniform(0.05, 0.85) * height, 0.05 * short)
            scene.put_inside(INDEX["moon"], self.random.choice([0.15, 0.85]) * width, 0.3 * height, 0.17 * short)
        else:
            scene.put(INDEX["sun"], uniform(0.3, 0.7) * width, 0.8 * height, 0.2 * short)

    def scatter(self, scene, sprites, count, y0, y1, small, large, weights=None, gap=0.6):
        """Objects that stand on the ground between rows y0 and y1 (fractions of the height), growing towards the
        viewer."""
        placed = []
        for _ in range(round(count)):
            for _ in range(8):
                depth = self.random.random() ** 0.8
                y = (y0 + (y1 - y0) * depth) * scene.height
                size = (small + (large - small) * depth) * scene.short
                x = self.random.uniform(0.03, 0.97) * scene.width
                if all(math.hypot(x - px, y - py) > gap * 0.5 * (size + ps) for _, px, py, ps in placed):
                    placed.append((self.random.choices(sprites, weights)[0], x, y, size))
                    break
        for sprite, x, y, size in sorted(placed, key=lambda p: p[2]):
            scene.put_inside(sprite, x, y - 0.4 * size, size)

    def strewn(self, scene, sprites, count, y0, y1, size):
        """Objects that float anywhere between rows y0 and y1, apart from one another."""
        placed = []
        side = size * scene.short
        for _ in range(round(count)):
            for _ in range(12):
                x, y = self.random.uniform(0.06, 0.94) * scene.width, self.random.uniform(y0, y1) * scene.height
                if all(math.hypot(x - px, y - py) > 0.95 * side for px, py in placed):
                    placed.append((x, y))
                    scene.put_inside(self.random.choice(sprites), x, y, side)
                    break

    def amount(self, scene, density, few, some, crowd):
        """A number of objects for a density of 0, 1 or 2, more of them on longer canvases."""
        low, high = (few, some, crowd)[density]
        return self.random.randint(low, high) * (0.5 + 0.5 * scene.long_ratio)

    def beach(self, scene, time, density):
        horizon = self.random.uniform(0.26, 0.3)
        shore = horizon + self.random.uniform(0.12, 0.15)
        self.sky(scene, time, horizon)
        scene.bands += [
            self.band(horizon, self.tone((28, 118, 200), time), self.tone((95, 200, 215), time), y1=shore),
            self.band(shore, self.tone((250, 234, 190), time), self.tone((240, 212, 150), time), amp=0.01, freq=0.8),
        ]
        if density:
            self.scatter(
                scene,
                [INDEX["sailboat"], INDEX["ship"], INDEX["surfer"]],
                self.amount(scene, density, (0, 0), (1, 1), (1, 2)),
                shore - 0.05,
                shore - 0.01,
                0.1,
                0.12,
                gap=1.2,
            )
        parasol, palm = INDEX["parasol"], INDEX["palm tree"]
        if density == 0:
            self.scatter(scene, [palm], 1, shore + 0.14, shore + 0.2, 0.36, 0.4)
            self.scatter(
                scene, [parasol, INDEX["crab"], INDEX["beach ball"]], self.random.randint(0, 1), 0.8, 0.95, 0.2, 0.2
            )
            return
        others = [parasol, INDEX["beach ball"], INDEX["crab"]]
        self.scatter(
            scene,
            PEOPLE + others,
            self.amount(scene, density, (0, 0), (4, 6), (20, 26)),
            shore + 0.1,
            0.985,
            0.13,
            0.23,
            [1.0] * len(PEOPLE) + [4.5, 0.5, 0.2],
            gap=0.66 if density == 2 else 1.0,
        )

    def ocean(self, scene, time, density):
        horizon = self.random.uniform(0.35, 0.42)
        self.sky(scene, time, horizon)
        scene.bands += [
            self.band(horizon, self.tone((30, 112, 195), time), self.tone((16, 66, 145), time), amp=0.006, freq=2)
        ]
        self.scatter(
            scene,
            [INDEX[n] for n in ("sailboat", "ship", "whale", "dolphin")],
            self.amount(scene, density, (1, 1), (2, 4), (8, 11)),
            horizon + 0.12,
            0.97,
            0.14,
            0.26,
            gap=0.9,
        )

    def underwater(self, scene, time, density):
        scene.bands = [
            self.band(0, self.jitter((70, 178, 225)), self.jitter((20, 70, 150))),
            self.band(0.85, self.jitter((225, 200, 140)), self.jitter((195, 165, 105)), amp=0.015),
        ]
        self.strewn(
            scene,
            [INDEX["fish"]] * 3 + tagged("sea"),
            self.amount(scene, density, (1, 2), (4, 6), (12, 16)),
            0.1,
            0.78,
            0.2,
        )
        self.scatter(scene, [INDEX["crab"]], self.random.randint(0, 1), 0.94, 0.98, 0.14, 0.14)

    def forest(self, scene, time, density):
        horizon = self.random.uniform(0.3, 0.36)
        self.sky(scene, time, horizon)
        scene.bands += [self.band(horizon, self.tone((85, 150, 75), time), self.tone((60, 118, 52), time), amp=0.015)]
        self.scatter(
            scene,
            [INDEX["pine tree"], INDEX["tree"]],
            self.amount(scene, density, (5, 6), (10, 13), (18, 22)),
            horizon + 0.14,
            0.97,
            0.24,
            0.42,
            gap=0.5,
        )
        if density:
            self.scatter(scene, tagged("woods"), self.random.randint(1, 2), 0.85, 0.98, 0.18, 0.18, gap=1.0)

    def meadow(self, scene, time, density):
        horizon = self.random.uniform(0.38, 0.44)
        self.sky(scene, time, horizon)
        scene.bands += [
            self.band(horizon, self.tone((120, 200, 95), time), self.tone((78, 160, 58), time), amp=0.03, freq=0.7)
        ]
        self.scatter(
            scene,
            tagged("flower"),
            self.amount(scene, density, (3, 4), (7, 10), (18, 24)),
            horizon + 0.16,
            0.98,
            0.1,
            0.17,
            gap=0.8,
        )
        self.strewn(scene, tagged("meadow"), self.random.randint(1, 2), horizon, 0.75, 0.14)

    def farm(self, scene, time, density):
        horizon = self.random.uniform(0.36, 0.42)
        self.sky(scene, time, horizon)
        scene.bands += [
            self.band(horizon, self.tone((165, 200, 90), time), self.tone((95, 155, 58), time), amp=0.012, freq=0.8)
        ]
        self.scatter(
            scene,
            [INDEX["house"], INDEX["tree"]],
            self.random.randint(2, 3),
            horizon + 0.08,
            horizon + 0.1,
            0.26,
            0.28,
            gap=1.1,
        )
        self.scatter(
            scene,
            tagged("farm"),
            self.amount(scene, density, (2, 2), (4, 6), (11, 14)),
            horizon + 0.26,
            0.98,
            0.17,
            0.25,
            gap=0.8,
        )

    def desert(self, scene, time, density):
        horizon = self.random.uniform(0.4, 0.46)
        self.sky(scene, time, horizon)
        scene.bands += [
            self.band(horizon, self.tone((240, 202, 128), time), self.tone((205, 150, 78), time), amp=0.04, freq=0.7)
        ]
        self.scatter(
            scene,
            [INDEX["cactus"], INDEX["cactus"]] + tagged("desert"),
            self.amount(scene, density, (2, 2), (4, 6), (10, 13)),
            horizon + 0.2,
            0.97,
            0.17,
            0.28,
            gap=0.9,
        )

    def snow(self, scene, time, density):
        horizon = self.random.uniform(0.4, 0.46)
        self.sky(scene, time, horizon)
        scene.bands += [
            self.band(
                horizon - 0.08,
                self.tone((185, 202, 226), time),
                self.tone((222, 234, 246), time),
                y1=horizon + 0.2,
                amp=0.06,
                freq=1.0,
                zigzag=1,
            ),
            self.band(horizon + 0.08, self.tone((242, 247, 252), time), self.tone((218, 230, 244), time), amp=0.015),
        ]
        self.scatter(
            scene,
            [INDEX["pine tree"], INDEX["pine tree"], INDEX["snowman"], INDEX["penguin"], INDEX["skier"]],
            self.amount(scene, density, (2, 3), (5, 7), (12, 15)),
            horizon + 0.18,
            0.97,
            0.18,
            0.3,
            gap=0.8,
        )

    def city(self, scene, time, density):
        road = self.random.uniform(0.7, 0.74)
        self.sky(scene, time, 0.55)
        scene.bands += [
            self.band(0.55, self.tone((150, 190, 130), time), self.tone((130, 170, 110), time), y1=road),
            self.band(road, self.tone((98, 102, 110), time), self.tone((80, 84, 92), time)),
        ]
        houses, size = tagged("building") + tagged("tower"), 0.34 * scene.short
        count = max(2, round(scene.width / size * 0.95))
        for k in range(count):
            scene.put(
                self.random.choice(houses), (k + 0.5) * scene.width / count, road * scene.height - 0.48 * size, size
            )
        cars = [i for i in tagged("road") if i != INDEX["train"]]
        self.scatter(
            scene, cars, self.amount(scene, density, (1, 1), (3, 4), (7, 9)), road + 0.14, 0.98, 0.2, 0.23, gap=0.85
        )

    def space(self, scene, time, density):
        scene.bands = [self.band(0, self.jitter((30, 22, 78)), self.jitter((66, 34, 112)))]
        self.strewn(
            scene, [INDEX["star"]], self.random.randint(10, 14) * (0.5 + 0.5 * scene.long_ratio), 0.04, 0.96, 0.06
        )
        self.strewn(
            scene,
            tagged("space") + [INDEX["planet"]] * 3 + [INDEX["moon"]],
            self.amount(scene, density, (1, 1), (3, 4), (9, 11)),
            0.14,
            0.86,
            0.24,
        )

    def night_sky(self, scene, time, density):
        scene.bands = [self.band(0, self.jitter((22, 28, 84)), self.jitter((64, 76, 146)))]
        self.strewn(scene, [INDEX["star"]], self.amount(scene, density, (5, 6), (12, 16), (24, 28)), 0.05, 0.92, 0.08)
        scene.put_inside(
            INDEX["moon"], self.random.choice([0.2, 0.8]) * scene.width, 0.25 * scene.height, 0.24 * scene.short
        )

    def open_sky(self, scene, time, density):
        self.sky(scene, time, 1.0)
        self.strewn(
            scene,
            tagged("air") + [INDEX["bird"]] * 2,
            self.amount(scene, density, (1, 1), (3, 5), (11, 14)),
            0.12,
            0.9,
            0.2,
        )

    def room(self, scene, time, density):
        scene.bands = [
            self.band(0, *[self.random.choice(PALE[1:])] * 2),
            self.band(0.66, self.jitter((180, 130, 85)), self.jitter((145, 100, 62))),
        ]
        self.scatter(
            scene,
            tagged("furniture"),
            self.amount(scene, density, (1, 1), (3, 3), (6, 7)),
            0.74,
            0.97,
            0.32,
            0.4,
            gap=0.9,
        )

    # method, names, preposition, weight, quiet and crowded captions besides the common ones
    LANDSCAPES = (
        (
            "beach",
            ("beach",),
            "on",
            3.6,
            ("a beach full of people", "many people on the beach", "a crowded beach", "a crowded beach"),
        ),
        ("ocean", ("ocean", "sea"), "on", 0.8, ()),
        ("underwater", ("underwater scene",), "", 1.0, ("many fish underwater", "many fish underwater")),
        ("forest", ("forest",), "in", 1.3, ("a dense forest",)),
        ("meadow", ("meadow", "field of flowers"), "in", 1.1, ("a meadow full of flowers",)),
        ("farm", ("farm",), "on", 0.9, ()),
        ("desert", ("desert",), "in", 0.8, ()),
        ("snow", ("snowy landscape", "winter landscape"), "in", 1.2, ()),
        ("city", ("city", "city street"), "in", 1.8, ()),
        ("space", ("space scene",), "in", 1.4, ()),
        (
            "night_sky",
            ("night sky", "starry sky", "starry night"),
            "in",
            1.4,
            ("a night sky full of stars", "many stars in the night sky"),
        ),
        ("open_sky", ("sky",), "in", 0.7, ()),
        ("room", ("room", "living room"), "in", 0.6, ()),
    )
    PLACE = {"snow": "the snow", "space": "space", "night_sky": "the night sky"}

    def landscape(self, scene, kind=None):
        """A landscape, empty, as it is, crowded, or with one named object in front."""
        rows = {row[0]: row for row in self.LANDSCAPES}
        key, names, preposition, _, crowded = (
            rows[kind] if kind else self.random.choices(self.LANDSCAPES, [row[3] for row in self.LANDSCAPES])[0]
        )
        name = self.random.choice(names)
        timeless = key in ("underwater", "space", "night_sky", "room")
        time, when = (
            ("day", "")
            if timeless
            else self.random.choices(
                [("day", ""), ("sunset", " at sunset"), ("night", " at night")], [6, 1.5, 2.5 if key == "city" else 1.5]
            )[0]
        )
        paint = getattr(self, key)
        if key not in ("night_sky",) and self.random.random() < 0.28:
            paint(scene, time, 0)
            sprite = self.random.choice(tagged("animal")) if self.random.random() < 0.5 else self.random.choice(ALL)
            floats = key in ("underwater", "space", "open_sky")
            scene.put_inside(sprite, 0.5 * scene.width, (0.5 if floats else 0.74) * scene.height, 0.4 * scene.short)
            place = "underwater" if key == "underwater" else f"{preposition} {self.PLACE.get(key, 'the ' + name)}"
            return f"{article(self.name(sprite))} {place}{when}"
        density = self.random.choices([0, 1, 2], [1, 4, 5 if key == "beach" else 2])[0]
        paint(scene, time, density)
        if density == 0:
            caption = f"a quiet {name}" if key == "night_sky" else f"an empty {name}"
        elif density == 1:
            caption = article(name)
        else:
            caption = self.random.choice([f"a crowded {name}", f"a busy {name}", *crowded])
        return caption + when

    STYLES = ("a picture of ", "a drawing of ", "an image of ", "a photo of ")
    SENTENCES = (
        "The picture is bright and colorful.",
        "It looks very nice.",
        "A simple and clean drawing.",
        "Everything is clearly visible.",
        "High quality.",
        "A cheerful cartoon.",
    )
    KINDS = (
        ("single", 24),
        ("backed", 15),
        ("related", 19),
        ("counted", 18),
        ("listed", 4),
        ("many", 1),
        ("landscape", 19),
    )

    def sample(self, width, height, kind=None):
        """One (caption, scene) for a canvas; kind is a name of KINDS, drawn by weight unless given."""
        scene = Scene(width, height)
        kind = kind or self.random.choices([k for k, _ in self.KINDS], [w for _, w in self.KINDS])[0]
        if kind in ("single", "backed"):
            caption = self.single(scene, 0.0 if kind == "single" else 1.0)
        else:
            caption = getattr(self, kind)(scene)
        if self.random.random() < 0.04:
            caption = self.random.choice(self.STYLES) + caption
        if self.random.random() < 0.5:
            caption = caption[0].upper() + caption[1:]
        if self.random.random() < 0.15:
            caption += "."
        return caption, scene

    def lengthen(self, caption):
        """The caption with a sentence added that changes nothing in the picture."""
        return caption.rstrip(".") + ". " + self.random.choice(self.SENTENCES)


def pack(scenes):
    """Scenes as arrays for the renderer: objects float32 [B, n, 4] (sprite, x, y, side in px), their numbers int32
    [B], bands float32 [B, MAX_BANDS, BAND_FLOATS]."""
    most = max(1, max(min(len(s.objects), MAX_OBJECTS) for s in scenes))
    objects = np.zeros((len(scenes), most, 4), np.float32)
    counts = np.zeros(len(scenes), np.int32)
    bands = np.zeros((len(scenes), MAX_BANDS, BAND_FLOATS), np.float32)
    for k, scene in enumerate(scenes):
        shown = scene.objects[-MAX_OBJECTS:]
        counts[k] = len(shown)
        if shown:
            objects[k, : len(shown)] = shown
        for j, band in enumerate(scene.bands):
            bands[k, j] = band
    return objects, counts, bands
