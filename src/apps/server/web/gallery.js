// Owns what is drawn and being drawn: a card each, the first one large, and the full-screen viewer.
import { forgetImage, imageUrl } from "./api.js";
import { compare, endCompare, isComparing, startCompare } from "./compare.js";
import { $, element } from "./form.js";

const kNoiseSide = 64;  // squares along one side of the noise that stands for a picture not drawn yet

const kStages = { load: "Loading the model", text: "Reading the prompt", encode: "Reading the pictures", decode: "Decoding" };

const viewer = $("viewer"), cards = new Map();
let handlers = {};
let pictures = [];  // {job, image}, in the order of the page

/** Runs the rest once the card comes near the window. */
const nearWindow = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    nearWindow.unobserve(entry.target);
    loadImage(entry.target.querySelector("img"), entry.target.image);
  }
}, { rootMargin: "600px" });

async function loadImage(img, image) {
  img.onload = () => img.classList.add("loaded");
  img.onerror = () => img.closest(".frame, figure").classList.add("broken");
  try {
    img.src = await imageUrl(image);
  } catch {
    img.onerror();
  }
}

const line = (className, textContent, title = "") => element("p", { className, textContent, title });
const words = (job) => job.request.prompt || "No prompt";

function action(icon, label, onclick, title = label) {
  const button = element("button", { type: "button", title, onclick });
  button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><use href="#i-${icon}"/></svg><span>${label}</span>`;
  return button;
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** @returns the settings that decide a picture, in a line. */
function facts(job, image) {
  const { width, height, num_inference_steps: steps, guidance_scale: guidance, seed, loras = [], strength, control } = { ...job.request, ...image };
  const used = loras.map(({ name, scale }) => `${name} ${scale} · `).join("");
  const begun = (strength == null ? "" : `strength ${strength} · `) + (control ? `control ${control.scale} · ` : "");
  return `${width} × ${height} · ${steps} steps · guidance ${guidance} · ${begun}${used}seed ${seed}`;
}

function duration(ms) {
  const s = Math.round(ms / 1000);
  return s < 10 ? `${(ms / 1000).toFixed(1)} s` : s < 60 ? `${s} s` : `${Math.floor(s / 60)} min ${s % 60} s`;
}

/** The settings to draw this picture again: one picture, with the seed that it had. */
const settingsOf = (job, image) => ({ ...job.request, seed: image?.seed ?? job.request.seed, n: 1 });

async function download(image) {
  element("a", { href: await imageUrl(image), download: `nostos-${image.seed}.${image.format}` }).click();
}

/** Opens the viewer, if it is not open, and shows there a picture and what it was made from; or ends that. */
async function toggleCompare(job, image) {
  if (isComparing()) return endCompare();
  if (!viewer.open) openViewer(image.id);
  try {
    compare(...await Promise.all([handlers.madeFrom(job.request), imageUrl(image)]), image);
    viewer.querySelector("[aria-pressed]").setAttribute("aria-pressed", "true");
  } catch (error) {
    handlers.report(error);
  }
}

function compareAction(job, image) {
  const button = action("compare", "Compare", () => toggleCompare(job, image), "Compare before and after");
  button.setAttribute("aria-pressed", "false");
  return button;
}

function actions(job, image) {
  const list = [
    action("again", "Draw again", () => handlers.drawAgain(settingsOf(job, image)), "The same settings, a new seed"),
    action("use", "Use these settings", () => handlers.useSettings(settingsOf(job, image))),
  ];
  if (image && handlers.takesPictures()) list.push(action("input", "Use as input", () => handlers.takeAs("references", image)));
  if (image && handlers.takesControl()) list.push(action("control", "Use as control", () => handlers.takeAs("control", image)));
  if (image && handlers.madeFrom(job.request)) list.push(compareAction(job, image));
  if (image) list.push(action("save", "Download", () => download(image).catch(handlers.report)));
  list.push(action("delete", "Delete", () => handlers.remove(job)));
  return list;
}

function noise(seed) {
  const canvas = element("canvas", { width: kNoiseSide, height: kNoiseSide, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), picture = context.createImageData(kNoiseSide, kNoiseSide);
  const words = new Uint32Array(picture.data.buffer);
  let state = Number(BigInt(seed) % 0xffffffffn) + 1;
  for (let i = 0; i < words.length; ++i) {
    state ^= state << 13, state ^= state >>> 17, state ^= state << 5;
    words[i] = state | 0xff000000;
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

function liveCard(card, job) {
  const bar = element("div", { className: "bar", role: "progressbar", "aria-label": "Steps", "aria-valuemin": 0 }, element("i"));
  card.replaceChildren(
    element("div", { className: "frame" }, noise(job.request.seed), element("img", { className: "preview", alt: "", hidden: true })),
    element("div", { className: "about" },
      line("prompt", job.request.prompt), line("facts", facts(job)), line("state"), bar,
      element("div", { className: "actions" }, action("close", "Cancel", () => handlers.cancel(job)))));
}

function pictureCard(card, job, image) {
  const text = words(job);
  const frame = element("button", { className: "frame", type: "button", "aria-label": `Open: ${text}`, onclick: () => openViewer(image.id) },
    element("img", { alt: text, decoding: "async", width: image.width, height: image.height }));
  card.image = image;
  card.replaceChildren(frame, element("div", { className: "about" },
    line("prompt", text, text), line("facts", facts(job, image)), line("when", when(job)),
    element("div", { className: "actions" }, ...actions(job, image))));
  nearWindow.observe(card);
}

function endedCard(card, job) {
  const failed = job.status === "failed";
  const reason = failed ? `Failed: ${job.error?.message ?? "the server gave no reason"}` : "Cancelled";
  card.replaceChildren(element("div", { className: "about" },
    line("prompt", words(job)), line(failed ? "error" : "facts", reason),
    element("div", { className: "actions" }, ...actions(job))));
}

function when(job) {
  const taken = job.timings ? ` · drawn in ${duration(job.timings.total_ms)}` : "";
  return clock.format(new Date(job.finished_at * 1000)) + taken;
}

/** @returns {boolean} whether the job waits or is drawn. */
export const isLive = (job) => job.status === "queued" || job.status === "running";

/** @returns in words how far a job is. */
function progressText(job) {
  if (job.status === "queued") {
    return job.position > 0 ? `Waiting: ${job.position} job${job.position === 1 ? "" : "s"} before it` : "Waiting for its turn";
  }
  const progress = job.progress, stage = kStages[progress?.stage ?? "text"];
  if (stage) return stage;
  const left = progress.eta_s == null ? "" : ` · ${duration(progress.eta_s * 1000)} left`;
  const places = progress.places;
  const drawnBy = places ? ` · rank${places.length === 1 ? "" : "s"} ${places.join(", ")}` : "";
  return `Step ${progress.step} of ${progress.steps}${left}${drawnBy}`;
}

/** Shows how far a live job is. */
export function showProgress(job) {
  const card = cards.get(`${job.id}/0`);
  const bar = card?.querySelector(".bar");
  if (!bar) return;
  const { step = 0, steps = job.request.num_inference_steps } = job.progress ?? {};
  card.style.setProperty("--done", step / steps);
  bar.setAttribute("aria-valuemax", steps);
  bar.setAttribute("aria-valuenow", step);
  bar.setAttribute("aria-valuetext", progressText(job));
  card.querySelector(".state").textContent = progressText(job);
  const preview = card.querySelector(".preview");
  preview.hidden = !job.preview;
  if (job.preview) preview.src = job.preview;
}

/** Running jobs first, then waiting ones in their order, then what has ended, newest first. */
function inOrder(jobs) {
  const place = (job) => job.status === "running" ? -1 : job.status === "queued" ? job.position ?? 0 : Infinity;
  const live = jobs.filter(isLive).sort((a, b) => place(a) - place(b) || a.created_at - b.created_at);
  return [...live, ...jobs.filter((job) => !isLive(job))];
}

/** Brings the cards up to date with `jobs` (newest first), keeping those that have not changed. */
export function showJobs(jobs) {
  const items = inOrder(jobs).flatMap((job) =>
    job.images.length ? job.images.map((image, i) => ({ job, image, key: `${job.id}/${i}` })) : [{ job, key: `${job.id}/0` }]);
  pictures = items.filter((item) => item.image);

  const gallery = $("gallery"), kept = new Set(items.map((item) => item.key));
  for (const [key, card] of cards) {
    if (kept.has(key)) continue;
    nearWindow.unobserve(card);
    if (card.image) forgetImage(card.image);
    card.remove();
    cards.delete(key);
  }
  const large = items.findIndex(({ job, image }) => image || isLive(job));
  items.forEach(({ job, image, key }, place) => {
    let card = cards.get(key);
    if (!card) cards.set(key, card = element("article"));
    const kind = image ? "picture" : isLive(job) ? "live" : "ended";
    if (!card.classList.contains(kind)) {
      card.className = kind;
      const { width, height } = image ?? job.request;
      card.style.setProperty("--ratio", width / height);
      if (image) pictureCard(card, job, image);
      else if (kind === "live") liveCard(card, job);
      else endedCard(card, job);
    }
    card.classList.toggle("hero", place === large);
    if (gallery.children[place] !== card) gallery.insertBefore(card, gallery.children[place] ?? null);
    if (kind === "live") showProgress(job);
  });
  if (viewer.open) showInViewer(viewer.dataset.image);
}

const indexOf = (id) => pictures.findIndex((item) => item.image.id === id);

function showInViewer(id) {
  const index = indexOf(id);
  if (index < 0) return viewer.close();
  const { job, image } = pictures[index];
  $("viewer-previous").disabled = index === 0;
  $("viewer-next").disabled = index === pictures.length - 1;
  if (viewer.dataset.image === id && viewer.open) return;
  endCompare();
  viewer.dataset.image = id;
  const img = $("viewer-image");
  img.classList.remove("loaded");
  img.closest("figure").classList.remove("broken");
  Object.assign(img, { alt: words(job), width: image.width, height: image.height });
  loadImage(img, image);
  $("viewer-prompt").textContent = job.request.prompt;
  const negative = job.request.negative_prompt ? ` · without: ${job.request.negative_prompt}` : "";
  $("viewer-facts").textContent = `${facts(job, image)}${negative} · ${when(job)}`;
  $("viewer-actions").replaceChildren(...actions(job, image));
}

function openViewer(id) {
  showInViewer(id);
  viewer.showModal();
}

function stepViewer(by) {
  const next = pictures[indexOf(viewer.dataset.image) + by];
  if (next) showInViewer(next.image.id);
}

/**
 * @param callbacks drawAgain(settings), useSettings(settings), takesPictures(), takesControl(), takeAs("references" or
 * "control", image), madeFrom(request): an address, if it is known, remove(job), cancel(job), report(error)
 */
export function startGallery(callbacks) {
  handlers = callbacks;
  startCompare();
  $("viewer-close").onclick = () => viewer.close();
  $("viewer-previous").onclick = () => stepViewer(-1);
  $("viewer-next").onclick = () => stepViewer(1);
  viewer.onclick = (event) => {
    if (event.target === viewer || event.target.tagName === "FIGURE") viewer.close();
  };
  viewer.onclose = () => {
    endCompare();
    // Closed by what goes on in the form, the viewer leaves the focus there.
    if (!$("form").contains(document.activeElement))
      [...cards.values()].find((card) => card.image?.id === viewer.dataset.image)?.querySelector(".frame").focus();
    delete viewer.dataset.image;
  };
  viewer.onkeydown = (event) => {
    if (event.key === "ArrowLeft") stepViewer(-1);
    if (event.key === "ArrowRight") stepViewer(1);
  };
}
