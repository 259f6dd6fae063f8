// Owns the picture that the next job follows by the control network: which, what of it, how closely, and in which steps.
import { $, fill, number, refuse } from "./form.js";
import { hasOthers, hold, inTurn, open, prepared, sentFields, thumbnail } from "./pictures.js";

const kMostScale = 10;
const kSettings = ["preprocessor", "scale", "start", "end"];

let model = null;   // its limits, once it is known
let tell = null;    // shows the visitor a message
let chosen = null;  // the picture, as it will be sent

function choose(picture) {
  chosen = picture;
  hold("control", picture ? [picture] : []);
  $("control-list").replaceChildren(...picture ? [thumbnail(picture, "Control image", () => choose(null))] : []);
  $("control-settings").hidden = !picture;
  $("control").dispatchEvent(new Event("input", { bubbles: true }));
}

/** Takes a file, or a picture of the server's gallery, in place of the one before. Alone it gives its size to the form. */
export const followPicture = (pictures) => inTurn(async () => {
  if (pictures.length > 1) return tell("A drawing follows one control image.");
  const opened = await open(pictures[0], "control", []);
  if (!opened) return;
  if (!hasOthers("control")) fill(prepared(opened));
  choose(opened.picture);
});

/** @returns the field `control` of a job: none where no picture is followed. @throws {Error} with `param` */
export function control() {
  if (!chosen) return {};
  const [scale, start, end] = [["scale", "The scale"], ["start", "The start"], ["end", "The end"]]
    .map(([name, label]) => number(`control.${name}`, `${label} of the control`));
  if (!(scale >= 0 && scale <= kMostScale)) refuse("control.scale", `The scale of the control must be from 0 to ${kMostScale}.`);
  if (!(start >= 0 && start < end && end <= 1))
    refuse("control.start", "The control must start before it ends, both from 0 to 1.");
  return { control: { image: chosen, scale, start, end, preprocessor: $("control-preprocessor").value } };
}

/** Takes over what a job says of its control image. */
export function useControl({ control: used }) {
  if (used && !takesControl()) tell("This server has no control network: what is drawn follows no picture.");
  choose(used && takesControl() && sentFields({ control: used })?.control.image || null);
  if (used) fill(Object.fromEntries(kSettings.map((name) => [`control.${name}`, used[name]])));
}

/** @returns whether the server has a control network. */
export const takesControl = () => Boolean(model?.control);

/** @param limits the model's @param toast shows the visitor a message */
export function startControl(limits, toast) {
  model = limits;
  tell = toast;
  $("control").hidden = !takesControl();
}
