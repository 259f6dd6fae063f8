// Owns the pictures that the next job is made from: chosen, dropped, pasted or drawn here before, shown, and taken away again.
import { beginning, setFirst, startBeginning, useBeginning } from "./begin.js";
import { $, fill } from "./form.js";
import { addressOf, hold, inTurn, open, prepared, sentFields, thumbnail } from "./pictures.js";

const kLeastSide = 64, kLongest = 8;  // pixels, and times the shorter side

let model = null;  // its limits, once it is known
let tell = null;   // shows the visitor a message
let chosen = [];

/** Of a model without references the one picture that a drawing may begin with. */
const most = () => model.max_reference_images || (model.image_to_image ? 1 : 0);

/** @returns the pictures that another one joins: a single one makes room for it. */
const kept = () => most() === 1 ? [] : chosen;

const nameOf = (place) => model.max_reference_images ? `Reference picture ${place + 1}` : "Picture to begin with";

function choose(pictures) {
  chosen = pictures;
  hold("references", chosen);
  $("reference-list").replaceChildren(...chosen.map((picture, place) =>
    thumbnail(picture, nameOf(place), () => choose(chosen.filter((_, other) => other !== place)))));
  $("add-reference").disabled = most() > 1 && chosen.length >= most();
  setFirst(chosen);
  $("references").dispatchEvent(new Event("input", { bubbles: true }));
}

/** Adds a picture, unless the server would refuse it. The first of all gives its size to the form. */
async function add(source) {
  const opened = await open(source, "references", kept(), kLeastSide, kLongest);
  if (!opened) return;
  if (!kept().length) fill(prepared(opened));
  choose([...kept(), opened.picture]);
}

/** Adds files, or pictures of the server's gallery, all or none where they are too many. */
export const addReferences = (pictures) => inTurn(async () => {
  if (pictures.length + kept().length > most()) {
    return tell(model.max_reference_images ? `This model takes at most ${most()} reference pictures.`
      : "This model takes one picture, to begin with.");
  }
  for (const picture of pictures) await add(picture);
});

/** @returns the fields of a job that speak of pictures: none where there are none. @throws {Error} with `param` */
export const references = () => chosen.length ? { image: chosen, ...beginning() } : {};

/** Puts the pictures of a job in place of those chosen. */
export function useReferences(settings) {
  const { image = [], mask } = sentFields({ image: settings.image, mask: settings.mask }) ?? {};
  choose(image.slice(0, most()));
  if (image.length) useBeginning({ strength: settings.strength, mask });
}

/** @returns whether the model takes pictures. */
export const takesPictures = () => Boolean(model && most());

/** @param limits the model's @param toast shows the visitor a message */
export function startReferences(limits, toast) {
  model = limits;
  tell = toast;
  $("references-title").textContent = model.max_reference_images ? "Reference pictures" : "Picture to begin with";
  $("add-reference").textContent = model.max_reference_images ? "Add pictures" : "Choose a picture";
  $("reference-file").multiple = most() > 1;
  startBeginning(model, addressOf, tell);
}
