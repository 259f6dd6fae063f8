// Owns the reading of a picture's settings from the text chunks of a PNG.
import { parseJson } from "./json.js";

const kSignature = [137, 80, 78, 71, 13, 10, 26, 10];
const kMaxTextBytes = 1 << 20;

const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);
const utf8 = (bytes) => new TextDecoder().decode(bytes);

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const parts = [];
  let length = 0;
  for (let reader = stream.getReader(), part; !(part = await reader.read()).done;) {
    if ((length += part.value.length) > kMaxTextBytes) throw new Error("a text in the PNG is larger than 1 MB");
    parts.push(part.value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Cuts `bytes` at the first zero. */
function cut(bytes) {
  const end = bytes.indexOf(0);
  if (end < 0) throw new Error("a text chunk of the PNG is damaged");
  return [bytes.subarray(0, end), bytes.subarray(end + 1)];
}

async function readText(kind, body) {
  const [keyword, rest] = cut(body);
  let text;
  if (kind === "tEXt") {
    text = latin1(rest);
  } else if (kind === "zTXt") {
    text = latin1(await inflate(rest.subarray(1)));
  } else {
    const compressed = rest[0] === 1;
    const [, afterLanguage] = cut(rest.subarray(2));
    const [, value] = cut(afterLanguage);
    text = utf8(compressed ? await inflate(value) : value);
  }
  return [latin1(keyword), text];
}

/**
 * @param {ArrayBuffer} buffer a PNG file
 * @returns {Promise<Object<string, string>>} its texts by keyword
 * @throws {Error} if it is no PNG or damaged
 */
export async function pngTexts(buffer) {
  const bytes = new Uint8Array(buffer), view = new DataView(buffer);
  if (!kSignature.every((value, i) => bytes[i] === value)) throw new Error("this is no PNG file");
  const texts = {};
  for (let offset = 8; ;) {
    const start = offset + 8, end = start + (start <= bytes.length ? view.getUint32(offset) : 0);
    if (end + 4 > bytes.length) throw new Error("the PNG file is cut off");
    const kind = latin1(bytes.subarray(offset + 4, start));
    if (kind === "IEND") return texts;
    if (["tEXt", "zTXt", "iTXt"].includes(kind)) {
      const [keyword, text] = await readText(kind, bytes.subarray(start, end));
      texts[keyword] = text;
    }
    offset = end + 4;
  }
}

/**
 * @returns {string | undefined} Z-Image's guidance, one less than the usual scale of classifier-free guidance. nostos writes
 * it down itself; its first versions wrote it in the place of the other.
 */
function guidance(field) {
  const scale = field("CFG scale"), own = field("Guidance scale");
  if (own !== undefined || scale === undefined) return own;
  if (field("Version")?.startsWith("nostos ")) return scale;
  return String(Math.max(0, Math.round((Number(scale) - 1) * 1e9) / 1e9));
}

/** Reads what WebUI tools write: prompt, negative prompt, and a last line of settings. */
function parseWebui(text) {
  const lines = text.split("\n");
  const last = lines.findLastIndex((line) => /^Steps: \d+/.test(line));
  const line = last < 0 ? "" : lines[last];
  const [prompt, negative = ""] = (last < 0 ? lines : lines.slice(0, last)).join("\n").split(/^Negative prompt: ?/m);
  // A value with a comma stands in quotes, which may hold what looks like a setting.
  const plain = line.replace(/"(?:\\.|[^\\"])*"/g, '""');
  const field = (name) => plain.match(new RegExp(`(?:^|, )${name}: ([^,]+)`))?.[1];
  const [width, height] = field("Size")?.split("x") ?? [];
  return {
    prompt: prompt.trim(), negative_prompt: negative.trim(), width, height,
    num_inference_steps: field("Steps"), guidance_scale: guidance(field), seed: field("Seed"),
  };
}

/**
 * @param {Object<string, string>} texts of a PNG
 * @returns settings of the form, each undefined where the picture does not say
 * @throws {Error} if the picture holds none
 */
export function pictureSettings(texts) {
  if (texts.nostos) {
    const record = parseJson(texts.nostos);
    return Object.fromEntries(["prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "seed"]
      .map((name) => [name, record[name]]));
  }
  if (texts.parameters) return parseWebui(texts.parameters);
  throw new Error("this picture does not say how it was drawn");
}
