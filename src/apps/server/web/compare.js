// Owns the comparison of a picture with the one that it was made from: one over the other, parted by a handle.
import { $ } from "./form.js";

const kStep = 2, kLargeStep = 10;  // per cent of the width

const pair = $("compare-pair"), handle = $("compare-handle");
let at = 50;         // per cent of the width that show the picture before
let pointer = null;  // id of the one that drags the handle

function move(percent) {
  at = Math.min(100, Math.max(0, percent));
  pair.style.setProperty("--at", `${at}%`);
  handle.setAttribute("aria-valuenow", Math.round(at));
  handle.setAttribute("aria-valuetext", `${Math.round(at)} % before, ${Math.round(100 - at)} % after`);
}

const moveTo = (event) => {
  const box = pair.getBoundingClientRect();
  move((event.clientX - box.left) / box.width * 100);
};

export const isComparing = () => !$("compare").hidden;

export function endCompare() {
  $("compare").hidden = true;
  for (const button of document.querySelectorAll("#viewer [aria-pressed]")) button.setAttribute("aria-pressed", "false");
}

/** Shows the pictures at two addresses in the viewer, in the shape of the one after. */
export function compare(before, after, { width, height }) {
  pair.style.setProperty("--ratio", width / height);
  $("compare-before").src = before;
  $("compare-after").src = after;
  $("compare").hidden = false;
  move(50);
  handle.focus();
}

export function startCompare() {
  pair.onpointerdown = (event) => {
    if (event.button !== 0) return;
    pointer = event.pointerId;
    pair.setPointerCapture(pointer);
    moveTo(event);
    handle.focus();
  };
  // Browsers may drop the capture while the button is down, and then tell of no release elsewhere.
  pair.onpointermove = (event) => event.pointerId === pointer && event.buttons && moveTo(event);
  pair.onpointerup = pair.onpointercancel = () => (pointer = null);
  handle.onkeydown = (event) => {
    const places = {
      ArrowLeft: at - kStep, ArrowDown: at - kStep, ArrowRight: at + kStep, ArrowUp: at + kStep,
      PageDown: at - kLargeStep, PageUp: at + kLargeStep, Home: 0, End: 100,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    event.stopPropagation();  // the viewer's arrows go to other pictures
    move(places[event.key]);
  };
}
