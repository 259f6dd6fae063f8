// Owns what the next job follows by the control network, a picture or a mask alone: what of it, how closely, and in which steps.
import { $, fill, number, refuse } from "./form.js";
import { hasOthers, hold, inTurn, open, prepared, sentFields, thumbnail } from "./pictures.js";

const kMostScale = 10;
const kSettings = ["preprocessor", "scale", "start", "end"];

let model = null;   // its limits, once it is known
let tell = null;    // shows the visitor a message
let chosen = null;  // the picture, as it will be sent

/** @returns whether a mask may be all that the network is told of: it reads masks, there is one, and there is no picture. */
const mayTellMask = () => Boolean(model?.control_sees_mask) && !chosen && !$("mask-image").hidden;
const tellsMask = () => mayTellMask() && $("control-mask").checked;

function show() {
  $("control-mask-choice").hidden = !mayTellMask();
  $("control-settings").hidden = !chosen && !tellsMask();
  $("control-what").hidden = !chosen;
}

function choose(picture) {
  chosen = picture;
  hold("control", picture ? [picture] : []);
  $("control-list").replaceChildren(...picture ? [thumbnail(picture, "Control image", () => choose(null))] : []);
  show();
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

/** @returns the field `control` of a job: none where nothing is followed. @throws {Error} with `param` */
export function control() {
  if (!chosen && !tellsMask()) return {};
  const [scale, start, end] = [["scale", "The scale"], ["start", "The start"], ["end", "The end"]]
    .map(([name, label]) => number(`control.${name}`, `${label} of the control`));
  if (!(scale >= 0 && scale <= kMostScale)) refuse("control.scale", `The scale of the control must be from 0 to ${kMostScale}.`);
  if (!(start >= 0 && start < end && end <= 1))
    refuse("control.start", "The control must start before it ends, both from 0 to 1.");
  return { control: { ...chosen && { image: chosen, preprocessor: $("control-preprocessor").value }, scale, start, end } };
}

/** Takes over what a job says of its control, after its mask. */
export function useControl({ control: used }) {
  if (used && !takesControl()) tell("This server has no control network: what is drawn follows no picture.");
  $("control-mask").checked = Boolean(used && !used.image);
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
  $("form").addEventListener("masked", show);
  $("control-mask").onchange = show;
  show();
}
