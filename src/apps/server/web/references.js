// Owns the pictures that the next job is made from: chosen, dropped, pasted or drawn here before, shown, and taken away again.
import { imageUrl } from "./api.js";
import { beginning, setFirst, startBeginning, useBeginning } from "./begin.js";
import { $, element, fill } from "./form.js";

const kMaxBytes = 47 << 20;     // of all files: in base64 they leave 1 MB of a job's 64 for the rest
const kMaxBodyBytes = 63 << 20;  // of all files in base64, masks too
const kMaxSentBytes = 1 << 28;  // of what is kept to be sent again
const kFormats = /^[^,]*,(iVBORw0KGgo|\/9j\/|UklGR)/;  // how PNG, JPEG and WebP begin in base64

let model = null;        // its limits, once it is known
let tell = null;         // shows the visitor a message
let chosen = [];         // files as data URLs, or ids of pictures that the server has
let adding = Promise.resolve();  // files are read one after another, in the order in which they came
const sent = new Map();  // by SHA-256 what this tab has sent, pictures and masks, the last one last

/** Of a model without references the one picture that a drawing may begin with. */
const most = () => model.max_reference_images || (model.image_to_image ? 1 : 0);

/** @returns what <img> can show of a picture, or a promise of it. */
const addressOf = (picture) => picture.startsWith("data:") ? picture : imageUrl({ url: `/v1/images/${picture}` });

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

function thumbnail(picture, i) {
  const img = element("img", { alt: model.max_reference_images ? `Reference picture ${i + 1}` : "Picture to begin with" });
  Promise.resolve(addressOf(picture)).then((src) => (img.src = src), () => {});
  return element("button", {
    type: "button", title: "Take this picture away", onclick: () => choose(chosen.filter((_, other) => other !== i)),
  }, img);
}

function choose(pictures) {
  chosen = pictures;
  $("reference-list").replaceChildren(...chosen.map(thumbnail));
  // A single picture makes room for another one.
  $("add-reference").disabled = most() > 1 && chosen.length >= most();
  setFirst(chosen);
  $("references").dispatchEvent(new Event("input", { bubbles: true }));
}

/** Adds a picture, unless the server would refuse it. The first of all gives its size to the form. */
function take(name, picture, { width, height }) {
  const shorter = Math.min(width, height), longer = Math.max(width, height);
  if (shorter < 64 || longer > Math.min(8 * shorter, 16384) || width * height > 1 << 26)
    return tell(`${name} is ${width} × ${height} pixels: it must have 64 to 16,384 a side, at most 8 to 1, and 67 million in all.`);
  const kept = most() === 1 ? [] : chosen;
  if (!kept.length) fill(prepared({ width, height }));
  choose([...kept, picture]);
}

async function add(file) {
  const kept = most() === 1 ? [] : chosen;
  if (kept.reduce((bytes, { length }) => bytes + length * 0.75, file.size) > kMaxBytes)
    return tell(`${file.name} is too large: the reference pictures have at most ${kMaxBytes >> 20} MB together.`);
  const text = await readAsUrl(file);
  const bitmap = kFormats.test(text) && await createImageBitmap(file).catch(() => null);
  if (!bitmap) return tell(`${file.name} is no PNG, JPEG or WebP picture that can be read.`);
  const { width, height } = bitmap;
  bitmap.close();
  take(file.name, text, { width, height });
}

/** Adds files, or pictures of the server's gallery, all or none where they are too many. */
export function addReferences(pictures) {
  adding = adding.then(async () => {
    if (pictures.length + (most() === 1 ? 0 : chosen.length) > most()) {
      return tell(model.max_reference_images ? `This model takes at most ${most()} reference pictures.`
        : "This model takes one picture, to begin with.");
    }
    for (const picture of pictures) {
      if (picture instanceof File) await add(picture);
      else take("This picture", picture.id, picture);
    }
  });
  return adding;
}

/** @returns the fields of a job that speak of pictures: none where there are none. @throws {Error} with `param` */
export async function references() {
  await adding;
  if (!chosen.length) return {};
  const fields = { image: chosen, ...beginning() };
  if ([...chosen, fields.mask ?? ""].join("").length > kMaxBodyBytes)
    throw new Error("The pictures and the mask are too large together.");
  return fields;
}

/** @returns what the server says of a job's pictures, the mask last. */
const partsOf = ({ image, mask }) => [...image ?? [], ...mask ? [mask] : []];

/** Keeps what was sent for a job by the hashes that the server has of it, the newest up to kMaxSentBytes. */
export function remember(job, image, mask) {
  partsOf(job.request).forEach(({ sha256 }, i) => {
    sent.delete(sha256);
    sent.set(sha256, image?.[i] ?? mask);
  });
  let bytes = 0;
  for (const [sha256, text] of [...sent].reverse()) if ((bytes += text.length) > kMaxSentBytes) sent.delete(sha256);
}

/** @returns the pictures that a job was sent with, its mask last; nothing, and says so, where this tab has not got them. */
export function sentWith(request) {
  const pictures = partsOf(request).map(({ sha256 }) => sent.get(sha256));
  if (!pictures.includes(undefined)) return pictures;
  tell("This tab has not got the reference pictures of this job: add them again.");
}

/** @returns the fields with which a job says its pictures again; nothing, and says so, where this tab has not got them. */
export function sentFields(request) {
  const image = sentWith(request);
  return image && (request.mask ? { image, mask: image.pop() } : { image });
}

/** @returns an address of the picture that a job was made from, or a promise of it; nothing where this tab has not got it. */
export function madeFrom({ image }) {
  const picture = sent.get(image?.[0]?.sha256);
  return picture && addressOf(picture);
}

/** Puts the pictures of a job in place of those chosen. */
export function useReferences(settings) {
  const { image = [], mask } = sentFields(settings) ?? {};
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
