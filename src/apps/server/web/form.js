// Owns the form: its fields, size presets, the seed, what it remembers, and the shard plan of the chosen size.
import { exactSeed, kMaxSeed } from "./json.js";
import { drawPlan, makePlan } from "./plan.js";

const kMultiple = 16;
const kRememberName = "nostos.form";
const kAspects = [[9, 16], [3, 4], [1, 1], [4, 3], [16, 9]];
const kLongSides = [256, 512, 768, 1024, 1280];
const kMaxRanks = 8;

export const $ = (id) => document.getElementById(id);

/** @returns an element with properties, attributes for names with a dash, and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const fields = {
  prompt: $("prompt"), negative_prompt: $("negative"), width: $("width"), height: $("height"),
  num_inference_steps: $("steps"), guidance_scale: $("guidance"), seed: $("seed"), n: $("count"),
  strength: $("strength"), mask_blur: $("mask-blur"), "control.preprocessor": $("control-preprocessor"),
  "control.scale": $("control-scale"), "control.start": $("control-start"), "control.end": $("control-end"),
};
const ranges = {
  num_inference_steps: $("steps-range"), guidance_scale: $("guidance-range"), n: $("count-range"),
  strength: $("strength-range"), mask_blur: $("mask-blur-range"), "control.scale": $("control-scale-range"),
  "control.start": $("control-start-range"), "control.end": $("control-end-range"),
};
const kFirstValues = {
  n: 1, mask_blur: 0, "control.preprocessor": "none", "control.scale": 0.75, "control.start": 0, "control.end": 1,
};

let tokenMultiple = 0;  // the model's, once it is known

const snap = (pixels) => Math.max(kMultiple, Math.round(pixels / kMultiple) * kMultiple);

/** @returns {number} a seed that is short enough to read out. */
export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export const seedIsLocked = () => $("lock").getAttribute("aria-pressed") === "true";

function lockSeed(locked) {
  $("lock").setAttribute("aria-pressed", String(locked));
  $("lock").querySelector("use").setAttribute("href", locked ? "#i-locked" : "#i-open");
}

const size = () => [Number(fields.width.value), Number(fields.height.value)];

function showPlan() {
  const [width, height] = size();
  if (!$("plan").open || !tokenMultiple || !(width >= 1 && height >= 1)) return;
  const ranks = Number($("ranks").value), kind = $("plan-kind").value;
  const plan = makePlan(width, height, ranks, tokenMultiple);
  drawPlan($("plan-drawing"), $("plan-shares"), plan, kind);
  const most = (counts) => Math.max(...counts).toLocaleString("en");
  $("plan-summary").textContent = kind === "token"
    ? `${plan.rows} × ${plan.columns} tokens and ${plan.pads} pads in one sequence, ` +
      `at most ${most(plan.ranges.map(([begin, end]) => end - begin))} a rank`
    : `Cut along the ${plan.axis}, at most ${most(plan.sizes)} of ${plan.axis === "height" ? plan.rows : plan.columns} a rank; ` +
      `${most([plan.cost])} padding tokens in all`;
}

/** Brings everything that follows from the fields up to date. */
function refresh() {
  for (const [name, range] of Object.entries(ranges)) range.value = fields[name].value;
  $("negative-note").hidden = Number(fields.guidance_scale.value) > 0;
  const [width, height] = size();
  for (const radio of document.querySelectorAll("#aspects input")) {
    const [across, down] = radio.value.split(":");
    radio.checked = width * down === height * across;
  }
  $("long-side").value = Math.max(width, height);
  if ($("long-side").selectedIndex < 0) $("long-side").value = "";
  for (const area of document.querySelectorAll("form textarea")) {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  }
  showPlan();
  const texts = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
  localStorage.setItem(kRememberName, JSON.stringify({ ...texts, locked: seedIsLocked() }));
  $("form").dispatchEvent(new Event("refreshed"));
}

/** Refuses a job for one of its fields. @throws {Error} with `param` */
export function refuse(param, message) {
  throw Object.assign(new Error(message), { param });
}

/** @throws {Error} with `param` where a field holds no number. */
export function number(name, label) {
  const text = fields[name].value.trim();
  if (text !== "" && Number.isFinite(Number(text))) return Number(text);
  refuse(name, `${label} must be a number.`);
}

/** @returns the body of POST /v1/jobs. @throws {Error} with `param` where a field would be refused anyway. */
export function settings() {
  const seed = fields.seed.value.trim();
  if (!/^\d+$/.test(seed) || BigInt(seed) > kMaxSeed) refuse("seed", `The seed must be a whole number from 0 to ${kMaxSeed}.`);
  return {
    prompt: fields.prompt.value.trim(),
    width: number("width", "The width"),
    height: number("height", "The height"),
    num_inference_steps: number("num_inference_steps", "Steps"),
    // A model without guidance has neither field.
    ...!fields.negative_prompt.hidden && {
      negative_prompt: fields.negative_prompt.value.trim(), guidance_scale: number("guidance_scale", "Guidance"),
    },
    seed: exactSeed(seed),
    n: number("n", "Pictures"),
  };
}

/** Fills in what `values` says, leaves the rest as it is. */
export function fill(values, lock = false) {
  for (const [name, field] of Object.entries(fields)) {
    field.value = values[name] ?? field.value;
  }
  if (lock) lockSeed(true);
  refresh();
}

export const rerollSeed = () => fill({ seed: randomSeed() });

/** Marks the field of this name, which was refused, and no other. */
export function markField(name) {
  for (const field of Object.values(fields)) field.removeAttribute("aria-invalid");
  fields[name]?.setAttribute("aria-invalid", "true");
  fields[name]?.focus();
}

/** Takes limits and, where nothing is remembered, defaults from the model's entry in GET /v1/models. */
export function applyModel(model) {
  for (const name of ["width", "height"]) fields[name].max = model.max_side;
  for (const field of [fields.n, ranges.n]) field.max = model.max_n;
  for (const option of [...$("long-side").options]) if (Number(option.value) > model.max_side) option.remove();
  $("ranks").value = Math.min(model.ranks, kMaxRanks);
  tokenMultiple = model.token_multiple;
  for (const part of document.querySelectorAll(".guided, .edits"))
    part.hidden = part.matches(".guided") ? model.has_guidance === false : !model.max_reference_images && !model.image_to_image;
  fill(Object.fromEntries(Object.keys(fields).filter((name) => !fields[name].value).map((name) => [name, model[`default_${name}`]])));
}

/** Makes the size of this shape as long as the chosen longer side. */
function chooseAspect(across, down) {
  const longer = Number($("long-side").value) || snap(Math.max(...size()));
  const scale = longer / Math.max(across, down);
  fill({ width: snap(across * scale), height: snap(down * scale) });
}

function makePresets() {
  for (const [across, down] of kAspects) {
    const value = `${across}:${down}`;
    $("aspects").append(element("label", {},
      element("input", { type: "radio", name: "aspect", value, onchange: () => chooseAspect(across, down) }),
      element("i", { style: `aspect-ratio: ${across} / ${down}; ${across > down ? "width" : "height"}: 1.75rem` }), value));
  }
  $("long-side").append(...kLongSides.map((side) => new Option(`${side} px`, side)));
  $("ranks").append(...Array.from({ length: kMaxRanks }, (_, i) => new Option(i + 1, i + 1)));
}

/** Wires the fields up and brings back what was in them. */
export function startForm() {
  makePresets();
  const remembered = JSON.parse(localStorage.getItem(kRememberName) ?? "{}");
  lockSeed(remembered.locked === true);
  fill({ seed: randomSeed(), ...kFirstValues, ...remembered });

  $("long-side").onchange = () => chooseAspect(...size());
  $("swap").onclick = () => {
    const [height, width] = size();
    fill({ width, height });
  };
  for (const name of ["width", "height"]) fields[name].onchange = () => fill({ [name]: snap(Number(fields[name].value)) });
  for (const [name, range] of Object.entries(ranges)) range.oninput = () => fill({ [name]: range.value });
  $("reroll").onclick = rerollSeed;
  $("lock").onclick = () => {
    lockSeed(!seedIsLocked());
    refresh();
  };
  $("ranks").onchange = $("plan-kind").onchange = $("plan").ontoggle = showPlan;
  $("form").addEventListener("input", refresh);
}
