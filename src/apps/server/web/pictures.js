// Owns pictures on their way into jobs: how they are read and refused, those held for the next job, and what this tab has sent.
import { imageUrl } from "./api.js";
import { element } from "./form.js";

const kMaxBytes = 47 << 20;     // of all files: in base64 they leave 1 MB of a job's 64 for the rest
const kMaxBodyBytes = 63 << 20;  // of all files in base64, masks too
const kMaxSentBytes = 1 << 28;  // of what is kept to be sent again
const kFormats = /^[^,]*,(iVBORw0KGgo|\/9j\/|UklGR)/;  // how PNG, JPEG and WebP begin in base64

let model = null;        // its limits, once it is known
let tell = null;         // shows the visitor a message
let adding = Promise.resolve();  // files are read one after another, in the order in which they came
const held = new Map();  // by what they are for the pictures of the next job, each a data URL or the id of one of the server's
const sent = new Map();  // by SHA-256 what this tab has sent, the last one last

/** @returns what <img> can show of a picture, or a promise of it. */
export const addressOf = (picture) => picture.startsWith("data:") ? picture : imageUrl({ url: `/v1/images/${picture}` });

/** @returns a button with a picture on it, which takes the picture away. */
export function thumbnail(picture, alt, onclick) {
  const img = element("img", { alt });
  Promise.resolve(addressOf(picture)).then((src) => (img.src = src), () => {});
  return element("button", { type: "button", title: "Take this picture away", onclick }, img);
}

/** @returns the file as a data URL: an empty text where it cannot be read. */
const readAsUrl = (file) => new Promise((resolve) => {
  const reader = new FileReader();
  reader.onloadend = () => resolve(reader.result ?? "");
  reader.readAsDataURL(file);
});

/** @returns the sides that a drawing has after a picture. */
export function prepared({ width, height }) {
  const scale = Math.min(1, Math.sqrt(model.reference_pixels / (width * height))), multiple = model.size_multiple;
  const side = (pixels) => Math.max(multiple, Math.floor(Math.trunc(pixels * scale) / multiple) * multiple);
  return { width: side(width), height: side(height) };
}

/** @returns whether anything but `purpose` has pictures. */
export const hasOthers = (purpose) => [...held].some(([other, pictures]) => other !== purpose && pictures.length);

/** Keeps the pictures of the next job that are for one purpose in place of those before. */
export const hold = (purpose, pictures) => held.set(purpose, pictures);

/** Does this once everything before it is done. */
export const inTurn = (work) => (adding = adding.then(work));

async function read(file, purpose, kept) {
  const others = [...held].flatMap(([other, pictures]) => other === purpose ? kept : pictures);
  if (others.reduce((bytes, { length }) => bytes + length * 0.75, file.size) > kMaxBytes)
    return tell(`${file.name} is too large: all pictures of a drawing have at most ${kMaxBytes >> 20} MB together.`);
  const picture = await readAsUrl(file);
  const bitmap = kFormats.test(picture) && await createImageBitmap(file).catch(() => null);
  if (!bitmap) return tell(`${file.name} is no PNG, JPEG or WebP picture that can be read.`);
  const { width, height } = bitmap;
  bitmap.close();
  return { name: file.name, picture, width, height };
}

/**
 * @param source a file, or a picture of the server's gallery @param kept the pictures of that purpose that it joins
 * @returns {picture, width, height}, or nothing, and says so, where the server would refuse it
 */
export async function open(source, purpose, kept, leastSide = 1, longest = Infinity) {
  const opened = source instanceof File ? await read(source, purpose, kept) : { ...source, name: "This picture", picture: source.id };
  if (!opened) return null;
  const { name, width, height } = opened, shorter = Math.min(width, height), longer = Math.max(width, height);
  if (shorter >= leastSide && longer <= Math.min(longest * shorter, 16384) && width * height <= 1 << 26) return opened;
  const most = longest < Infinity ? `, at most ${longest} to 1,` : "";
  tell(`${name} is ${width} × ${height} pixels: it must have ${leastSide} to 16,384 a side${most} and at most 67 million in all.`);
  return null;
}

/** @returns the pictures of a job, or what the server says of them. */
const partsOf = ({ image, mask, control }) => [...image ?? [], mask, control?.image].filter(Boolean);

/** @throws {Error} where the pictures of a job are too large together */
export function checkPictures(fields) {
  if (partsOf(fields).join("").length > kMaxBodyBytes) throw new Error("The pictures and the mask are too large together.");
}

/** Keeps what was sent for a job by the hashes that the server has of it, the newest up to kMaxSentBytes. */
export function remember(job, fields) {
  const texts = partsOf(fields);
  partsOf(job.request).forEach(({ sha256 }, i) => {
    sent.delete(sha256);
    sent.set(sha256, texts[i]);
  });
  let bytes = 0;
  for (const [sha256, text] of [...sent].reverse()) if ((bytes += text.length) > kMaxSentBytes) sent.delete(sha256);
}

/** @returns the fields with which a job says its pictures again; nothing, and says so, where this tab has not got them. */
export function sentFields(request) {
  if (partsOf(request).some(({ sha256 }) => !sent.has(sha256)))
    return tell("This tab has not got the pictures of this job: add them again.");
  const again = ({ sha256 }) => sent.get(sha256), { image, mask, control } = request;
  return {
    ...image && { image: image.map(again) }, ...mask && { mask: again(mask) },
    ...control && { control: { ...control, image: control.image && again(control.image) } },
  };
}

/** @returns an address of the picture that a job was made from, or a promise of it; nothing where this tab has not got it. */
export function madeFrom({ image }) {
  const picture = sent.get(image?.[0]?.sha256);
  return picture && addressOf(picture);
}

/** @param limits the model's @param toast shows the visitor a message */
export function startPictures(limits, toast) {
  model = limits;
  tell = toast;
}
