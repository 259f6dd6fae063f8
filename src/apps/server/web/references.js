// Owns the reference pictures of the next job: chosen or dropped, shown, and taken away again.
import { $, fill } from "./form.js";

const kMaxSentBytes = 1 << 28;  // of what is kept to be sent again

let model = null;        // its limits, once it is known
let chosen = [];         // files as data URLs
let adding = Promise.resolve();  // files are taken one after another, in the order in which they came
const sent = new Map();  // data URLs by SHA-256: what this tab has sent, the last one last

const readAsUrl = (file) => new Promise((resolve, reject) => {
  const reader = Object.assign(new FileReader(), { onload: () => resolve(reader.result), onerror: () => reject(reader.error) });
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
  $("reference-list").replaceChildren(...chosen.map((src, i) => {
    const onclick = () => choose(chosen.filter((_, other) => other !== i));
    const button = Object.assign(document.createElement("button"), { type: "button", title: "Take this picture away", onclick });
    button.append(Object.assign(new Image(), { src, alt: `Reference picture ${i + 1}` }));
    return button;
  }));
  $("add-reference").disabled = chosen.length >= model.max_reference_images;
}

/** Adds files, the first of all giving its size to the form. @throws {Error} naming a file that cannot be used */
async function add(files) {
  for (const file of files) {
    if (chosen.length >= model.max_reference_images)
      throw new Error(`This model takes at most ${model.max_reference_images} reference pictures.`);
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw new Error(`${file.name} is no picture that can be read.`);
    }
    if (!chosen.length) fill(prepared(bitmap));
    bitmap.close();
    choose([...chosen, await readAsUrl(file)]);
  }
}

/** @returns the field `image` of a job: nothing where there are no references. */
export async function references() {
  await adding;
  return chosen.length ? { image: chosen } : {};
}

/** Keeps what was sent for a job by the hashes that the server has of it, the newest up to kMaxSentBytes. */
export function remember(job, image = []) {
  job.request.image?.forEach(({ sha256 }, i) => {
    sent.delete(sha256);
    if (image[i]) sent.set(sha256, image[i]);
  });
  let bytes = 0;
  for (const [sha256, text] of [...sent].reverse()) if ((bytes += text.length) > kMaxSentBytes) sent.delete(sha256);
}

/** @returns the settings of a job with the pictures that it was sent with. @throws {Error} where this tab has not sent them */
export function withReferences(settings) {
  const image = (settings.image ?? []).map(({ sha256 }) => sent.get(sha256));
  if (image.includes(undefined)) throw new Error("This tab has not got the reference pictures of this job: add them again.");
  return { ...settings, image: image.length ? image : undefined };
}

/** Puts the pictures of a job, if it tells of any, in place of those chosen. @throws {Error} as withReferences() */
export function useReferences(settings) {
  if (!settings.image) return;
  choose([]);
  choose(withReferences(settings).image ?? []);
}

/** Shows the zone for them, if the model takes any. @param report is given what goes wrong */
export function startReferences(limits, report) {
  model = limits;
  $("references").hidden = !model.max_reference_images;
  if ($("references").hidden) return;
  choose(chosen);
  const take = (files) => (adding = adding.then(() => add(files)).catch(report));
  $("add-reference").onclick = () => $("reference-file").click();
  $("reference-file").onchange = () => {
    take([...$("reference-file").files]);
    $("reference-file").value = "";
  };
  // What is dropped elsewhere is read for its settings.
  $("references").ondrop = (event) => {
    event.preventDefault();
    event.stopPropagation();
    $("drop").hidden = true;
    take([...event.dataTransfer.files]);
  };
}
