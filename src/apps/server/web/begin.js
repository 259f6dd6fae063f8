// Owns how a drawing begins with the first picture: whether it does, how much of it is drawn anew, and where.
import { $, fill, number, refuse } from "./form.js";
import { paint, startPainter } from "./painter.js";

const kLeastStrength = 0.05;

let model = null;       // its limits, once it is known
let tell = null;        // shows the visitor a message
let first = null;       // the picture, as it will be sent
let isAlone = true;     // whether there is no other one
let mask = "";          // a data URL, or nothing
let isChosen = false;   // whether the visitor chose the strength, which otherwise is the model's

/** @returns whether the drawing begins with the first picture, which a model without references always does. */
export const begins = () =>
  Boolean(first && model.image_to_image) && (!model.max_reference_images || $("begin-with").checked);

function show() {
  $("begin").hidden = !first || !model.image_to_image;
  $("begin-choice").hidden = !model.max_reference_images;
  $("look-at").nextSibling.textContent = isAlone ? "Look at this picture" : "Look at these pictures";
  $("begin-with").nextSibling.textContent = isAlone ? "Begin with this picture" : "Begin with the first picture";
  $("begin-settings").hidden = !begins();
  $("mask-image").hidden = $("take-mask").hidden = $("mask-edge").hidden = !mask;
  if (mask) $("mask-image").src = mask;
  $("form").dispatchEvent(new Event("masked"));
  $("paint-mask").textContent = mask ? "Change the mask" : "Paint a mask";
  showSteps();
}

/** Says how many steps the strength leaves, as the engine counts them. */
function showSteps() {
  const steps = Number($("steps").value), strength = Number($("strength").value);
  const drawn = steps - Math.trunc(Math.max(steps - Math.min(steps * strength, steps), 0));
  const what = mask ? "what is painted is drawn anew, the rest stays" : "the more, the less is left of the picture";
  $("strength-note").textContent = `${drawn} of ${steps} steps: ${what}`;
}

function setMask(url) {
  mask = url;
  if (!isChosen && model) fill({ strength: mask ? 1 : model.default_strength });
  show();
}

/** Takes note of which picture is the first, if any, which has no mask at first. */
export function setFirst([picture = null, ...others]) {
  isAlone = !others.length;
  if (picture === first) return show();
  first = picture;
  isChosen = false;
  setMask("");
}

/** Takes over what a job says of its beginning. */
export function useBeginning({ strength, mask: url = "" }) {
  const isBegun = strength != null || Boolean(url);
  $("begin-with").checked = isBegun;
  $("look-at").checked = !isBegun;
  isChosen = strength != null;
  if (isChosen) fill({ strength });
  setMask(url);
}

/** @returns the fields of a job that say so: none where the model looks at its pictures. @throws {Error} with `param` */
export function beginning() {
  if (!begins()) return {};
  const strength = number("strength", "The strength");
  if (!(strength >= kLeastStrength && strength <= 1))
    refuse("strength", `The strength must be from ${kLeastStrength} to 1.`);
  return { strength, image_fit: "crop", ...mask && { mask, mask_blur: number("mask_blur", "The soft edge") } };
}

/** @param addressOf makes of a picture what <img> can show @param toast shows the visitor a message */
export function startBeginning(limits, addressOf, toast) {
  model = limits;
  tell = toast;
  startPainter();
  for (const choice of ["begin-with", "look-at"]) $(choice).onchange = show;
  for (const field of [$("strength"), $("strength-range")]) field.addEventListener("input", () => (isChosen = true));
  $("form").addEventListener("refreshed", showSteps);
  $("take-mask").onclick = () => {
    setMask("");
    $("paint-mask").focus();
  };
  $("paint-mask").onclick = async () => {
    const picture = first;
    try {
      const painted = await paint(await addressOf(picture), mask);
      if (painted !== null && picture === first) setMask(painted);
    } catch {
      tell("This picture cannot be shown here, and no mask painted over it.");
    }
  };
}
