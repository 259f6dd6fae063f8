"""A tour of the Python package, from a first image to cancelling. The tests run it.

Usage: tutorial.py [FOLDER], into which the images go (the current one). Needs the packages nostos and pillow.
"""

import sys
import threading
from pathlib import Path

import numpy as np

import nostos

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

# A pipeline is a loaded model. Without a name the small model draws that comes with the package; a name of the Hugging Face cache,
# such as "Tongyi-MAI/Z-Image-Turbo", a folder or a file takes its place.
pipeline = nostos.Pipeline(on_log=lambda level, message: print(f"{level}: {message}"))
print("The model draws", pipeline.info["width"], "x", pipeline.info["height"], "where nothing else is asked for.")

# What is left open has the model's default. The seed decides the noise: the same seed gives the same bytes everywhere.
result = pipeline.generate("A lion on a beach", width=256, height=256, seed=7)
lion = result[0]
lion.save(folder / "lion.png")
print("lion.png has the seed", lion.seed, "and says how it was drawn:", lion.record["num_inference_steps"], "steps.")

# Several images of a prompt have consecutive seeds, and are drawn together.
apples = pipeline.generate("Three apples on a table", width=256, height=256, num_outputs=2, seed=3)
print("Seeds:", [image.seed for image in apples])

# NumPy sees the pixels, Pillow takes them.
print("The mean colour is", lion.array.mean(axis=(0, 1)).round())
lion.pillow().rotate(90).save(folder / "lion_rotated.png")

# Image to image: a path, an array or Pillow's image, and how much of it is drawn anew. What is white in a mask is drawn, the rest stays.
night = pipeline.generate("A lion on a beach at night", image=lion.pillow(), strength=0.7, seed=8)
night[0].save(folder / "night.jpg")
mask = np.zeros((256, 256, 3), np.uint8)
mask[:, 128:] = 255
half = pipeline.generate("A lion on a beach at night", image=lion.array, mask_image=mask, seed=9)
half[0].save(folder / "half.webp")

# Callbacks tell how far it is, and show what it becomes. What a callback raises ends the drawing.
previews = []
pipeline.generate("A cat", width=256, height=256, on_step=lambda step, steps, ms: print(f"step {step}/{steps}: {ms:.0f} ms"),
                  on_preview=lambda index, step, image: previews.append(image))
print("Previews of", previews[0].shape)

# The interpreter is free while nostos draws, so that another thread can end a drawing.
cancel = nostos.Cancel()
threading.Timer(0.2, cancel.set).start()
try:
    pipeline.generate("A long story", num_inference_steps=1000, cancel=cancel)
except nostos.Cancelled:
    print("The drawing was cancelled, and the pipeline goes on:")
print(pipeline.generate("A dog", width=256, height=256).report["report"]["total_ms"], "ms for a dog.")

# Errors say what is wrong.
try:
    pipeline.generate("A lion", width=-1)
except nostos.InvalidInputError as error:
    print(error)
