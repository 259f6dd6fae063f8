// Owns the reference pictures of the next job: chosen or dropped, shown, and taken away again.
import { $, element, fill } from "./form.js";

const kMaxBytes = 47 << 20;     // of all files: in base64 they leave 1 MB of a job's 64 for the rest
const kMaxSentBytes = 1 << 28;  // of what is kept to be sent again
const kFormats = /^[^,]*,(iVBORw0KGgo|\/9j\/|UklGR)/;  // how PNG, JPEG and WebP begin in base64

let model = null;        // its limits, once it is known
let tell = null;         // shows the visitor a message
let chosen = [];         // files as data URLs
let adding = Promise.resolve();  // files are read one after another, in the order in which they came
const sent = new Map();  // data URLs by SHA-256: what this tab has sent, the last one last

/** @returns the file as a data URL: an empty text where it cannot be read. */
const readAsUrl = (file) => new Promise((resolve) => {
  const reader = new FileReader();
  reader.onloadend = () => resolve(reader.result ?? "");
  reader.readAsDataURL(file);
});

/** @returns the sides that the model sees of a picture. */
function prepared({ width, height }) {
  const scale = Math.min(1, Math.sqrt(model.reference_pixels / (width * height)));
  const side = (pixels) => Math.floor(Math.trunc(pixels * scale) / model.size_multiple) * model.size_multiple;
  return { width: side(width), height: side(height) };
}

function choose(pictures) {
  chosen = pictures;
  $("reference-list").replaceChildren(...chosen.map((src, i) => element("button", {
    type: "button", title: "Take this picture away", onclick: () => choose(chosen.filter((_, other) => other !== i)),
  }, element("img", { src, alt: `Reference picture ${i + 1}` }))));
  $("add-reference").disabled = chosen.length >= model.max_reference_images;
  $("references").dispatchEvent(new Event("input", { bubbles: true }));
}

/** Adds a file, unless the server would refuse it. The first of all gives its size to the form. */
async function add(file) {
  if (chosen.reduce((bytes, { length }) => bytes + length * 0.75, file.size) > kMaxBytes)
    return tell(`${file.name} is too large: the reference pictures have at most ${kMaxBytes >> 20} MB together.`);
  const text = await readAsUrl(file);
  const bitmap = kFormats.test(text) && await createImageBitmap(file).catch(() => null);
  if (!bitmap) return tell(`${file.name} is no PNG, JPEG or WebP picture that can be read.`);
  const { width, height } = bitmap, shorter = Math.min(width, height), longer = Math.max(width, height);
  bitmap.close();
  if (shorter < 64 || longer > Math.min(8 * shorter, 16384) || width * height > 1 << 26)
    return tell(`${file.name} is ${width} × ${height} pixels: it must have 64 to 16,384 a side, at most 8 to 1, and 67 million in all.`);
  if (!chosen.length) fill(prepared({ width, height }));
  choose([...chosen, text]);
}

/** Adds files, all or none where they are too many. */
export function addReferences(files) {
  adding = adding.then(async () => {
    if (chosen.length + files.length > model.max_reference_images)
      return tell(`This model takes at most ${model.max_reference_images} reference pictures.`);
    for (const file of files) await add(file);
  });
}

/** @returns the field `image` of a job: nothing where there are no references. */
export async function references() {
  await adding;
  return chosen.length ? { image: chosen } : {};
}

/** Keeps what was sent for a job by the hashes that the server has of it, the newest up to kMaxSentBytes. */
export function remember(job, image) {
  job.request.image.forEach(({ sha256 }, i) => {
    sent.delete(sha256);
    sent.set(sha256, image[i]);
  });
  let bytes = 0;
  for (const [sha256, text] of [...sent].reverse()) if ((bytes += text.length) > kMaxSentBytes) sent.delete(sha256);
}

/** @returns the pictures that a job was sent with; nothing, and says so, where this tab has not got them. */
export function sentWith({ image = [] }) {
  const pictures = image.map(({ sha256 }) => sent.get(sha256));
  if (!pictures.includes(undefined)) return pictures;
  tell("This tab has not got the reference pictures of this job: add them again.");
}

/** Puts the pictures of a job in place of those chosen. */
export const useReferences = (settings) => choose(sentWith(settings) ?? []);

/** @param limits the model's @param toast shows the visitor a message */
export function startReferences(limits, toast) {
  model = limits;
  tell = toast;
}
