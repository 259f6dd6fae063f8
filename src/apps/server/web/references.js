// Owns the reference pictures of the next job: chosen or dropped, shown, and taken away again.
import { $, fill } from "./form.js";

let model = null;        // its limits, once it is known
let chosen = [];         // {text, url}: a file as a data URL, and one to show it by
const sent = new Map();  // data URLs by SHA-256: what this tab has sent, so that it can be sent again

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

function show() {
  $("reference-list").replaceChildren(...chosen.map((reference, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button", title: "Take this picture away" });
    button.append(Object.assign(new Image(), { src: reference.url, alt: `Reference picture ${i + 1}` }));
    button.onclick = () => {
      URL.revokeObjectURL(reference.url);
      chosen = chosen.filter((other) => other !== reference);
      show();
    };
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
    chosen.push({ text: await readAsUrl(file), url: URL.createObjectURL(file) });
    show();
  }
}

/** @returns the field `image` of a job: nothing where there are no references. */
export const references = () => (chosen.length ? { image: chosen.map(({ text }) => text) } : {});

/** Keeps what was sent for a job by the hashes that the server has of it. */
export const remember = (job, image = []) => job.request.image?.forEach(({ sha256 }, i) => sha256 && sent.set(sha256, image[i]));

/** @returns the settings of a job with the pictures that it was sent with. @throws {Error} where this tab has not sent them */
export function withReferences(settings) {
  const image = (settings.image ?? []).map(({ sha256 }) => sent.get(sha256));
  if (image.includes(undefined)) throw new Error("This tab has not got the reference pictures of this job: add them again.");
  return { ...settings, image: image.length ? image : undefined };
}

/** Shows the zone for them, if the model takes any. @param report is given what goes wrong */
export function startReferences(limits, report) {
  model = limits;
  $("references").hidden = !model.max_reference_images;
  if ($("references").hidden) return;
  show();
  $("add-reference").onclick = () => $("reference-file").click();
  $("reference-file").onchange = async () => {
    await add([...$("reference-file").files]).catch(report);
    $("reference-file").value = "";
  };
  // What is dropped elsewhere is read for its settings.
  $("references").ondrop = (event) => {
    event.preventDefault();
    event.stopPropagation();
    $("drop").hidden = true;
    add([...event.dataTransfer.files]).catch(report);
  };
}
