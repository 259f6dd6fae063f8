// Owns the dialog in which a mask is painted over a picture: by mouse, touch and pen, or by keys alone.
import { $ } from "./form.js";
import { drawMask, drawStroke, isPainted, kShown, maskFile } from "./strokes.js";

const kLeastSize = 4;       // pixels of the picture
const kSizeFactor = 1.25;   // of one press of [ or ]
const kPenEraser = 32;      // its bit of PointerEvent.buttons

const dialog = $("painter"), canvas = $("painter-mask"), image = $("painter-image"), brush = $("painter-brush");
const context = canvas.getContext("2d", { willReadFrequently: true });
let mask = null;     // {base, strokes, width, height}, while the dialog is open
let stroke = null;   // the one that is being painted
let pointer = null;  // id of the pointer that paints it; null: the keys do
let at = [0, 0];     // the brush, in the picture's pixels
let finish = null;   // given what becomes of the mask

const say = (text) => ($("painter-said").textContent = text);
const erases = () => $("painter-erase").getAttribute("aria-pressed") === "true";
const size = () => Number($("painter-size").value);

function chooseTool(isEraser) {
  lift();
  $("painter-paint").setAttribute("aria-pressed", !isEraser);
  $("painter-erase").setAttribute("aria-pressed", isEraser);
}

function moveBrush(point) {
  at = point;
  const percent = (value, whole) => `${100 * value / whole}%`;
  Object.assign(brush.style, { left: percent(at[0], mask.width), top: percent(at[1], mask.height), width: percent(size(), mask.width) });
}

function setSize(pixels) {
  $("painter-size").value = Math.round(pixels);
  $("painter-size").setAttribute("aria-valuetext", `${size()} pixels`);
  moveBrush(at);
}

/** Draws the mask at the size in which it is shown. */
function redraw() {
  const { width } = canvas.getBoundingClientRect();
  if (!mask || !width) return;
  canvas.width = Math.max(1, Math.min(mask.width, Math.round(width * devicePixelRatio)));
  canvas.height = Math.max(1, Math.round(canvas.width * mask.height / mask.width));
  drawMask(context, mask, kShown);
  $("painter-undo").disabled = !mask.strokes.length;
}

function begin(isEraser) {
  stroke = { erases: isEraser, size: size(), points: [at] };
  mask.strokes.push(stroke);
  drawStroke(context, stroke, kShown);
  $("painter-undo").disabled = false;
}

function extend(points) {
  const from = stroke.points.push(...points) - points.length;
  drawStroke(context, stroke, kShown, from);
}

function lift() {
  stroke = pointer = null;
  brush.classList.remove("down");
}

function undo() {
  lift();
  if (!mask.strokes.pop()) return;
  redraw();
  say("Undone");
}

function clear() {
  lift();
  mask.strokes.push({ clears: true });
  redraw();
  say("Cleared");
}

function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * mask.width, (event.clientY - box.top) / box.height * mask.height];
}

function startPointer() {
  canvas.onpointerdown = (event) => {
    const isPenEraser = Boolean(event.buttons & kPenEraser);
    if (pointer !== null || event.button !== 0 && !isPenEraser) return;
    lift();
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    moveBrush(pointOf(event));
    begin(erases() || isPenEraser);
  };
  canvas.onpointermove = (event) => {
    if (pointer === null ? stroke : event.pointerId !== pointer) return;
    if (!event.buttons) lift();  // it was released where the canvas was not told
    moveBrush(pointOf(event));
    const parts = event.getCoalescedEvents?.() ?? [];  // a browser tells of several moves at once
    if (stroke) extend((parts.length ? parts : [event]).map(pointOf));
  };
  canvas.onpointerup = canvas.onpointercancel = (event) => event.pointerId === pointer && lift();
}

/** Moves the brush by keys: a quarter of its size, with Shift all of it. */
function stepBrush([across, down], isFar) {
  const by = Math.max(1, size() / (isFar ? 1 : 4));
  const within = (value, most) => Math.min(most, Math.max(0, value));
  moveBrush([within(at[0] + across * by, mask.width), within(at[1] + down * by, mask.height)]);
  if (stroke) extend([at]);
}

const kArrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function putDownOrLift() {
  const isDown = !stroke;
  if (isDown) begin(erases());
  else lift();
  brush.classList.toggle("down", isDown);
  say(isDown ? "Brush down" : "Brush up");
}

/** @returns what a key does, if anything. */
function deedOf(event) {
  const key = event.key.toLowerCase(), isOnCanvas = event.target === canvas;
  if (event.ctrlKey || event.metaKey) {
    if (key === "enter") return done;
    if (key === "z" && !event.shiftKey) return undo;
  }
  if (key === "[" || key === "]") return () => setSize(key === "[" ? size() / kSizeFactor : size() * kSizeFactor);
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  if (key === "b" || key === "e") return () => chooseTool(key === "e");
  if (!isOnCanvas) return null;
  if (key === " ") return () => event.repeat || putDownOrLift();
  return kArrows[event.key] && (() => stepBrush(kArrows[event.key], event.shiftKey));
}

function close(result) {
  lift();
  finish?.(result);
  finish = mask = null;
  dialog.close();
}

function done() {
  lift();
  const file = isPainted(context) ? maskFile(mask) : "";
  if (file === null) say(`This browser cannot make a mask of ${mask.width} × ${mask.height} pixels.`);
  else close(file);
}

function leave() {
  if (!mask.strokes.length || confirm("Leave without what you have painted?")) close(null);
}

async function load(src) {
  const loaded = new Image();
  loaded.src = src;
  await loaded.decode();
  return loaded;
}

/**
 * Has the visitor paint over the picture at the address `src`, on top of a mask's data URL, if there is one.
 * @returns the mask as a data URL, "" where nothing is painted, null where it stays as it was.
 * @throws {Error} where the picture cannot be read
 */
export async function paint(src, base = "") {
  const [{ naturalWidth: width, naturalHeight: height }, below] = await Promise.all([load(src), base ? load(base) : null]);
  if (finish) return null;
  mask = { base: below, strokes: [], width, height };
  image.src = src;
  $("painter-sheet").style.setProperty("--ratio", width / height);
  const shorter = Math.min(width, height);
  Object.assign($("painter-size"), { min: kLeastSize, max: shorter });
  chooseTool(false);
  at = [width / 2, height / 2];
  setSize(shorter / 8);
  say("");
  dialog.showModal();
  redraw();
  canvas.focus();
  return new Promise((resolve) => (finish = resolve));
}

export function startPainter() {
  startPointer();
  new ResizeObserver(redraw).observe(canvas);
  $("painter-paint").onclick = () => chooseTool(false);
  $("painter-erase").onclick = () => chooseTool(true);
  $("painter-size").oninput = () => setSize(size());
  $("painter-undo").onclick = undo;
  $("painter-clear").onclick = clear;
  $("painter-done").onclick = done;
  $("painter-cancel").onclick = leave;
  dialog.oncancel = (event) => {
    event.preventDefault();
    leave();
  };
  dialog.onclose = () => finish && close(null);  // a browser may insist on closing
  dialog.onkeydown = (event) => {
    const deed = deedOf(event);
    if (!deed) return;
    event.preventDefault();
    event.stopPropagation();  // with the dialog closed, the page would take the key for its own
    deed();
  };
}
