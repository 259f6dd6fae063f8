// Owns the page's state: the jobs it knows, what it hears about them, and what the visitor's actions do.
import { ApiError, follow, hasKey, request, setKey, submit } from "./api.js";
import { control, followPicture, startControl, takesControl, useControl } from "./control.js";
import { $, applyModel, element, fill, markField, randomSeed, rerollSeed, seedIsLocked, settings, startForm } from "./form.js";
import { isLive, showJobs, showProgress, startGallery } from "./gallery.js";
import { loras, startLoras, useLoras } from "./loras.js";
import { checkPictures, inTurn, madeFrom, remember, sentFields, startPictures } from "./pictures.js";
import { pictureSettings, pngTexts } from "./png.js";
import { addReferences, references, startReferences, takesPictures, useReferences } from "./references.js";

const kPageSize = 50;
const kBusyPollMs = 4000;
const kIdlePollMs = 20000;
const kOfflinePollMs = 2000;
const kToastMs = 6000;
/** By its element what takes the pictures that are dropped there. */
const kZones = { references: addReferences, control: followPicture };
const kIdeas = ["A lion on a beach at sunset", "Three apples on a wooden table", "A night sky over the city"];

let jobs = [];      // newest first
let hasMore = false;
let changes = 0;    // of the list by this page: an answer that set out before one is out of date
let model = null;
let stream = null;  // {id, abort}: the one job that is followed; browsers allow six connections a server
let pollTimer = 0;

const drawing = () => jobs.find((job) => job.status === "running");
const nextLive = () => drawing() ?? jobs.filter(isLive).at(-1);

/** Shows a message in its place; without one there is none. */
function say(id, message = "") {
  $(id).textContent = message;
  $(id).hidden = !message;
}

function toast(message) {
  say("toast", message);
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => say("toast"), kToastMs);
}

function showFormError(error) {
  say("form-error", error?.message);
  markField(error?.param);
}

/** Says what went wrong; an answer that wants a key asks for one. */
function report(error) {
  if (error.status === 401) askForKey();
  else if (error.status === 0) say("banner", error.message);
  else toast(error.message);
  if (!(error instanceof ApiError)) console.error(error);
}

const count = new Intl.NumberFormat(), short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });

function size(bytes) {
  const power = Math.min(4, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  return `${short.format(bytes / 1024 ** power)} ${["bytes", "KB", "MB", "GB", "TB"][power]}`;
}

/** Says how much is kept and what is forgotten. @returns what the visitor must know, or an empty text. */
function showStorage({ pictures, bytes, free_bytes: free, keep: { pictures: most, bytes: room, days }, writable, reason }) {
  const facts = [`${count.format(pictures)} picture${pictures === 1 ? "" : "s"}, ${size(bytes)}`];
  if (free !== null) facts.push(`${size(free)} free`);
  const limits = [most && `${count.format(most)} pictures`, room && size(room), days && `${count.format(days)} days`].filter(Boolean);
  if (limits.length) facts.push(`the oldest are deleted beyond ${limits.join(" or ")}`);
  say("storage", facts.join(" · "));
  return writable ? "" : `Nothing can be stored now: ${reason}. Deleting pictures makes space.`;
}

function askForKey() {
  if ($("key").open) return;
  if (hasKey()) $("key-note").textContent = "The server does not accept this key.";
  $("key-value").value = "";
  $("key").showModal();
}

function setState(state, text) {
  $("model").dataset.state = state;
  $("model").textContent = text;
}

function render() {
  showJobs(jobs);
  $("empty").hidden = jobs.length > 0 || !model;
  $("more").hidden = !hasMore;
  $("cancel").hidden = !nextLive();
  showTitle();
}

function showTitle() {
  const job = drawing(), progress = job?.progress;
  document.title = job ? `${progress?.stage === "denoise" ? `${progress.step}/${progress.steps}` : "…"} · nostos` : "nostos";
}

/** Puts in what is new about a job. */
function update(job) {
  const index = jobs.findIndex((known) => known.id === job.id);
  if (index >= 0) jobs[index] = job;
  else jobs = [job, ...jobs].sort((a, b) => b.created_at - a.created_at);
  ++changes;
  render();
  followNext();
}

const announce = (text) => ($("status").textContent = text);

function hear(job, name, data) {
  if (name === "done") {
    update(data);
    announce({ completed: "Picture finished", failed: `Failed: ${data.error?.message}`, cancelled: "Cancelled" }[data.status]);
    return;
  }
  if (name === "queued") Object.assign(job, { status: "queued", position: data.position });
  if (name === "started") {
    update({ ...job, status: "running", position: null, started_at: data.started_at });
    announce("Drawing");
    return;
  }
  if (name === "stage") job.progress = { ...job.progress, stage: data.stage };
  if (name === "step") job.progress = { ...data, stage: "denoise" };
  if (name === "preview") job.preview = data.image;
  showProgress(job);
  showTitle();
}

/** Listens to the job that is drawn, or else to the next one; the others are polled. */
async function followNext() {
  const job = nextLive();
  if (stream && stream.id === job?.id) return;
  stream?.abort.abort();
  stream = job ? { id: job.id, abort: new AbortController() } : null;
  if (!stream) return;
  const mine = stream;
  try {
    await follow(job.id, mine.abort.signal, (name, data) => {
      const known = jobs.find((other) => other.id === mine.id);
      if (known && stream === mine) hear(known, name, data);
    });
  } catch (error) {
    if (mine.abort.signal.aborted) return;
    if (error.status === 401) report(error);
  }
  // Ended by `done`, or broken off.
  if (stream === mine) {
    stream = null;
    schedulePoll(kOfflinePollMs / 2);
  }
}

/** Puts the newest jobs in place of those known; older ones, loaded by hand, stay. */
function takeNewest(page) {
  const oldest = page.data.at(-1);
  const older = oldest && page.has_more ? jobs.filter((job) => job.created_at < oldest.created_at) : [];
  const known = new Map(jobs.map((job) => [job.id, job]));
  // What the stream said is newer than the list.
  const merged = page.data.map((job) => stream?.id === job.id && isLive(job) ? known.get(job.id) ?? job : job);
  jobs = [...merged, ...older];
  if (!older.length) hasMore = page.has_more;
}

async function poll() {
  clearTimeout(pollTimer);
  let wait = kOfflinePollMs;
  try {
    if (!model) {
      const { data: [{ id, nostos }] } = await request("v1/models");
      model = { id, ...nostos };
      applyModel(model);
      for (const begin of [startPictures, startReferences, startControl]) begin(model, toast);
      startLoras();
    }
    const before = changes;
    const page = await request(`v1/jobs?limit=${kPageSize}`);
    if (before === changes) takeNewest(page);
    const place = [model.device, model.precision, model.ranks > 1 ? `${model.ranks} ranks` : ""].filter(Boolean).join(" · ");
    setState("ready", `${model.id} · ${place}`);
    say("banner", showStorage(await request("v1/storage")));
    render();
    followNext();
    wait = jobs.some(isLive) ? kBusyPollMs : kIdlePollMs;
  } catch (error) {
    if (error.status === 503) setState("waiting", error.code === "stopping" ? "Stopping" : "Loading the model");
    else if (error.status === 401) setState("waiting", "Waiting for a key");
    else setState("offline", "Offline");
    if (error.status === 0) {
      say("banner", "The server does not answer. Trying again …");
      // A stream over a dead line may never end by itself.
      stream?.abort.abort();
      stream = null;
    } else if (error.status !== 503) report(error);
    if (error.status === 401) return;
  }
  schedulePoll(wait);
}

function schedulePoll(ms) {
  clearTimeout(pollTimer);
  pollTimer = setTimeout(poll, ms);
}

async function draw(values) {
  showFormError();
  try {
    const job = await submit(values);
    remember(job, values);
    update(job);
    announce("Queued");
    document.querySelector(".hero").scrollIntoView({ block: "nearest" });
    schedulePoll(kBusyPollMs);
  } catch (error) {
    if (error.status === 401) report(error);
    else showFormError(error);
  }
}

async function generate() {
  if ($("generate").disabled) return;
  if (!seedIsLocked()) rerollSeed();
  $("generate").disabled = true;
  try {
    await inTurn(() => {});  // pictures that are still being read
    const values = { ...references(), ...control(), ...loras(), ...settings() };
    checkPictures(values);
    await draw(values);
  } catch (error) {
    showFormError(error);
  }
  $("generate").disabled = false;
}

const cancel = (job) => request(`v1/jobs/${job.id}`, { method: "DELETE" }).then(update).catch(report);

async function remove(job) {
  const count = job.images.length;
  if (count > 0 && !confirm(count === 1 ? "Delete this picture?" : `Delete this job and its ${count} pictures?`)) return;
  try {
    await request(`v1/jobs/${job.id}?forget=true`, { method: "DELETE" });
    jobs = jobs.filter((other) => other.id !== job.id);
    ++changes;
    render();
  } catch (error) {
    report(error);
  }
}

function useSettings(values, lock = true) {
  $("viewer").close();
  fill(values, lock);
  if (values.image) {
    useReferences(values);
    useControl(values);
  }
  if (values.loras) useLoras(values.loras);
  $("prompt").scrollIntoView({ block: "center" });
  $("prompt").focus();
}

function drawAgain(values) {
  $("viewer").close();
  const pictures = sentFields(values);
  if (!pictures) return;
  // Of what a job was not told its request says null.
  const told = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));
  draw({ ...told, ...pictures, seed: randomSeed() });
}

/** Takes a picture of the gallery as the next job's. */
async function takeAs(zone, image) {
  $("viewer").close();
  await kZones[zone]([image]);
  $(zone).scrollIntoView({ block: "center" });
  $("prompt").focus({ preventScroll: true });
}

/** Takes the settings that a picture carries. @param otherwise is given the error where it has none */
async function readPicture(file, otherwise = (error) => toast(`${file.name}: ${error.message}`)) {
  try {
    const values = pictureSettings(await pngTexts(await file.arrayBuffer()));
    toast(`Settings read from ${file.name}`);
    useSettings(values);
  } catch (error) {
    otherwise(error);
  }
}

async function loadOlder() {
  $("more").disabled = true;
  try {
    const page = await request(`v1/jobs?limit=${kPageSize}&before=${jobs.at(-1).id}`);
    jobs.push(...page.data.filter((job) => !jobs.some((known) => known.id === job.id)));
    hasMore = page.has_more;
    ++changes;
    render();
  } catch (error) {
    report(error);
  }
  $("more").disabled = false;
}

/** Takes files as pictures to draw from, a single one that has settings for these, unless they are meant for a zone. */
function takeFiles(files, zone) {
  if (zone) kZones[zone](files);
  else if (files.length > 1 && takesPictures()) addReferences(files);
  else readPicture(files[0], takesPictures() ? () => addReferences(files) : undefined);
}

const zoneOf = (event) => Object.keys(kZones).find((id) => event.composedPath().includes($(id)));

function startFiles() {
  window.ondragover = window.ondragleave = window.ondrop = (event) => {
    const { type, dataTransfer, relatedTarget } = event;
    // Without a related target, the window is left.
    if (relatedTarget || type !== "dragleave" && !dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    const files = [...dataTransfer.files], isOver = type === "dragover", zone = zoneOf(event);
    for (const id of Object.keys(kZones)) $(id).classList.toggle("over", isOver && id === zone);
    $("drop").hidden = !isOver || Boolean(zone);
    if (type === "drop" && files.length) takeFiles(files, zone);
  };
  document.onpaste = (event) => {
    const { files: [...files], types } = event.clipboardData;
    // Of a text that comes with its picture a field takes the text.
    if (event.target.matches("textarea, input") && types.includes("text/plain")) return;
    if (!files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    takeFiles(files, zoneOf(event));
  };
  for (const [button, input, take] of [
    [$("open-file"), $("file"), ([file]) => readPicture(file)], [$("add-reference"), $("reference-file"), addReferences],
    [$("add-control"), $("control-file"), followPicture],
  ]) {
    button.onclick = () => input.click();
    input.onchange = () => {
      take([...input.files]);
      input.value = "";
    };
  }
}

function start() {
  for (const icon of document.querySelectorAll("svg:not([role])")) icon.ariaHidden = "true";
  startForm();
  startGallery({ drawAgain, useSettings, takesPictures, takesControl, takeAs, madeFrom, remove, cancel, report });
  startFiles();
  $("form").onsubmit = (event) => {
    event.preventDefault();
    generate();
  };
  $("form").addEventListener("input", () => showFormError());
  $("cancel").onclick = () => cancel(nextLive());
  $("more").onclick = loadOlder;
  $("key").onclose = () => {
    const value = $("key-value").value.trim();
    if (!value) return;
    setKey(value);
    poll();
  };
  window.onkeydown = (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      generate();
    } else if (event.key === "Escape" && nextLive()) {
      cancel(nextLive());
    }
  };
  document.onvisibilitychange = () => document.hidden || poll();
  $("ideas").append(...kIdeas.map((idea) =>
    element("button", { textContent: idea, onclick: () => useSettings({ prompt: idea }, false) })));
  poll();
}

start();
